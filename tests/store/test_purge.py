"""A purge of every kind over four processes of Core: everybody misses within a second, other scopes stay hits."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.programs import GATEWAY, STANDIN, Program
from tests.replicas import ADMIN_TOKEN, Site, bearer
from tests.servers import running
from tests.stores import transport_to

from cachepolicy.keys import KeyLayout
from cachepolicy.stamps import Scope
from cachepolicy_runtime.store.redis_stores import RedisControlStore

#: The first test starts five programs.
pytestmark = pytest.mark.timeout(150)
PROCESSES = 4
#: What a purge may take, and what a machine that is busy with other things may add to a look at it.
WITHIN_S, NOISE_S = 1.0, 0.5
SECTIONS: dict[str, Any] = {
    "responseCache": {"tagHeader": "X-Cache-Tags", "local": {"maxBytes": "1Mi", "ttl": "30s"}},
    "embeddingCache": {},
}
LIMIT: dict[str, Any] = {
    "sessions": {},
    "rateLimits": {"t": {"by": [{"type": "Tenant"}], "rates": [{"limit": 100000, "window": "1h"}]}},
}

#: Who asks what, by the name of the entry: tagged and not, two tenants, two models, both caches.
ENTRIES: dict[str, tuple[str, str, str]] = {
    "tagged": ("alice", "gpt-x", "faq, news"),
    "plain": ("alice", "gpt-x", ""),
    "model": ("alice", "gpt-y", ""),
    "tenant": ("eve", "gpt-x", ""),
    "embedding": ("alice", "embed-x", ""),
}
SCOPES: dict[str, tuple[Scope, set[str]]] = {
    "all": (Scope(), set(ENTRIES)),
    "tenant": (Scope(tenant="acme"), {"tagged", "plain", "model", "embedding"}),
    "provider": (Scope(provider="openai"), set(ENTRIES)),
    "other provider": (Scope(provider="anthropic"), set()),
    "model": (Scope(model="gpt-y"), {"model"}),
    "tag": (Scope(tags=("faq",)), {"tagged"}),
    "other tag": (Scope(tags=("fa",)), set()),
    "responses": (Scope(kind="responses"), {"tagged", "plain", "model", "tenant"}),
    "embeddings": (Scope(kind="embeddings"), {"embedding"}),
    "tenant and tag": (Scope(tenant="globex", tags=("faq",)), set()),
    "tenant and model": (Scope(tenant="acme", model="gpt-x"), {"tagged", "plain"}),
}


@dataclass
class World:
    """Four processes of Core over one server."""

    cores: list[Program]
    site: Site
    http: httpx.Client

    def ask(self, process: int, entry: str, word: str) -> bool:
        """Whether this process answers this entry from the cache; a miss stores it anew."""
        who, model, tags = ENTRIES[entry]
        headers = {**bearer(who), **({"X-Cache-Tags": tags} if tags else {})}
        word = f"{entry} {word}"  # tags are no part of a key
        path, asked = "/v1/chat/completions", {"messages": [{"role": "user", "content": word}]}
        if entry == "embedding":
            path, asked = "/v1/embeddings", {"input": word}  # type: ignore[dict-item]
        reply = self.http.post(
            f"{self.cores[process].url}{path}", json={"model": model, **asked}, headers=headers
        )
        assert reply.status_code == 200, reply.text
        return "; hit" in reply.headers["cache-status"]

    def filled(self, word: str) -> None:
        """Every entry is in the cache, once for each process to ask for, and every process has seen it there."""
        for process in range(PROCESSES):
            for entry in ENTRIES:
                self.ask(0, entry, f"{word} {process}")
                assert self.ask(process, entry, f"{word} {process}")

    def left(self, word: str, gone: set[str], since: float) -> float:
        """Seconds after which no process finds what is gone; fails when that takes too long or more is gone."""
        waiting = [(process, entry) for process in range(PROCESSES) for entry in gone]
        took = 0.0
        while waiting:
            asked_at = time.monotonic()
            assert asked_at - since < WITHIN_S + NOISE_S, waiting
            waiting = [item for item in waiting if self.ask(*item, f"{word} {item[0]}")]
            took = asked_at - since
        if not gone:  # give a purge that must not reach anything the time to do so
            time.sleep(WITHIN_S)
        for process in range(PROCESSES):
            for entry in ENTRIES.keys() - gone:
                assert self.ask(process, entry, f"{word} {process}"), entry
        return took

    def clear(self, scope: Scope) -> None:
        """By the endpoint of the first process."""
        body = {
            name: value
            for name, value in (
                ("kind", scope.kind),
                ("tenant", scope.tenant),
                ("provider", scope.provider),
                ("model", scope.model),
                ("tag", next(iter(scope.tags), None)),
            )
            if value is not None
        }
        reply = self.http.post(
            f"{self.cores[0].url}/cache/clear", json=body or {"all": True}, headers=bearer(ADMIN_TOKEN)
        )
        assert reply.status_code == 200, reply.text

    def stats(self, process: int) -> dict[str, Any]:
        return dict(self.http.get(f"{self.cores[process].url}/cache/stats").json())

    def followed(self, revision: str) -> None:
        """Until every process enforces this revision."""
        deadline = time.monotonic() + 20
        for process in range(PROCESSES):
            while self.stats(process)["revision"] != revision:
                assert time.monotonic() < deadline


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("purge")
    with running("valkey") as server, httpx.Client(timeout=30) as http, ExitStack() as stack:
        site = Site(folder / "site", server.url)
        site.apply(SECTIONS, LIMIT)

        def started(module: str, name: str, environ: dict[str, str]) -> Program:
            program = Program(module, folder / f"{name}.log", environ)
            stack.callback(program.process.wait)
            stack.callback(program.process.kill)
            return program

        provider = started(STANDIN, "standin", {"STANDIN_DELAY": "0s"})
        environ = {**site.environ, "CACHEPOLICY_UPSTREAM_URL": f"{provider.url}/v1"}
        cores = [
            started(GATEWAY, f"core-{number}", {**environ, "POD_NAME": f"core-{number}"})
            for number in range(PROCESSES)
        ]
        for program in (provider, *cores):
            program.listens()
        yield World(cores, site, http)


@pytest.mark.parametrize("name", SCOPES)
def test_a_clear_is_complete_in_every_process_within_a_second(world: World, name: str) -> None:
    """Also in the first level of each; other scopes, sessions and limits stay."""
    scope, gone = SCOPES[name]
    word = secrets.token_hex(4)
    world.filled(word)
    session = world.http.put(f"{world.cores[0].url}/v1/session", json={"kept": word}, headers=bearer("alice"))
    began = time.monotonic()
    world.clear(scope)
    print(f"{name}: {world.left(word, gone, began):.3f} s")
    headers = {**bearer("alice"), "Cookie": session.headers["set-cookie"].partition(";")[0]}
    kept = world.http.get(f"{world.cores[1].url}/v1/session", headers=headers)
    assert kept.json() == {"kept": word}


@pytest.mark.parametrize("name", ["all", "tenant", "tag"])
async def test_a_process_that_misses_the_wake_up_looks_by_itself(world: World, name: str) -> None:
    """The stamp changes in Redis, and nobody is told."""
    scope, gone = SCOPES[name]
    word = secrets.token_hex(4)
    world.filled(word)
    transport = transport_to(world.site.url)
    try:
        store = RedisControlStore(transport, KeyLayout("shop/core"))
        began = time.monotonic()
        await store.set_stamps([scope.stamp_field])
        print(f"{name}, without a wake-up: {world.left(word, gone, began):.3f} s")
    finally:
        await transport.aclose()


def test_a_changed_value_of_the_policy_purges_and_going_back_revives_nothing(world: World) -> None:
    """A revert in Git is a change like any other."""
    word = secrets.token_hex(4)
    first = world.site.apply(SECTIONS, LIMIT, {"purge": {"tags": {"faq": "1"}}})
    world.followed(first.revision)
    time.sleep(WITHIN_S)
    world.filled(word)
    second = world.site.apply(SECTIONS, LIMIT, {"purge": {"tags": {"faq": "2"}}})
    world.followed(second.revision)  # nobody asks meanwhile, so what was stored before is still in Redis
    third = world.site.apply(SECTIONS, LIMIT, {"purge": {"tags": {"faq": "1"}}})
    world.followed(third.revision)
    world.left(word, {"tagged"}, time.monotonic())
