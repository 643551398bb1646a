"""The public entry: one :class:`CacheRuntime` for each Core process.

::

    runtime = CacheRuntime.from_env(identify=who_calls)
    app = FastAPI(lifespan=runtime.lifespan)
    app.add_middleware(SessionMiddleware, runtime=runtime)
    app.add_middleware(RateLimitMiddleware, runtime=runtime)
    app.mount("/cache", runtime.endpoints())

It follows the policy document while it runs: a new revision holds from the next request on, and a request that
is under way keeps what it began with.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cachepolicy import stamps
from cachepolicy.acknowledgement import Member
from cachepolicy.document import PolicyDocument
from cachepolicy.identity import Identity
from cachepolicy.names import FILE_ADMIN_TOKEN, FILE_HMAC_KEY, Role
from cachepolicy_runtime import status
from cachepolicy_runtime.active import Active
from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.asgi.endpoints import Endpoints, Resolve, Warm
from cachepolicy_runtime.asgi.types import Scope
from cachepolicy_runtime.caller import current
from cachepolicy_runtime.clients.entry import Clients
from cachepolicy_runtime.control import SPENDING, Control, credential_digest
from cachepolicy_runtime.embeddings import Embeddings
from cachepolicy_runtime.explaining import explanation
from cachepolicy_runtime.following import CacheViews, Following
from cachepolicy_runtime.keys import UpstreamRequest
from cachepolicy_runtime.policy import PolicySource
from cachepolicy_runtime.ratelimit import (
    ADMISSION,
    UNLIMITED,
    Admitted,
    Decision,
    LimitCounts,
    RateLimiter,
    Subject,
)
from cachepolicy_runtime.recent import RecentKeys
from cachepolicy_runtime.responses import Responses
from cachepolicy_runtime.secrets import AdminToken, CacheSecretSource, WatchedFile, required_file
from cachepolicy_runtime.sessions import SessionPolicy, Sessions
from cachepolicy_runtime.settings import RuntimeSettings
from cachepolicy_runtime.spend import Call, Spending, SpendView
from cachepolicy_runtime.store.endpoint import FileCredentials
from cachepolicy_runtime.store.indexes import IndexStore
from cachepolicy_runtime.store.server_info import ServerInfo
from cachepolicy_runtime.stores import MemoryStores
from cachepolicy_runtime.streams import ByteStream

_log = logging.getLogger("cachepolicy.runtime")

#: Finds out who calls, from nothing but authentication; None is nobody known. It may be asynchronous.
Identify = Callable[[Scope], "Identity | Awaitable[Identity | None] | None"]

#: Where a request remembers who calls. Only the server and the app can write to a scope.
_WHO = "cachepolicy.identity"


class CacheRuntime(Clients):
    """Sessions, rate limits and caches of this process, as the policy says.

    ``responses`` and ``embeddings`` are the caches, ``sessions``, ``limiter`` and ``control`` what the middleware
    and the endpoints work with. Everything but the caches follows the policy without being asked for anew.
    """

    def __init__(
        self,
        settings: RuntimeSettings,
        *,
        identify: Identify,
        secret: CacheSecretSource,
        admin_token: AdminToken,
    ) -> None:
        self.admin_token = admin_token
        self._settings = settings
        self._identify = identify
        self._named_limits: frozenset[str] = frozenset()
        self._secret = secret
        self._source = PolicySource(settings.policy_dir) if settings.policy_dir is not None else None
        memory = self._memory = MemoryStores()
        self._server_info = ServerInfo()
        self._recent = RecentKeys()
        self.limit_counts = LimitCounts()
        self.sessions = Sessions(memory.sessions, policy=lambda: self.session_policy)
        self.control = Control(
            Member(settings.pod_name, os.getpid(), secrets.token_hex(4)),
            memory.control,
            self._source,
            self._credential,
        )
        self.control.every_beat(self.sessions.settle)
        self._following = Following(
            settings, self._source, memory, self.sessions, self.control, limit_counts=self.limit_counts
        )
        view = CacheViews(self._following, memory, secret, self.control)
        self._responses = Responses(view)
        self._responses.on_miss = self._recent.remember
        self._embeddings = Embeddings(view)
        self._spending = Spending(self._spend_view)

    @classmethod
    def from_env(cls, *, identify: Identify, environ: Mapping[str, str] = os.environ) -> CacheRuntime:
        """A runtime as the environment describes it (``settings.py`` lists the variables).

        ``identify`` names the owner of a request from its ASGI scope; no other source chooses a tenant or a user.
        CACHE_HMAC_KEY_FILE and CACHE_ADMIN_TOKEN_FILE name the two secrets where no policy directory has them.
        Raises ``ValueError`` naming the variable that is wrong.
        """
        settings = RuntimeSettings.from_env(environ)
        return cls(
            settings,
            identify=identify,
            secret=CacheSecretSource(
                _files(settings.policy_dir, FILE_HMAC_KEY, environ, "CACHE_HMAC_KEY_FILE")
            ),
            admin_token=AdminToken(
                _files(settings.policy_dir, FILE_ADMIN_TOKEN, environ, "CACHE_ADMIN_TOKEN_FILE")
            ),
        )

    # --- what an application uses -------------------------------------------------------------------------

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Follow the policy from here on; at the end acknowledge no more and close every connection.

        To be given to an application as its lifespan, or entered in another one (``async with``). Once only.
        """
        self.loop = asyncio.get_running_loop()
        self._secret()  # says at the start whether the caches are shared
        self.control.applied(self._active.reading)
        await self.control.start()
        if self._source is None:
            _log.info(_without_directory(self._active))
        try:
            yield
        finally:
            self.loop = None
            await self.control.stop()
            await self._responses.aclose()
            await self._spending.aclose()
            await self._following.aclose()

    def endpoints(self, *, warm: Warm | None = None, resolve: Resolve | None = None) -> Endpoints:
        """``/health``, ``/stats``, ``/clear``… as an ASGI application to be mounted, usually at ``/cache``.

        ``warm`` sends a request through the application and ``resolve`` tells where it goes: ``/warm`` and paths in
        ``/explain`` need them.
        """
        return Endpoints(self, warm, resolve)

    @property
    def responses(self) -> Responses:
        """The response cache. Whoever takes it uses it: the process reports the section as enforced."""
        self.installed("responseCache")
        return self._responses

    @property
    def embeddings(self) -> Embeddings:
        """The embedding cache. Whoever takes it uses it: the process reports the section as enforced."""
        self.installed("embeddingCache")
        return self._embeddings

    @property
    def limiter(self) -> RateLimiter:
        return self._active.limiter

    @property
    def spending(self) -> Spending:
        """The second phase of limits. Whoever takes it uses it: with the middleware, limits on tokens and models
        are enforced."""
        self.installed(SPENDING)
        return self._spending

    async def spend(
        self, request: UpstreamRequest, call: Call, *, identity: Identity | None
    ) -> Answer | ByteStream:
        """What ``call`` returns, paid for under the limits on tokens and models; see :mod:`cachepolicy_runtime.spend`.

        To be called where the provider is asked, after the caches. Raises
        :class:`~cachepolicy_runtime.spend.LimitedError`.
        """
        return await self.spending.call(request, call, identity=identity)

    @property
    def document(self) -> PolicyDocument | None:
        """The policy that is enforced; None while there is none and the built-in defaults hold."""
        return self._following.document

    async def identity(self, scope: Scope) -> Identity | None:
        """Who calls, asked once for each request."""
        if _WHO not in scope:
            who = self._identify(scope)
            at_once = who is None or isinstance(who, Identity)  # asking for an awaitable takes longer
            scope[_WHO] = await who if not at_once and inspect.isawaitable(who) else who
        found: Identity | None = scope[_WHO]
        return found

    async def caller(self) -> Identity | None:
        """Who the running code works for: the request that a middleware of ours serves, or whoever is named by
        :func:`~cachepolicy_runtime.caller.acting_as`. None is nobody: nothing is cached then.
        """
        found = current()
        return found if found is None or isinstance(found, Identity) else await self.identity(found)

    def _spend_view(self) -> SpendView:
        active = self._active
        return SpendView(active.limits, active.keys, active.limiter)

    # --- what the middleware and the endpoints use --------------------------------------------------------

    def installed(self, section: str) -> None:
        """This process has what enforces ``section`` (its name in the spec)."""
        self.control.enforces(section)

    @property
    def indexes(self) -> IndexStore:
        """Where values that can be listed are named."""
        return self._active.stores.indexes

    @property
    def session_policy(self) -> SessionPolicy | None:
        """The rules of sessions; None where the policy has none."""
        return self._active.sessions

    async def admit(self, scope: Scope) -> Decision:
        """Count a request against every limit that applies to it, in all of them or in none."""
        active = self._following.active
        limits = active.limits
        if self._named_limits:
            limits = limits.without(self._named_limits)
        if not limits.any:
            return UNLIMITED
        who = scope[_WHO] if _WHO in scope else await self.identity(scope)
        asked = limits.known(scope["method"], scope["path"], who)
        if asked is not None:
            decided = active.limiter.at_once(asked, limits.denials)
            return decided or await active.limiter.decide(asked, limits.denials)
        subject = await self._subject(active, scope)
        decision = await active.limiter.admit(limits, active.keys, subject)
        if limits.spends:
            scope[ADMISSION] = Admitted(subject, decision)
        return decision

    async def admit_by_name(self, scope: Scope, name: str, cost: int = 1) -> Decision | None:
        """Count a request, ``cost`` times, against one limit that its route names; None where the policy has no
        such limit of requests.
        """
        active = self._active
        try:
            limits = active.limits.named(name)
        except KeyError:
            return None
        return await active.limiter.admit(limits, active.keys, await self._subject(active, scope), cost)

    def limited_by_route(self, name: str) -> None:
        """This limit applies where a route names it, and nowhere else."""
        self._named_limits |= {name}

    async def _subject(self, active: Active, scope: Scope) -> Subject:
        who, address = await self.identity(scope), active.proxies.address(scope)
        return Subject(scope["method"], scope["path"], address, who, scope["headers"])

    async def clear(self, scope: stamps.Scope) -> None:
        """Make every cached entry in ``scope`` a miss, in all processes within a second.

        Raises :class:`~cachepolicy_runtime.store.errors.StoreUnavailable`; nothing was cleared then.
        """
        await self.control.clear([scope.stamp_field])

    def health(self) -> dict[str, Any]:
        """``up`` or ``degraded`` and why; the body of ``/health``."""
        return status.health(self.document, self._active.stores.transports, self._reasons())

    async def explain(self, request: UpstreamRequest, *, provider: str, identity: Identity) -> dict[str, Any]:
        """Whether this request would be a hit and why not; the body of ``/explain``. Nothing is counted or stored."""
        found = await self._responses.inspect(request, provider=provider, identity=identity)
        return explanation(found, self._recent.nearest(identity.tenant, provider, request))

    async def stats(self) -> dict[str, Any]:
        """What this process did since it started; the body of ``/stats``."""
        stores = self._active.stores
        server = await self._server_info.figures(stores.transports.get(Role.CACHE), self._memory.cache)
        return {
            **status.policy(self.document),
            "process": {"pod": self._settings.pod_name, "pid": os.getpid()},
            "responses": self._responses.counts.as_dict(),
            "embeddings": self._embeddings.counts.as_dict(),
            "limits": self.limit_counts.as_dict(self.control.live),
            "sessions": status.session_stats(self.sessions.counts),
            "cacheServer": server.as_dict(),
            "stores": status.store_stats(stores.transports),
        }

    @property
    def _active(self) -> Active:
        return self._following.active

    def _credential(self) -> str | None:
        directory = self._settings.policy_dir
        return credential_digest(FileCredentials(directory)().password) if directory is not None else None

    def _reasons(self) -> Iterator[str]:
        if self._source is not None and self._source.refused:
            yield self._source.refused
        if self._following.unusable:
            yield self._following.unusable
        caching = self._active.has_cache
        if caching and self.control.stamps is None:
            yield "the caches are not used: a purge could have been missed while their control keys are away"
        if caching and Role.CACHE in self._active.stores.transports and not self._secret.shared:
            yield "the caches are not shared with other replicas: there is no HMAC key file"


def _without_directory(active: Active) -> str:
    if not active.places:
        return (
            "neither CACHEPOLICY_DIR nor REDIS_URL is set: sessions and caches are in the memory of this process "
            "and not shared with other replicas; there are no rate limits"
        )
    roles = " and ".join(str(role) for role in active.places)
    return (
        f"CACHEPOLICY_DIR is not set: sessions and caches work with their defaults on the {roles} server that the "
        "environment names; there are no rate limits"
    )


def _files(
    directory: Path | None, name: str, environ: Mapping[str, str], variable: str
) -> tuple[WatchedFile, ...]:
    mounted = (WatchedFile(directory / name),) if directory is not None else ()
    path = environ.get(variable)
    return (*mounted, required_file(variable, path)) if path else mounted
