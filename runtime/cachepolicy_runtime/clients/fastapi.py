"""A limit of the policy on one route of FastAPI: ``Depends(runtime.limit("uploads", cost=5))``."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

import orjson

from cachepolicy_runtime.clients.missing import needs
from cachepolicy_runtime.ratelimit import Decision
from cachepolicy_runtime.ratelimit_answer import headers, problem, status_of

with needs("fastapi"):
    from fastapi import HTTPException, Request, Response

if TYPE_CHECKING:
    from cachepolicy_runtime.runtime import CacheRuntime

_log = logging.getLogger("cachepolicy.limits")

#: How many requests a request counts as: a number, or what a function of the request says.
Cost = int | Callable[[Request], "int | Awaitable[int]"]


class RouteLimit:
    """A dependency that lets a request in if the limit has room, and keeps its place until it is answered.

    Answers 429 (503 where the limit says ``Deny`` and the store is away) by FastAPI's ``HTTPException``, with the
    headers that the middleware would send.
    """

    def __init__(self, runtime: CacheRuntime, name: str, cost: Cost) -> None:
        self._runtime = runtime
        self._name = name
        self._cost = cost
        self._told = False
        runtime.limited_by_route(name)

    async def __call__(self, request: Request, response: Response) -> AsyncIterator[None]:
        decision = await self._runtime.admit_by_name(request.scope, self._name, await self._cost_of(request))
        if decision is None:
            self._tell()
            yield
            return
        told = [(name.decode("ascii"), value.decode("latin-1")) for name, value in headers(decision)]
        if not decision.allowed:
            raise HTTPException(status_of(decision), _detail(decision), dict(told))
        for name, value in told:
            response.headers.append(name, value)
        try:
            yield
        finally:
            if decision.lease is not None:
                decision.lease.release()

    async def _cost_of(self, request: Request) -> int:
        cost = self._cost(request) if callable(self._cost) else self._cost
        return await cost if inspect.isawaitable(cost) else cost

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            _log.warning("routes are not limited by %s: the policy has no such limit of requests", self._name)


def _detail(decision: Decision) -> str:
    return str(orjson.loads(problem(decision))["detail"])
