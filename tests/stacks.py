"""Two replicas of the reference Core, a provider and a Redis server as processes, as they would run in pods.

The Redis server is reached on its own port, or through a :class:`~tests.fronts.Front` that slows down and cuts.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tests.fleets import Node, wait_until
from tests.fronts import Front, front
from tests.programs import GATEWAY, STANDIN, Program
from tests.replicas import Site, bearer, chat

#: Longest time that Core waits for Redis, on a machine that does other things as well.
DEADLINE_S = 0.4
#: Longest time that a caller waits for an answer in any of these tests. A call that was sent when Redis went away
#: has waited for one deadline, and another one may follow it.
PATIENCE_S = 5.0
#: Until everything is as before, after the failure is over.
RECOVERY_S = 10.0


@dataclass
class Core:
    """One replica, and what a caller with a key and a cookie jar does there."""

    name: str
    environ: Mapping[str, str]
    log: Path
    program: Program = field(init=False)
    jars: dict[str, httpx.Cookies] = field(default_factory=dict)
    _clients: dict[str, httpx.Client] = field(default_factory=dict)

    def start(self) -> None:
        self.program = Program(GATEWAY, self.log, {**self.environ, "POD_NAME": self.name})
        self.program.listens()

    def kill(self) -> None:
        self.program.process.kill()
        self.program.process.wait()

    def leave(self) -> None:
        for client in self._clients.values():
            client.close()

    def ask(
        self, method: str, path: str, who: str | None = "alice", seconds: float = PATIENCE_S, **more: Any
    ) -> httpx.Response:
        """One request; fails where it takes longer than ``seconds``."""
        client = self._clients.get(who or "")
        if client is None:
            client = self._clients[who or ""] = httpx.Client()
        client.cookies = self.jars.setdefault(who or "", httpx.Cookies())
        headers = bearer(who) if who else {}
        url = f"{self.program.url}{path}"
        answer = client.request(method, url, headers=headers, timeout=seconds, **more)
        self.jars[who or ""] = client.cookies
        return answer

    def chat(
        self, text: str, who: str = "alice", *, seconds: float = PATIENCE_S, **more: Any
    ) -> httpx.Response:
        return self.ask("POST", "/v1/chat/completions", who, seconds, json=chat(text, **more))

    def embed(self, text: str, who: str = "alice") -> httpx.Response:
        return self.ask("POST", "/v1/embeddings", who, json={"model": "embed-x", "input": [text]})

    def read(self, who: str = "alice") -> httpx.Response:
        return self.ask("GET", "/v1/session", who)

    def write(self, content: Any, who: str = "alice") -> httpx.Response:
        return self.ask("PUT", "/v1/session", who, json=content)

    @property
    def health(self) -> dict[str, Any]:
        return dict(self.ask("GET", "/cache/health", None).json())


@dataclass
class Stack:
    """Everything that runs. A test changes it and leaves it as it was."""

    site: Site
    node: Node
    front: Front
    provider: Program
    cores: list[Core]
    _sections: tuple[Mapping[str, Any], ...] = ()

    @property
    def direct_url(self) -> str:
        return f"redis://127.0.0.1:{self.node.port}"

    def apply(self, *sections: Mapping[str, Any], url: str | None = None) -> None:
        """A policy, and that Redis is reached directly or at ``url``; until every replica enforces it."""
        self._sections = sections or self._sections
        self.site.url = url or self.direct_url
        revision = self.site.apply(*self._sections).revision
        eventually(lambda: all(core.health["revision"] == revision for core in self.cores))
        self.whole()

    def whole(self) -> None:
        """Until every replica says that nothing is missing."""
        eventually(lambda: all(core.health["status"] == "up" for core in self.cores))

    def counts(self) -> dict[str, int]:
        """How often the provider was asked for what."""
        return dict(httpx.get(f"{self.provider.url}/counts").json())


def eventually(true: Callable[[], bool], seconds: float = RECOVERY_S) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


@contextmanager
def running(folder: Path) -> Iterator[Stack]:
    """A stack without a policy yet."""
    with ExitStack() as stack:
        node = stack.enter_context(_node())
        before = stack.enter_context(_front(f"unix://{node.folder}/redis.sock"))
        provider = Program(STANDIN, folder / "provider.log", {"STANDIN_DELAY": "0s"})
        stack.callback(provider.process.wait)
        stack.callback(provider.process.kill)
        provider.listens()
        site = Site(folder / "site", f"redis://127.0.0.1:{node.port}")
        environ = {
            **site.environ,
            "CACHEPOLICY_UPSTREAM_URL": f"{provider.url}/v1",
            "CACHEPOLICY_DEADLINE_MS": str(int(DEADLINE_S * 1000)),
        }
        cores = [Core(f"core-{number}", environ, folder / f"core-{number}.log") for number in range(2)]
        for core in cores:
            core.start()
            stack.callback(core.leave)
            stack.callback(core.kill)
        yield Stack(site, node, before, provider, cores)


@contextmanager
def _node() -> Iterator[Node]:
    with tempfile.TemporaryDirectory(prefix="cp-") as folder:
        options = ["--save", "", "--unixsocket", f"{folder}/redis.sock", "--enable-debug-command", "yes"]
        made = Node(Path(folder), options)
        made.start()
        try:
            wait_until(lambda: made.answers)
            yield made
        finally:
            made.kill()


@contextmanager
def _front(url: str) -> Iterator[Front]:
    """In an event loop of its own: what runs here are blocking calls."""
    ready, stop = threading.Event(), asyncio.Event()
    made: list[tuple[Front, asyncio.AbstractEventLoop]] = []

    async def serve() -> None:
        async with front(url) as before:
            made.append((before, asyncio.get_running_loop()))
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    ready.wait()
    before, loop = made[0]
    try:
        yield before
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
