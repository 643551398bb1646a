"""What tests of the clients share: a runtime in memory, and SDKs that reach the stand-in provider through it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from anthropic import AsyncAnthropic
from fastapi import FastAPI
from openai import AsyncOpenAI

from cachepolicy import Duration, Identity, PolicyDocument, names
from cachepolicy.document import CONTRACT
from cachepolicy_runtime import standin
from cachepolicy_runtime.runtime import CacheRuntime

ACME, GLOBEX = Identity("acme", "ann"), Identity("globex", "eve")
HI: list[Any] = [{"role": "user", "content": "Hi"}]


@dataclass
class Trial:
    """A runtime, and the provider behind it."""

    runtime: CacheRuntime
    provider: FastAPI

    def openai(self, identity: Identity | None = ACME, **more: Any) -> AsyncOpenAI:
        http = self.runtime.http_client("openai", identity=identity, transport=self.network)
        return AsyncOpenAI(api_key="sk-test", base_url="http://provider/v1", http_client=http, **more)

    def anthropic(self, identity: Identity | None = ACME, **more: Any) -> AsyncAnthropic:
        http = self.runtime.http_client("anthropic", identity=identity, transport=self.network)
        return AsyncAnthropic(api_key="sk-test", base_url="http://provider", http_client=http, **more)

    @property
    def network(self) -> httpx2.ASGITransport:
        return httpx2.ASGITransport(self.provider)

    async def asked(self, api: str = "chat") -> int:
        """How often the provider was asked through this API."""
        async with httpx2.AsyncClient(transport=self.network, base_url="http://provider") as http:
            return int((await http.get("/counts")).json()[api])


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """The application on a real socket of this machine, for what no shortcut shows; its URL."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
        )
        running = asyncio.create_task(server.serve([listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running


@asynccontextmanager
async def trial(folder: Path | None = None, policy: Mapping[str, Any] | None = None) -> AsyncIterator[Trial]:
    """Everything in the memory of this process: with the built-in defaults, or what ``policy`` says."""
    environ = {}
    if folder is not None and policy is not None:
        (folder / names.FILE_POLICY).write_text(document_of(policy).to_json())
        environ["CACHEPOLICY_DIR"] = str(folder)
    runtime = CacheRuntime.from_env(identify=lambda scope: scope["who"], environ=environ)
    async with runtime.lifespan():
        yield Trial(runtime, standin.create_app(Duration(0)))


def document_of(policy: Mapping[str, Any]) -> PolicyDocument:
    """The document of a policy without servers."""
    return PolicyDocument.model_validate(
        {
            "contract": CONTRACT,
            "policy": "shop/core",
            "uid": "uid-1",
            "revision": "0123456789abcdef",
            "sequence": 1,
            "redis": {"keyPrefix": "shop/core"},
            **policy,
        }
    )
