"""A limit of the policy that a route names: counted there, by what a request costs, and nowhere else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import Depends, FastAPI, Request
from tests.clients import ACME, Trial, trial

from cachepolicy_runtime import RateLimitMiddleware


def limits(**by_name: dict[str, Any]) -> dict[str, Any]:
    return {"rateLimits": {name: {"by": [{"type": "Tenant"}], **limit} for name, limit in by_name.items()}}


def hourly(units: int, **more: Any) -> dict[str, Any]:
    return {"rates": [{"limit": units, "window": "1h"}], **more}


def application(sut: Trial, *, cost: Any = 1) -> FastAPI:
    app = FastAPI()
    app.add_middleware(RateLimitMiddleware, runtime=sut.runtime)

    @app.get("/limited", dependencies=[Depends(sut.runtime.limit("uploads", cost=cost))])
    async def limited() -> str:
        return "in"

    @app.get("/free")
    async def free() -> str:
        return "in"

    return app


class Client:
    """Asks as one tenant, whatever it sends."""

    def __init__(self, app: FastAPI) -> None:
        async def known(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "who": ACME}, receive, send)

        self._http = httpx2.AsyncClient(transport=httpx2.ASGITransport(known), base_url="http://core")

    async def get(self, path: str, **more: Any) -> httpx2.Response:
        return await self._http.get(path, **more)


@asynccontextmanager
async def limited_by(folder: Path, policy: dict[str, Any], **more: Any) -> AsyncIterator[Client]:
    async with trial(folder, policy) as sut:
        yield Client(application(sut, **more))


async def test_a_route_is_limited_by_name_and_others_are_not(tmp_path: Path) -> None:
    async with limited_by(tmp_path, limits(uploads=hourly(2))) as client:
        free = [await client.get("/free") for _ in range(5)]
        answers = [await client.get("/limited") for _ in range(3)]
    assert [answer.status_code for answer in free] == [200] * 5
    assert "ratelimit" not in free[0].headers
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0].headers["ratelimit-policy"] == '"uploads";q=2;w=3600'
    assert answers[0].headers["ratelimit"].startswith('"uploads";r=1;t=')
    assert int(answers[2].headers["retry-after"]) > 0
    assert answers[2].json()["detail"].startswith("No room in uploads. Try again in ")


async def test_other_limits_of_the_policy_hold_for_the_route_as_well(tmp_path: Path) -> None:
    policy = limits(uploads=hourly(5), everything=hourly(2))
    async with limited_by(tmp_path, policy) as client:
        answers = [await client.get("/limited") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert '"everything";q=2' in ", ".join(answers[0].headers.get_list("ratelimit-policy"))
    assert '"uploads";q=5' in ", ".join(answers[0].headers.get_list("ratelimit-policy"))


async def test_a_request_counts_as_often_as_it_costs(tmp_path: Path) -> None:
    async def cost(request: Request) -> int:
        return int(request.query_params["pages"])

    async with limited_by(tmp_path, limits(uploads=hourly(10)), cost=cost) as client:
        statuses = [
            (await client.get("/limited", params={"pages": pages})).status_code for pages in (7, 4, 3, 1)
        ]
    assert statuses == [200, 429, 200, 429]


async def test_requests_under_way_keep_their_place_until_they_are_answered(tmp_path: Path) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()
    policy = limits(uploads={"unit": "Concurrency", "limit": 1})
    async with trial(tmp_path, policy) as sut:
        app = FastAPI()

        @app.get("/slow", dependencies=[Depends(sut.runtime.limit("uploads"))])
        async def slow() -> str:
            started.set()
            await go_on.wait()
            return "in"

        client = Client(app)
        first = asyncio.create_task(client.get("/slow"))
        await started.wait()
        assert (await client.get("/slow")).status_code == 429
        go_on.set()
        assert (await first).status_code == 200
        assert (await client.get("/slow")).status_code == 200


async def test_a_name_that_the_policy_has_not_limits_nothing_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "cachepolicy.limits"):
        async with limited_by(tmp_path, {"sessions": {}}) as client:
            assert [(await client.get("/limited")).status_code for _ in range(2)] == [200, 200]
    told = [record.getMessage() for record in caplog.records if record.name == "cachepolicy.limits"]
    assert told == ["routes are not limited by uploads: the policy has no such limit of requests"]
