"""The story that ``make demo`` tells. Every chapter asserts what it says; the first that fails ends the story."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from cachepolicy_operator.dev import Follower
from cachepolicy_operator.policyfile import PolicyManifest, read_policies
from cachepolicy_operator.stack import Person, Replica, Stack

LIMIT: Final = "per-user"
PEOPLE: Final = {key: Person("acme", key) for key in ("ann", "bob", "carol")}
QUESTION: Final = {"model": "demo", "messages": [{"role": "user", "content": "What is a sliding window?"}]}
HEALTHY, DEGRADED = "up", "degraded"

Say = Callable[[str], None]


class StoryError(Exception):
    """Something was not as the story tells it."""


@dataclass(frozen=True)
class Reply:
    """An answer of a replica and how long it took."""

    replica: str
    status: int
    headers: httpx.Headers
    body: bytes
    ms: float

    @property
    def cache(self) -> str:
        return str(self.headers.get("cache-status", ""))

    @property
    def hit(self) -> bool:
        return "; hit" in self.cache

    def json(self) -> Any:
        return json.loads(self.body)

    def __str__(self) -> str:
        shown = f"   Cache-Status: {self.cache}" if self.cache else ""
        return f"{self.replica}  {self.status}  {self.ms:6.0f} ms{shown}"


@dataclass
class Scene:
    """What the chapters share."""

    stack: Stack
    http: httpx.AsyncClient
    file: Path
    manifest: PolicyManifest
    say: Say
    cookie: str = ""
    answers: dict[str, Reply] = field(default_factory=dict)

    @property
    def limit(self) -> int:
        return (self.manifest.spec.rate_limits or {})[LIMIT].rates[0].limit

    def replica(self, number: int) -> Replica:
        return self.stack.replicas[number]

    async def request(
        self,
        number: int,
        method: str,
        path: str,
        *,
        who: str | None = "ann",
        body: Mapping[str, Any] | None = None,
        cookie: str = "",
    ) -> Reply:
        replica = self.replica(number)
        headers = {"Authorization": f"Bearer {who}"} if who else {}
        if cookie:
            headers["Cookie"] = cookie
        began = time.perf_counter()
        answer = await self.http.request(method, replica.url + path, headers=headers, json=body)
        return Reply(
            replica.name,
            answer.status_code,
            answer.headers,
            answer.content,
            (time.perf_counter() - began) * 1000,
        )

    async def ask(self, number: int, *, who: str = "ann") -> Reply:
        return await self.request(number, "POST", "/v1/chat/completions", who=who, body=QUESTION)

    async def health(self, number: int) -> Any:
        return (await self.request(number, "GET", "/cache/health", who=None)).json()


def expect(condition: bool, what: str) -> None:
    """Raises :class:`StoryError` with ``what`` unless the condition holds."""
    if not condition:
        raise StoryError(what)


async def until(condition: Callable[[], Awaitable[bool]], seconds: float, what: str) -> float:
    """Look every 50 ms; milliseconds until it held. Raises :class:`StoryError` with ``what`` after ``seconds``."""
    began = time.perf_counter()
    while not await condition():
        if time.perf_counter() - began > seconds:
            raise StoryError(f"{what} within {seconds:g} s")
        await asyncio.sleep(0.05)
    return (time.perf_counter() - began) * 1000


# ------------------------------------------------------------------------------------------------ chapters


async def first_answer(scene: Scene) -> str:
    """A question that nobody asked before goes to the provider"""
    reply = scene.answers["first"] = await scene.ask(0)
    scene.say(str(reply))
    expect(reply.status == 200, f"200 was expected: {reply.body[:200]!r}")
    expect(not reply.hit, "the first answer cannot come from a cache")
    return f"miss, {reply.ms:.0f} ms"


async def answer_from_the_other_replica(scene: Scene) -> str:
    """The same question to the other replica is answered from the shared cache"""
    first, reply = scene.answers["first"], await scene.ask(1)
    scene.say(str(reply))
    expect(reply.status == 200 and reply.hit, "a hit was expected from the other replica")
    expect(reply.json() == first.json(), "both replicas must give the same answer")
    expect(reply.ms * 3 < first.ms, f"a hit must be fast; it took {reply.ms:.0f} of {first.ms:.0f} ms")
    return f"hit, {reply.ms:.0f} ms ({first.ms / reply.ms:.0f} times faster)"


async def streaming(scene: Scene) -> str:
    """A streaming answer passes through as it comes and is never stored"""
    pieces = [await _stream(scene, number) for number in (0, 1)]
    return f"{pieces[0]} and {pieces[1]} pieces, neither stored"


async def _stream(scene: Scene, number: int) -> int:
    replica = scene.replica(number)
    began = time.perf_counter()
    headers = {"Authorization": "Bearer ann"}
    body = {**QUESTION, "stream": True}
    async with scene.http.stream(
        "POST", f"{replica.url}/v1/chat/completions", headers=headers, json=body
    ) as answer:
        expect(answer.status_code == 200, f"200 was expected, not {answer.status_code}")
        expect(answer.headers["content-type"].startswith("text/event-stream"), "an event stream was expected")
        status = answer.headers.get("cache-status", "")
        arrivals = [
            (time.perf_counter() - began) * 1000
            async for line in answer.aiter_lines()
            if line.startswith("data:")
        ]
    scene.say(
        f"{replica.name}  200  first piece after {arrivals[0]:.0f} ms, last after {arrivals[-1]:.0f} ms"
        f"   Cache-Status: {status}"
    )
    expect("; hit" not in status, "a stream must not come from the cache")
    expect(len(arrivals) > 2 and arrivals[-1] > arrivals[0] + 20, "the stream must come piece by piece")
    return len(arrivals)


async def embeddings(scene: Scene) -> str:
    """Embeddings are cached one by one: only what is new goes to the provider"""
    first = await _embed(scene, 0, ["red", "green"])
    second = await _embed(scene, 1, ["green", "blue", "red"])
    vectors = [[item["embedding"] for item in reply.json()["data"]] for reply in (first, second)]
    expect("fwd=partial" in second.cache, "a partial hit was expected")
    expect("2 known, 1 computed" in second.cache, "two texts were known and one was not")
    expect(vectors[1][2] == vectors[0][0], "red must have the same vector in both answers")
    expect(vectors[1][0] == vectors[0][1], "green must have the same vector in both answers")
    third = await _embed(scene, 0, ["blue", "red", "green"])
    expect(third.hit, "everything is known by now")
    return f"2 of 3 known; then all 3 in {third.ms:.0f} ms"


async def _embed(scene: Scene, number: int, texts: list[str]) -> Reply:
    body = {"model": "demo-embedding", "input": texts}
    reply = await scene.request(number, "POST", "/v1/embeddings", body=body)
    scene.say(f"{reply}   for {', '.join(texts)}")
    expect(reply.status == 200, f"200 was expected: {reply.body[:200]!r}")
    return reply


async def session(scene: Scene) -> str:
    """A session outlives the replica that made it"""
    made = await scene.request(0, "PUT", "/v1/session", body={"theme": "dark"})
    expect(made.status in {200, 204}, f"200 was expected: {made.body[:200]!r}")
    scene.cookie = made.headers.get("set-cookie", "").partition(";")[0]
    expect(bool(scene.cookie), "a session cookie was expected")
    scene.say(f"{made.replica}  stored a session; {made.replica} is killed (SIGKILL)")
    await scene.replica(0).kill()
    await _same_session(scene, 1)
    await scene.replica(0).start()
    scene.say(f"{made.replica}  started again")
    await _same_session(scene, 0)
    return "survived kill and restart"


async def _same_session(scene: Scene, number: int) -> None:
    reply = await scene.request(number, "GET", "/v1/session", cookie=scene.cookie)
    scene.say(f"{reply.replica}  {reply.status}  session: {reply.body.decode().strip()}")
    expect(reply.status == 200, f"200 was expected: {reply.body[:200]!r}")
    expect(_holds(reply.json(), "dark"), f"{reply.replica} must know the session")


def _holds(content: Any, value: str) -> bool:
    return value in json.dumps(content)


async def limit(scene: Scene) -> str:
    """One limit over both replicas together"""
    admitted = 0
    for turn in range(scene.limit + 2):
        reply = await scene.ask(turn % 2, who="bob")
        if reply.status == 429:
            break
        expect(reply.status == 200, f"200 or 429 was expected: {reply.status}")
        admitted += 1
    other = await scene.ask((turn + 1) % 2, who="bob")
    scene.say(f"{admitted} requests of bob admitted over both replicas; then, from either one:")
    scene.say(f"{reply.replica}  429 Too Many Requests")
    for name in ("RateLimit-Policy", "RateLimit", "Retry-After"):
        scene.say(f"        {name}: {reply.headers.get(name, '')}")
        expect(name in reply.headers, f"the 429 must have {name}")
    expect(admitted == scene.limit, f"exactly {scene.limit} had to be admitted, not {admitted}")
    expect(other.status == 429, "the other replica must refuse as well")
    ann = await scene.ask(0)
    expect(ann.status == 200, "ann has her own room under the limit")
    return f"{admitted} admitted, then 429 from both"


async def redis_killed(scene: Scene) -> str:
    """Without Redis answers go on, limits are divided and health says so; then it comes back"""
    await _two_processes(scene)
    await scene.stack.backend.kill_servers()
    scene.say("both Redis servers killed (SIGKILL)")
    reply = await scene.ask(1)
    scene.say(str(reply))
    expect(reply.status == 200, f"answers must go on: {reply.status}")
    admitted = [await _admitted(scene, number) for number in (0, 1)]
    expect(
        admitted == [scene.limit // 2] * 2,
        f"each of 2 replicas must admit half of {scene.limit}, not {admitted}",
    )
    for number in (0, 1):
        health = await scene.health(number)
        scene.say(
            f"{scene.replica(number).name}  admitted {admitted[number]} of carol's {scene.limit} requests; "
            f"health: {health['status']}"
        )
        expect(health["status"] == DEGRADED, f"health must say {DEGRADED}, not {health['status']}")
    for reason in health["reasons"]:
        scene.say(f"        {reason}")
    await scene.stack.backend.start_servers()
    back = await until(lambda: _healthy(scene), 10, "both replicas had to be healthy again")
    kept = await scene.request(0, "GET", "/v1/session", cookie=scene.cookie)
    expect(kept.status == 200 and _holds(kept.json(), "dark"), "the session must have survived on disk")
    scene.say(f"Redis is back; both replicas healthy after {back:.0f} ms, the session is still there")
    return f"answers went on, {admitted[0]} + {admitted[1]} admitted; healthy {back:.0f} ms after"


async def _two_processes(scene: Scene) -> None:
    """A killed process counts as alive until its last report expires; the limit is divided by the living."""
    replicas = len(scene.stack.replicas)

    async def only_the_living() -> bool:
        said = [await scene.request(number, "GET", "/cache/stats", who=None) for number in range(replicas)]
        return all(reply.json()["limits"]["liveProcesses"] == replicas for reply in said)

    if not await only_the_living():
        scene.say("waiting until the last report of the killed process has expired (10 s)")
    await until(only_the_living, 20, "the killed process had to be forgotten")


async def _admitted(scene: Scene, number: int) -> int:
    asked = [scene.ask(number, who="carol") for _ in range(scene.limit)]
    statuses = [reply.status for reply in await asyncio.gather(*asked)]
    expect(set(statuses) <= {200, 429}, f"200 or 429 was expected: {sorted(set(statuses))}")
    return statuses.count(200)


async def _healthy(scene: Scene) -> bool:
    return all([(await scene.health(number))["status"] == HEALTHY for number in (0, 1)])


async def edited(scene: Scene) -> str:
    """The policy is edited on disk: both replicas enforce the new revision, and neither restarts"""
    backend, pods = scene.stack.backend, scene.stack.pods
    await until(lambda: _enforced(scene), 10, "the first revision had to be enforced")
    before = await backend.reported(pods)
    follower = Follower(scene.stack, str(scene.file), scene.manifest, scene.say)
    old, new = f"limit: {scene.limit}", f"limit: {scene.limit * 2}"
    began = time.perf_counter()
    scene.file.write_text(scene.file.read_text().replace(old, new))
    scene.say(f"edited: {old} → {new}")
    await follower.turn()
    await until(lambda: _enforced(scene), 10, "the new revision had to be enforced by both")
    ms = (time.perf_counter() - began) * 1000
    after = await backend.reported(pods)
    scene.say(f"Enforced {after}: revision {before.revision} → {after.revision} after {ms:.0f} ms")
    expect(after.revision != before.revision, "the revision must change with the file")
    expect(set(after.members) == set(before.members), "no process may restart for an edit")
    for number in (0, 1):
        expect((await scene.health(number))["revision"] == after.revision, "both must say so themselves")
    scene.manifest = read_policies(scene.file.read_text()).policies[0]
    replies = [await scene.ask(number, who="bob") for number in (0, 1)]
    expect([reply.status for reply in replies] == [200, 200], "bob must have room again at both replicas")
    scene.say("bob, refused a moment ago, is admitted by both replicas")
    return f"Enforced {after} after {ms:.0f} ms, no restart"


async def _enforced(scene: Scene) -> bool:
    return (await scene.stack.backend.reported(scene.stack.pods)).complete


Chapter = Callable[[Scene], Awaitable[str]]

CHAPTERS: Final[tuple[tuple[str, Chapter], ...]] = (
    ("First answer", first_answer),
    ("The other replica", answer_from_the_other_replica),
    ("Streaming", streaming),
    ("Embeddings", embeddings),
    ("Session", session),
    ("Rate limit", limit),
    ("Redis killed and back", redis_killed),
    ("Policy edited", edited),
)
