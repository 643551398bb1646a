"""Following the policy: put each new document in force, and retire what it replaces.

A request takes :attr:`Following.active` once and keeps it to its end, whatever comes meanwhile: servers that are
no longer in use stay connected for a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from cachepolicy import stamps
from cachepolicy.document import PolicyDocument, Reading
from cachepolicy.purge import Purge, changed
from cachepolicy_runtime.active import BUILT_IN, Activation, Active, built_in
from cachepolicy_runtime.caching import CacheView, CombinedStamps
from cachepolicy_runtime.control import Control
from cachepolicy_runtime.policy import PolicySource
from cachepolicy_runtime.ratelimit import LimitCounts
from cachepolicy_runtime.secrets import CacheSecretSource
from cachepolicy_runtime.sessions import Sessions
from cachepolicy_runtime.settings import RuntimeSettings
from cachepolicy_runtime.stores import MemoryStores, Stores

_log = logging.getLogger("cachepolicy.runtime")

#: Requests that began before a change of servers finish within this time, in seconds.
_RETIRE_S = 5.0


class Following:
    """What is in force, from the built-in defaults on.

    Attributes:
        active: what is in force now.
        unusable: why the newest document is not in force although it can be read; None when it is.
    """

    def __init__(
        self,
        settings: RuntimeSettings,
        source: PolicySource | None,
        memory: MemoryStores,
        sessions: Sessions,
        control: Control,
        *,
        limit_counts: LimitCounts,
    ) -> None:
        self._sessions = sessions
        self._control = control
        self._activation = Activation(
            settings, memory, lambda: control.live, limit_counts, environment_serves=source is None
        )
        self._retiring: dict[asyncio.Task[None], Stores] = {}
        self.unusable: str | None = None
        self.active = self._activation.of(built_in(settings), None)
        self._use(self.active.stores)
        if source is not None:
            source.subscribe(self._adopt)

    @property
    def document(self) -> PolicyDocument | None:
        """The policy that is enforced; None while there is none and the built-in defaults hold."""
        document = self.active.document
        return None if document.revision == BUILT_IN else document

    async def aclose(self) -> None:
        """Close every connection, also those that are retiring."""
        retiring = dict(self._retiring)
        for task in retiring:
            task.cancel()
        await asyncio.gather(*retiring, return_exceptions=True)
        for stores in (*retiring.values(), self.active.stores):
            await stores.aclose()

    def _adopt(self, reading: Reading) -> None:
        """Put a document in force. One that cannot be used changes nothing."""
        before = self.active
        try:
            self.active = self._activation.of(reading, before)
        except ValueError as error:
            self.unusable = f"policy.json, revision {reading.document.revision}: {error}"
            _log.error("%s; what was in force stays", self.unusable)
            return
        self.unusable = None
        if self.active.stores is not before.stores:
            self._use(self.active.stores)
            self._retire(before.stores)
        if before.reading.document.revision != BUILT_IN:  # what held before is known
            document = reading.document
            self._control.purged(changed(before.document.purge, document.purge), document.revision)
        self._control.applied(reading)

    def _use(self, stores: Stores) -> None:
        self._sessions.use(stores.sessions)
        self._control.use(stores.control)

    def _retire(self, stores: Stores) -> None:
        task = asyncio.get_running_loop().create_task(_close_later(stores))
        self._retiring[task] = stores
        task.add_done_callback(self._retiring.pop)


class CacheViews:
    """Gives each request to a cache its view of the policy (a :data:`~cachepolicy_runtime.caching.ViewSource`)."""

    def __init__(
        self, following: Following, memory: MemoryStores, secret: CacheSecretSource, control: Control
    ) -> None:
        self._following = following
        self._memory = memory
        self._secret = secret
        self._control = control
        self._combined: CombinedStamps | None = None
        self._of: Callable[[stamps.Scope], str | None] = _unknown_stamp
        self._last: tuple[Active, CacheView] | None = None

    def __call__(self) -> CacheView:
        """The same object as long as nothing changed: what was worked out for it holds."""
        active, secret = self._following.active, self._secret()
        stamp_of = self._stamp_of(active.document.purge)
        if self._last is not None:
            before, view = self._last
            if before is active and view.secret is secret and view.stamp_of is stamp_of:
                return view
        view = CacheView(
            layout=active.keys,
            store=active.stores.cache,
            fallback=self._memory.cache,
            secret=secret,
            responses=active.document.response_cache,
            embeddings=active.document.embedding_cache,
            stamp_of=stamp_of,
            leases=active.stores.leases,
        )
        self._last = active, view
        return view

    def _stamp_of(self, purge: Purge | None) -> Callable[[stamps.Scope], str | None]:
        known = self._control.stamps
        if known is None:
            return _unknown_stamp
        if self._combined is None or not self._combined.hold_for(known, purge):
            self._combined = CombinedStamps(known, purge)
            self._of = self._combined.of  # one object while it holds, by which others see that it does
        return self._of


def _unknown_stamp(scope: stamps.Scope) -> None:
    return None


async def _close_later(stores: Stores) -> None:
    await asyncio.sleep(_RETIRE_S)
    await stores.aclose()
