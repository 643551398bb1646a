"""What a :class:`~cachepolicy_runtime.runtime.CacheRuntime` gives to the code of others.

The libraries are imported when they are asked for, so that the runtime stands without every one of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, cast, overload

from cachepolicy.identity import Identity
from cachepolicy_runtime.cached import Options, Shared, Tags, cached
from cachepolicy_runtime.caller import current_scope
from cachepolicy_runtime.clients.bridge import LoopBridge, running_in_thread

if TYPE_CHECKING:
    import httpx
    import httpx2

    from cachepolicy_runtime.clients.exchange import Exchange
    from cachepolicy_runtime.clients.fastapi import Cost, RouteLimit
    from cachepolicy_runtime.runtime import CacheRuntime
    from cachepolicy_runtime.session import Session

Library = Literal["httpx2", "httpx"]

P = ParamSpec("P")
R = TypeVar("R")


class Clients:
    """A part of the runtime. ``loop`` is the event loop that its lifespan runs on."""

    loop: asyncio.AbstractEventLoop | None = None

    @overload
    def http_client(
        self,
        provider: str,
        *,
        library: Literal["httpx2"] = "httpx2",
        identity: Identity | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
        **options: Any,
    ) -> httpx2.AsyncClient: ...

    @overload
    def http_client(
        self,
        provider: str,
        *,
        library: Literal["httpx"],
        identity: Identity | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        **options: Any,
    ) -> httpx.AsyncClient: ...

    def http_client(
        self,
        provider: str,
        *,
        library: Library = "httpx2",
        identity: Identity | None = None,
        transport: Any = None,
        **options: Any,
    ) -> httpx2.AsyncClient | httpx.AsyncClient:
        """An ``AsyncClient`` to give to an SDK: ``AsyncOpenAI(http_client=runtime.http_client("openai"))``.

        Answers and embeddings are cached, coalesced and limited by the policy, for whoever the running code works
        for (:meth:`CacheRuntime.caller`), or always for ``identity``. For nobody nothing is cached. ``provider``
        is the name that the policy knows it by. ``transport`` sends in place of the network's; the other options
        are those of the client.
        """
        if library == "httpx":
            from cachepolicy_runtime.clients import httpx as older

            return older.client(self._exchange(provider, identity), transport, options)
        from cachepolicy_runtime.clients import httpx2 as current

        return current.client(self._exchange(provider, identity), transport, options)

    @overload
    def thread_client(
        self,
        provider: str,
        *,
        library: Literal["httpx2"] = "httpx2",
        identity: Identity | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
        **options: Any,
    ) -> httpx2.Client: ...

    @overload
    def thread_client(
        self,
        provider: str,
        *,
        library: Literal["httpx"],
        identity: Identity | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        **options: Any,
    ) -> httpx.Client: ...

    def thread_client(
        self,
        provider: str,
        *,
        library: Library = "httpx2",
        identity: Identity | None = None,
        transport: Any = None,
        **options: Any,
    ) -> httpx2.Client | httpx.Client:
        """As :meth:`http_client`, for synchronous code that runs in threads beside the event loop, such as
        FastAPI's ``def`` endpoints: ``OpenAI(http_client=runtime.thread_client("openai"))``.

        The loop of the runtime's lifespan does the work, so it must run, and calls from that loop itself raise
        :class:`~cachepolicy_runtime.clients.bridge.NotRunningError`.
        """
        if library == "httpx":
            from cachepolicy_runtime.clients import httpx as older

            return older.thread_client(self._exchange(provider, identity), self.bridge, transport, options)
        from cachepolicy_runtime.clients import httpx2 as current

        return current.thread_client(self._exchange(provider, identity), self.bridge, transport, options)

    @overload
    def transport(
        self, provider: str, inner: httpx2.AsyncBaseTransport, *, identity: Identity | None = None
    ) -> httpx2.AsyncBaseTransport: ...

    @overload
    def transport(
        self, provider: str, inner: httpx.AsyncBaseTransport, *, identity: Identity | None = None
    ) -> httpx.AsyncBaseTransport: ...

    def transport(self, provider: str, inner: Any, *, identity: Identity | None = None) -> Any:
        """``inner``, the transport of either library, behind the caches and limits; see :meth:`http_client`."""
        exchange = self._exchange(provider, identity)
        if any(part.__module__.partition(".")[0] == "httpx" for part in type(inner).__mro__):
            from cachepolicy_runtime.clients import httpx as older

            return older.CachingTransport(exchange, inner)
        from cachepolicy_runtime.clients import httpx2 as current

        return current.CachingTransport(exchange, inner)

    def cached(
        self,
        *,
        name: str | None = None,
        ttl: str | timedelta | None = None,
        shared: Shared = "tenant",
        key: Callable[..., Any] | None = None,
        ignore: Collection[str] = (),
        tags: Tags = (),
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """A decorator that keeps the results of a function in the response cache::

            @runtime.cached(ttl="10m", tags=lambda document, **_: [f"document:{document}"])
            async def summary(document: str, language: str = "en") -> Summary: ...

        A result belongs to the function (``name``, by default its full name), its arguments and whoever the
        running code works for: everybody of his ``tenant``, the ``user`` alone, or ``all``. For nobody only what
        all share is cached. ``ignore`` names arguments that change nothing, such as a connection; ``key`` makes
        the key itself, of the same arguments. ``tags`` are names for a purge. ``ttl`` (``10m``) holds where the
        policy gives no other to the provider ``functions`` or, as its model, to ``name``.

        The function must say what it returns; results are stored as JSON of that type. One without ``async`` is
        for threads. Raises ``ValueError`` for options that cannot be, and a call ``TypeError`` for an argument
        that no key can be made of.
        """
        options = Options.of(name=name, ttl=ttl, shared=shared, key=key, ignore=ignore, tags=tags)
        return cached(cast("CacheRuntime", self), options)

    def limit(self, name: str, *, cost: Cost = 1) -> RouteLimit:
        """A dependency of FastAPI that limits one route by the policy's limit ``name``::

            @app.post("/uploads", dependencies=[Depends(runtime.limit("uploads", cost=5))])

        A limit that some route names applies to such routes only: the middleware leaves it out. Its ``match``
        holds as well. ``cost`` is how many requests one counts as: a number, or a function of the request. A
        name that the policy does not have limits nothing, so that the same code runs without a policy.
        """
        from cachepolicy_runtime.clients.fastapi import RouteLimit

        return RouteLimit(cast("CacheRuntime", self), name, cost)

    async def session(self) -> Session:
        """The session of the request that is being served, as a dependency: ``Depends(runtime.session)``.

        Raises ``LookupError`` where there is none: outside of a request, without ``SessionMiddleware``, or where
        the policy has no sessions.
        """
        found: Session | None = (current_scope() or {}).get("session")
        if found is None:
            raise LookupError(
                "there is no session: the policy has none, or SessionMiddleware is not installed"
            )
        return found

    @contextmanager
    def running(self) -> Iterator[None]:
        """The runtime's lifespan in a thread of its own, for programs that have no event loop::

        with runtime.running(), acting_as(Identity("acme")):
            client = OpenAI(http_client=runtime.thread_client("openai"))
        """
        with running_in_thread(cast("CacheRuntime", self).lifespan):
            yield

    @property
    def bridge(self) -> LoopBridge:
        """For code in threads."""
        return LoopBridge(lambda: self.loop)

    def _exchange(self, provider: str, identity: Identity | None) -> Exchange:
        from cachepolicy_runtime.clients.exchange import Exchange

        return Exchange(cast("CacheRuntime", self), provider, identity)
