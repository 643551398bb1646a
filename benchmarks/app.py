"""One FastAPI application with one limiter or none: ``python -m benchmarks.app KIND REDIS_URL PORT``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request

from benchmarks import product
from benchmarks.harness import CLIENT_CORE
from cachepolicy_runtime import RateLimitMiddleware

PER_MINUTE = 1_000_000_000


def _bare(url: str) -> FastAPI:
    return _with_route(FastAPI())


def _ours(url: str) -> FastAPI:
    """``url`` is the policy directory."""
    runtime = product.runtime_of(Path(url))
    app = _with_route(FastAPI(lifespan=runtime.lifespan))
    app.add_middleware(RateLimitMiddleware, runtime=runtime)
    return app


def _sdk(url: str) -> FastAPI:
    os.environ["REDIS_URL"] = url
    from redis_fastapi import FastAPIRedis

    app = _with_route(FastAPI())
    FastAPIRedis(app).lifespan().rate_limiting(global_rate=(PER_MINUTE, 60))
    return app


def _slowapi(url: str) -> FastAPI:
    from slowapi import Limiter
    from slowapi.middleware import SlowAPIASGIMiddleware
    from slowapi.util import get_remote_address

    app = _with_route(FastAPI())
    limits = [f"{PER_MINUTE}/minute"]
    app.state.limiter = Limiter(
        get_remote_address, default_limits=limits, storage_uri=url, headers_enabled=True
    )
    app.add_middleware(SlowAPIASGIMiddleware)
    return app


def _fastapi_limiter(url: str) -> FastAPI:
    import redis.asyncio
    from fastapi import Depends, Response
    from fastapi_limiter.depends import RateLimiter
    from pyrate_limiter import Duration, Limiter, Rate, RedisBucket

    app = FastAPI()
    client = redis.asyncio.Redis.from_url(url)
    # Made in the event loop of the server. The window is a second, for it keeps one entry for each request.
    made: list[RateLimiter] = []

    async def limited(request: Request) -> None:
        if not made:
            bucket = await RedisBucket.init([Rate(PER_MINUTE, Duration.SECOND)], client, "bench")
            made.append(RateLimiter(limiter=Limiter(bucket)))
        await made[0](request, Response())

    return _with_route(app, Depends(limited))


def _with_route(app: FastAPI, *dependencies: Any) -> FastAPI:
    @app.get("/", dependencies=list(dependencies))
    async def root() -> dict[str, str]:
        return {"answer": "yes"}

    return app


KINDS: dict[str, Callable[[str], FastAPI]] = {
    "bare": _bare,
    "ours": _ours,
    "ours in memory": _ours,
    "fastapi-redis-sdk": _sdk,
    "slowapi": _slowapi,
    "fastapi-limiter": _fastapi_limiter,
}

if __name__ == "__main__":
    kind, url, port = sys.argv[1:]
    os.sched_setaffinity(0, {CLIENT_CORE})
    uvicorn.run(KINDS[kind](url), port=int(port), log_level="warning", access_log=False)
