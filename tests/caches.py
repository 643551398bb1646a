"""What tests of the caches share: a view over some store, and complete answers of a provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from cachepolicy import Identity, KeyLayout
from cachepolicy.caches import EmbeddingCache
from cachepolicy.purge import Purge
from cachepolicy.response_cache import ResponseCache
from cachepolicy.stamps import Scope
from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.caching import CacheView, CombinedStamps
from cachepolicy_runtime.keys import CacheSecret, UpstreamRequest
from cachepolicy_runtime.responses import Outcome, Responses
from cachepolicy_runtime.store.leases import Claim, LeaseStore, MemoryLeaseStore
from cachepolicy_runtime.store.memory import MemoryCacheStore
from cachepolicy_runtime.store.port import CacheItem, CacheStore, StoreUnavailable

SECRET = CacheSecret.derive(b"a key of a test, long enough")
LAYOUT = KeyLayout("shop/core")


ALICE = Identity("acme", "alice")
REQUEST = UpstreamRequest(
    "https://api.openai.com/v1/chat/completions",
    {"model": "gpt-x", "messages": [{"role": "user", "content": "Hi"}]},
)


@dataclass
class Clock:
    """Milliseconds that pass only when a test says so."""

    ms: int = 1_800_000_000_000

    def __call__(self) -> int:
        return self.ms


@dataclass
class Policy:
    """What a test changes between two requests; ``view`` is what a request sees of it."""

    store: CacheStore = field(default_factory=MemoryCacheStore)
    fallback: MemoryCacheStore = field(default_factory=MemoryCacheStore)
    leases: LeaseStore | None = None
    secret: CacheSecret = SECRET
    responses: ResponseCache | None = field(default_factory=lambda: ResponseCache(jitter_percent=0))
    embeddings: EmbeddingCache | None = field(default_factory=EmbeddingCache)
    stamps: dict[str, str] | None = field(default_factory=lambda: {"all": "1"})
    purge: Purge | None = None

    def view(self) -> CacheView:
        combined = None if self.stamps is None else CombinedStamps(self.stamps, self.purge)

        def unknown(scope: Scope) -> None:
            return None

        leases = self.leases or MemoryLeaseStore(self.fallback)
        return CacheView(
            LAYOUT,
            self.store,
            self.fallback,
            self.secret,
            self.responses,
            self.embeddings,
            combined.of if combined else unknown,
            leases,
        )


class AwayStore:
    """A store that never answers, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def get(self, key: str) -> bytes | None:
        raise self._away()

    async def mget(self, keys: object) -> list[bytes | None]:
        raise self._away()

    async def put(self, key: str, value: bytes, ttl_ms: int) -> None:
        raise self._away()

    async def mput(self, items: object) -> None:
        raise self._away()

    async def delete(self, *keys: str) -> None:
        raise self._away()

    def _away(self) -> StoreUnavailable:
        self.asked += 1
        return StoreUnavailable("cache", "connection refused")


class SpyStore(MemoryCacheStore):
    """A memory store that shows what is in it and how it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.items: dict[str, CacheItem] = {}
        self.trips: list[str] = []
        self.gets = 0

    async def get(self, key: str) -> bytes | None:
        self.gets += 1
        return await super().get(key)

    async def mget(self, keys: Any) -> list[bytes | None]:
        self.trips.append("mget")
        return await super().mget(keys)

    async def put(self, key: str, value: bytes, ttl_ms: int) -> None:
        self.items[key] = CacheItem(key, value, ttl_ms)
        await super().put(key, value, ttl_ms)


def answer(body: Mapping[str, Any], status: int = 200, content_type: str = "application/json") -> Answer:
    return Answer(status, orjson.dumps(body), {"Content-Type": content_type})


def chat_body(text: str = "Hello.", **changes: Any) -> dict[str, Any]:
    """A complete chat completion; ``changes`` replace fields of its one choice."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
        **changes,
    }
    return {
        "id": "c-1",
        "object": "chat.completion",
        "model": "m",
        "choices": [choice],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }


class Provider:
    """Answers "Hello 1.", "Hello 2.", … so that a second call shows."""

    def __init__(self, status: int = 200, **changes: Any) -> None:
        self.calls = 0
        self.status = status
        self._changes = changes

    async def __call__(self) -> Answer:
        self.calls += 1
        return answer(chat_body(f"Hello {self.calls}.", **self._changes), self.status)


class HeldProvider(Provider):
    """Answers once it is let go; ``asked`` tells that somebody has called."""

    def __init__(self, **changes: Any) -> None:
        super().__init__(**changes)
        self.asked = asyncio.Event()
        self.go = asyncio.Event()

    async def __call__(self) -> Answer:
        got = await super().__call__()
        self.asked.set()
        await self.go.wait()
        return got


async def ask(
    cache: Responses,
    call: Callable[[], Awaitable[Answer]],
    request: UpstreamRequest = REQUEST,
    *,
    identity: Identity | None = ALICE,
    provider: str = "openai",
    **more: Any,
) -> Outcome[Answer]:
    return await cache.get_or_call(request, call, provider=provider, identity=identity, **more)


async def settled() -> None:
    """Every task that can go on has gone on; for tests in which nothing waits for time or network."""
    for _ in range(50):
        await asyncio.sleep(0)


class SharedLeases:
    """The leases of several replicas over one store. Nobody's lease ends by time: a test ends it."""

    def __init__(self, entries: CacheStore) -> None:
        self.entries = entries
        self.holders: dict[str, str] = {}
        self.apart: dict[str, int] = {}
        self._listeners: list[asyncio.Queue[str]] = []

    async def claim(self, lease: str, nonce: str, ttl_ms: int, entry: str) -> Claim:
        free = lease not in self.holders and lease not in self.apart
        if free:
            self.holders[lease] = nonce
        return Claim(free, lease in self.apart, await self.entries.get(entry))

    async def renew(self, lease: str, nonce: str, ttl_ms: int) -> bool:
        return self.holders.get(lease) == nonce

    async def release(self, lease: str, nonce: str, apart_ms: int) -> None:
        if self.holders.get(lease) == nonce:
            del self.holders[lease]
            if apart_ms:
                self.apart[lease] = apart_ms
            self.tell(lease)

    async def released(self) -> AsyncGenerator[str, None]:
        queue: asyncio.Queue[str] = asyncio.Queue()
        self._listeners.append(queue)
        yield ""
        while True:
            yield await queue.get()

    def lapse(self) -> None:
        """As if every holder had died and its lease were over."""
        names, self.holders = list(self.holders), {}
        for name in names:
            self.tell(name)

    def tell(self, lease: str) -> None:
        for queue in self._listeners:
            queue.put_nowait(lease)
