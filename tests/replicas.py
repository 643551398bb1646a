"""Replicas of the reference Core in this process, over one policy directory, one stand-in provider and real Redis."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from cachepolicy import CachePolicySpec, Duration, PolicyDocument, Role, build_document, names
from cachepolicy_runtime import gateway, standin
from cachepolicy_runtime.runtime import CacheRuntime

ADMIN_TOKEN = "an-admin-token-of-a-test"
PEOPLE = {"alice": ("acme", "alice"), "bob": ("acme", "bob"), "eve": ("globex", "eve")}

SESSIONS: Mapping[str, Any] = {"sessions": {}}
CACHES: Mapping[str, Any] = {"responseCache": {}, "embeddingCache": {}}


def limit(requests: int, **more: Any) -> dict[str, Any]:
    """A limit for each user in an hour."""
    by = [{"type": "Tenant"}, {"type": "User"}]
    return {"rateLimits": {"per-user": {"by": by, "rates": [{"limit": requests, "window": "1h"}], **more}}}


def chat(text: str = "Hi", **more: Any) -> dict[str, Any]:
    return {"model": "gpt-x", "messages": [{"role": "user", "content": text}], **more}


@dataclass
class Replica:
    """One Core and a client that talks to it, with cookies of its own."""

    name: str
    app: FastAPI
    http: httpx.AsyncClient

    @property
    def runtime(self) -> CacheRuntime:
        runtime = self.app.state.runtime
        assert isinstance(runtime, CacheRuntime)
        return runtime

    async def chat(self, text: str = "Hi", who: str = "alice", **more: Any) -> httpx.Response:
        return await self.http.post("/v1/chat/completions", json=chat(text, **more), headers=bearer(who))

    async def embed(self, texts: Any, who: str = "alice", **more: Any) -> httpx.Response:
        body = {"model": "embed-x", "input": texts, **more}
        return await self.http.post("/v1/embeddings", json=body, headers=bearer(who))

    async def clear(self, token: str = ADMIN_TOKEN, **scope: Any) -> httpx.Response:
        return await self.http.post("/cache/clear", json=scope, headers=bearer(token))

    async def health(self) -> dict[str, Any]:
        return dict((await self.http.get("/cache/health")).json())

    async def stats(self) -> dict[str, Any]:
        return dict((await self.http.get("/cache/stats")).json())


@dataclass
class Site:
    """What replicas share. ``url`` is one Redis server that holds state and cache."""

    folder: Path
    url: str
    provider: FastAPI = field(default_factory=lambda: standin.create_app(Duration(0)))
    document: PolicyDocument | None = None

    def __post_init__(self) -> None:
        self.policy.mkdir(parents=True)
        self.write(names.FILE_HMAC_KEY, "an-hmac-key-of-a-test-long-enough")
        self.write(names.FILE_ADMIN_TOKEN, ADMIN_TOKEN)
        owners = {
            hashlib.sha256(key.encode()).hexdigest(): {"tenant": tenant, "user": user}
            for key, (tenant, user) in PEOPLE.items()
        }
        (self.folder / "api-keys.json").write_text(json.dumps(owners))

    @property
    def policy(self) -> Path:
        return self.folder / "policy"

    @property
    def environ(self) -> dict[str, str]:
        return {
            "CACHEPOLICY_DIR": str(self.policy),
            "CACHEPOLICY_API_KEYS_FILE": str(self.folder / "api-keys.json"),
            "CACHEPOLICY_UPSTREAM_URL": "http://standin",
            "CACHEPOLICY_ANTHROPIC_URL": "http://standin",
            # A busy machine is no outage.
            "CACHEPOLICY_DEADLINE_MS": "3000",
        }

    def write(self, name: str, content: str) -> None:
        """Replace a file of the policy directory in one step, as a mount does."""
        fresh = self.policy / f".{name}.new"
        fresh.write_text(content)
        fresh.replace(self.policy / name)

    def apply(self, *sections: Mapping[str, Any]) -> PolicyDocument:
        """Write the document of a policy with these sections."""
        spec = {"redis": {"managed": {}}, **{key: value for part in sections for key, value in part.items()}}
        sequence = self.document.sequence + 1 if self.document else 1
        self.document = build_document(
            namespace="shop",
            name="core",
            uid="uid-1",
            spec=CachePolicySpec.model_validate(spec),
            endpoints=dict.fromkeys(Role, self.url),
            previous=self.document,
            now_ms=sequence,
        )
        self.write(names.FILE_POLICY, self.document.to_json())
        return self.document

    @asynccontextmanager
    async def replica(self, name: str, environ: Mapping[str, str] | None = None) -> AsyncIterator[Replica]:
        settings = {**(self.environ if environ is None else environ), "POD_NAME": name}
        app = gateway.create_app(settings, transport=httpx.ASGITransport(self.provider))
        # The stack of middleware is built before the lifespan runs, as a server does it.
        if app.middleware_stack is None:
            app.middleware_stack = app.build_middleware_stack()
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://core") as http,
        ):
            yield Replica(name, app, http)

    @asynccontextmanager
    async def replicas(self, count: int = 2) -> AsyncIterator[list[Replica]]:
        """So many replicas that all enforce the current document."""
        async with AsyncExitStack() as stack:
            started = [
                await stack.enter_async_context(self.replica(f"core-{number}")) for number in range(count)
            ]
            for replica in started:
                await self.enforced(replica)
            yield started

    async def enforced(self, *replicas: Replica) -> None:
        """Until every replica enforces the current document and reaches Redis."""
        revision = self.document.revision if self.document else None

        async def done(replica: Replica) -> bool:
            health = await replica.health()
            return bool(health["revision"] == revision and health["status"] == "up")

        for replica in replicas:
            await until(lambda replica=replica: done(replica))  # type: ignore[misc]  # bound at once

    async def counts(self) -> dict[str, int]:
        """How often the provider was asked."""
        transport = httpx.ASGITransport(self.provider)
        async with httpx.AsyncClient(transport=transport, base_url="http://standin") as client:
            return dict((await client.get("/counts")).json())


async def until(condition: Callable[[], Any], *, seconds: float = 10.0) -> None:
    """Wait for what other tasks do; fails after ``seconds``."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - what is waited for lies in Redis or in a file
            await asyncio.sleep(0.02)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}
