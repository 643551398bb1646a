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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cachepolicy import stamps
from cachepolicy.acknowledgement import Member
from cachepolicy.caches import EmbeddingCache, Purge, ResponseCache
from cachepolicy.document import CONTRACT, DocumentRedis, PolicyDocument, Reading
from cachepolicy.identity import Identity
from cachepolicy.keys import KeyLayout
from cachepolicy.names import FILE_ADMIN_TOKEN, FILE_HMAC_KEY, Role
from cachepolicy.sessions import Sessions as SessionRules
from cachepolicy_runtime import status
from cachepolicy_runtime.asgi.endpoints import Endpoints
from cachepolicy_runtime.asgi.types import Scope, client_ip
from cachepolicy_runtime.caching import CacheView, CombinedStamps
from cachepolicy_runtime.control import Control, credential_digest
from cachepolicy_runtime.embeddings import Embeddings
from cachepolicy_runtime.policy import PolicySource
from cachepolicy_runtime.ratelimit import Decision, Limit, Outcome, RateLimiter, Subject, compile_limits
from cachepolicy_runtime.responses import Responses
from cachepolicy_runtime.secrets import AdminToken, CacheSecretSource, WatchedFile, required_file
from cachepolicy_runtime.sessions import SessionPolicy, Sessions
from cachepolicy_runtime.settings import RedisTarget, RuntimeSettings
from cachepolicy_runtime.store.endpoint import FileCredentials
from cachepolicy_runtime.store.memory_limits import MemoryLimitStore
from cachepolicy_runtime.stores import MemoryStores, Stores

_log = logging.getLogger("cachepolicy.runtime")

#: Finds out who calls, from nothing but authentication; None is nobody known. It may be asynchronous.
Identify = Callable[[Scope], "Identity | Awaitable[Identity | None] | None"]

#: Where a request remembers who calls. Only the server and the app can write to a scope.
_WHO = "cachepolicy.identity"
#: Requests that began before a change of servers finish within this time, in seconds.
_RETIRE_S = 5.0
#: Name of what holds where no document says anything.
BUILT_IN = "built-in"


@dataclass(frozen=True, slots=True)
class Active:
    """Everything that is in force, replaced as a whole.

    Attributes:
        reading: the document, or the built-in defaults.
        places: what the stores were connected to, to see whether a new document moves them.
    """

    reading: Reading
    keys: KeyLayout
    places: Mapping[Role, RedisTarget]
    stores: Stores
    limiter: RateLimiter
    limits: tuple[Limit, ...]
    sessions: SessionPolicy | None

    @property
    def document(self) -> PolicyDocument:
        return self.reading.document


class CacheRuntime:
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
        self._secret = secret
        self._memory = MemoryStores()
        self._fallback = MemoryLimitStore()
        self._source = PolicySource(settings.policy_dir) if settings.policy_dir is not None else None
        self._unusable: str | None = None
        self._combined: CombinedStamps | None = None
        self._retiring: dict[asyncio.Task[None], Stores] = {}
        self.limit_counts = status.LimitCounts()
        self.sessions = Sessions(self._memory.sessions)
        self.control = Control(
            Member(settings.pod_name, os.getpid(), secrets.token_hex(4)),
            self._memory.control,
            self._source,
            self._credential,
        )
        self.control.every_beat(self.sessions.settle)
        self._responses = Responses(self._cache_view)
        self._embeddings = Embeddings(self._cache_view)
        self._active = self._activate(Reading(_built_in(settings), ()))
        self._use(self._active.stores)
        if self._source is not None:
            self._source.subscribe(self._adopt)

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
        self._secret()  # says at the start whether the caches are shared
        self.control.applied(self._active.reading)
        await self.control.start()
        if self._source is None:
            _log.info(_without_directory(self._active))
        try:
            yield
        finally:
            await self.control.stop()
            await self._close()

    def endpoints(self) -> Endpoints:
        """``/health``, ``/stats`` and ``/clear`` as an ASGI application to be mounted, usually at ``/cache``."""
        return Endpoints(self)

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
    def document(self) -> PolicyDocument | None:
        """The policy that is enforced; None while there is none and the built-in defaults hold."""
        document = self._active.document
        return None if document.revision == BUILT_IN else document

    async def identity(self, scope: Scope) -> Identity | None:
        """Who calls, asked once for each request."""
        if _WHO not in scope:
            who = self._identify(scope)
            scope[_WHO] = await who if inspect.isawaitable(who) else who
        found: Identity | None = scope[_WHO]
        return found

    # --- what the middleware and the endpoints use --------------------------------------------------------

    def installed(self, section: str) -> None:
        """This process has what enforces ``section`` (its name in the spec)."""
        self.control.enforces(section)

    @property
    def session_policy(self) -> SessionPolicy | None:
        """The rules of sessions; None where the policy has none."""
        return self._active.sessions

    async def admit(self, scope: Scope) -> Decision:
        """Count a request against every limit that applies to it, in all of them or in none."""
        active = self._active
        if not active.limits:
            return Decision(Outcome.ADMITTED)
        subject = Subject(scope["method"], scope["path"], client_ip(scope), await self.identity(scope))
        decision = await active.limiter.admit(active.limits, active.keys, subject)
        self.limit_counts.count(decision)
        return decision

    async def clear(self, scope: stamps.Scope) -> None:
        """Make every cached entry in ``scope`` a miss, in all processes within a second.

        Raises :class:`~cachepolicy_runtime.store.errors.StoreUnavailable`; nothing was cleared then.
        """
        await self.control.clear([scope.stamp_field])

    def health(self) -> dict[str, Any]:
        """``up`` or ``degraded`` and why; the body of ``/health``."""
        return status.health(self.document, self._active.stores.transports, self._reasons())

    def stats(self) -> dict[str, Any]:
        """What this process did since it started; the body of ``/stats``."""
        return {
            **status.policy(self.document),
            "process": {"pod": self._settings.pod_name, "pid": os.getpid()},
            "responses": self._responses.counts.as_dict(),
            "embeddings": self._embeddings.counts.as_dict(),
            "limits": self.limit_counts.as_dict(self.control.live),
            "sessions": status.session_stats(self.sessions.counts),
            "stores": status.stores(self._active.stores.transports),
        }

    # --- following the policy -----------------------------------------------------------------------------

    def _adopt(self, reading: Reading) -> None:
        """Put a document in force. One that cannot be used changes nothing."""
        try:
            before, self._active = self._active, self._activate(reading)
        except ValueError as error:
            self._unusable = f"policy.json, revision {reading.document.revision}: {error}"
            _log.error("%s; what was in force stays", self._unusable)
            return
        self._unusable = None
        if self._active.stores is not before.stores:
            self._use(self._active.stores)
            self._retire(before.stores)
        self.control.applied(reading)

    def _use(self, stores: Stores) -> None:
        self.sessions.use(stores.sessions)
        self.control.use(stores.control)

    def _activate(self, reading: Reading) -> Active:
        document = reading.document
        keys, places = document.keys, dict(self._places(document))
        before: Active | None = getattr(self, "_active", None)
        moved = before is None or before.keys != keys or before.places != places
        if before is not None and not moved:
            stores, limiter = before.stores, before.limiter
        else:
            stores = Stores.connect(places, keys, self._memory, self._settings.deadline_s)
            limiter = RateLimiter(stores.limits, self._fallback, lambda: self.control.live)
        return Active(
            reading=reading,
            keys=keys,
            places=places,
            stores=stores,
            limiter=limiter,
            limits=compile_limits(document.rate_limits or {}),
            sessions=SessionPolicy(keys, document.sessions) if document.sessions is not None else None,
        )

    def _places(self, document: PolicyDocument) -> Iterator[tuple[Role, RedisTarget]]:
        """The servers that the document names, else those of the environment where no document has to."""
        named = {Role.STATE: self._settings.state, Role.CACHE: self._settings.cache}
        for role, fixed in named.items():
            endpoint = document.redis.endpoint(role)
            if endpoint is not None:
                yield role, self._settings.target(endpoint.url)
            elif fixed is not None and self._source is None:
                yield role, fixed

    def _cache_view(self) -> CacheView:
        active = self._active
        return CacheView(
            layout=active.keys,
            store=active.stores.cache,
            fallback=self._memory.cache,
            secret=self._secret(),
            responses=active.document.response_cache,
            embeddings=active.document.embedding_cache,
            stamp_of=self._stamp_of(active.document.purge),
        )

    def _stamp_of(self, purge: Purge | None) -> Callable[[stamps.Scope], str | None]:
        known = self.control.stamps
        if known is None:
            return _unknown_stamp
        if self._combined is None or not self._combined.hold_for(known, purge):
            self._combined = CombinedStamps(known, purge)
        return self._combined.of

    def _credential(self) -> str | None:
        directory = self._settings.policy_dir
        return credential_digest(FileCredentials(directory)().password) if directory is not None else None

    def _reasons(self) -> Iterator[str]:
        if self._source is not None and self._source.refused:
            yield self._source.refused
        if self._unusable:
            yield self._unusable
        caching = self._active.document.response_cache or self._active.document.embedding_cache
        if caching and self.control.stamps is None:
            yield "the caches are not used: a purge could have been missed while their control keys are away"
        if caching and Role.CACHE in self._active.stores.transports and not self._secret.shared:
            yield "the caches are not shared with other replicas: there is no HMAC key file"

    def _retire(self, stores: Stores) -> None:
        task = asyncio.get_running_loop().create_task(_close_later(stores))
        self._retiring[task] = stores
        task.add_done_callback(self._retiring.pop)

    async def _close(self) -> None:
        retiring = dict(self._retiring)
        for task in retiring:
            task.cancel()
        await asyncio.gather(*retiring, return_exceptions=True)
        for stores in (*retiring.values(), self._active.stores):
            await stores.aclose()


def _unknown_stamp(scope: stamps.Scope) -> None:
    return None


async def _close_later(stores: Stores) -> None:
    await asyncio.sleep(_RETIRE_S)
    await stores.aclose()


def _built_in(settings: RuntimeSettings) -> PolicyDocument:
    """What holds where there is no policy: sessions and caches with their defaults, and no limits."""
    return PolicyDocument(
        contract=CONTRACT,
        policy=settings.key_prefix,
        uid=BUILT_IN,
        revision=BUILT_IN,
        sequence=0,
        redis=DocumentRedis(key_prefix=settings.key_prefix),
        sessions=SessionRules(),
        response_cache=ResponseCache(),
        embedding_cache=EmbeddingCache(),
    )


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
