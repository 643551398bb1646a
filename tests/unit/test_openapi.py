"""The endpoints do what their OpenAPI document says, whatever is sent: schemathesis, with good and bad data.

It asks a real HTTP server, in memory behind it: any 5xx that is not described, any answer of another shape and any
nonsense that is taken for sense is a failure.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import uvicorn
from fastapi import FastAPI
from hypothesis import HealthCheck, settings

from cachepolicy_runtime import CacheRuntime
from cachepolicy_runtime.asgi.endpoints import WarmRequest
from cachepolicy_runtime.asgi.endpoints.openapi import DOCUMENT

TOKEN = "an-admin-token-of-a-test"

schema = schemathesis.openapi.from_dict({**DOCUMENT, "servers": [{"url": "/cache"}]})


async def warm(asked: WarmRequest) -> str:
    return "CachePolicy; hit; ttl=1"


def resolve(path: str, headers: Mapping[str, str]) -> tuple[str, str, Mapping[str, str]]:
    if path == "/nowhere":
        raise KeyError(path)
    return "openai", "https://provider.test/v1", headers


def app(token_file: Path) -> FastAPI:
    environ = {"CACHE_ADMIN_TOKEN_FILE": str(token_file)}
    runtime = CacheRuntime.from_env(identify=lambda scope: None, environ=environ)
    made = FastAPI(lifespan=runtime.lifespan, openapi_url=None)
    made.mount("/cache", runtime.endpoints(warm=warm, resolve=resolve))
    return made


@contextmanager
def served(application: FastAPI) -> Iterator[str]:
    """Its base URL, on a port of loopback."""
    server = uvicorn.Server(uvicorn.Config(application, host="127.0.0.1", port=0, log_config=None, ws="none"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
            assert thread.is_alive()
        (socket,) = server.servers[0].sockets
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    token_file = tmp_path_factory.mktemp("openapi") / "token"
    token_file.write_text(TOKEN)
    with served(app(token_file)) as base:
        yield f"{base}/cache"


@schema.parametrize()
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_endpoint_is_as_described(url: str, case: schemathesis.Case[Any]) -> None:
    """Bodies that fit are answered as described; those that do not are refused with a problem document."""
    headers = {"Authorization": f"Bearer {TOKEN}"} if case.method == "POST" else {}
    case.call_and_validate(base_url=url, headers=headers)
