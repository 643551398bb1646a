"""The API server's side of one reconcile: claims, objects in their order, and what has to go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

from cachepolicy import names
from cachepolicy_operator import compare, errors
from cachepolicy_operator.decide import digest
from cachepolicy_operator.kinds import CLAIM, KINDS, Kind
from cachepolicy_operator.kube import Kube
from cachepolicy_operator.metrics import Metrics
from cachepolicy_operator.observe import Observer
from cachepolicy_operator.observed import Json, id_of
from cachepolicy_operator.plan import Growth, Notice, Plan, Removal, Write
from cachepolicy_operator.work import Work

_KINDS_BY_NAME: Final = {kind.name: kind for kind in KINDS.values()}

log = logging.getLogger(__name__)


class Writer:
    """Carries out the writes of a plan; ``notices`` gathers what people should be told of it."""

    def __init__(self, work: Work, kube: Kube, observer: Observer, metrics: Metrics) -> None:
        self._work = work
        self._kube = kube
        self._observer = observer
        self._metrics = metrics
        self.notices: list[Notice] = []

    async def write(self, plan: Plan) -> None:
        """Nothing without a last look at the policy.

        Raises Superseded when it was changed or deleted meanwhile, and Invalid, after all else was written, when the
        API server refused an object.
        """
        if not plan.changes:
            return
        await self._still_wanted()
        self._work.wrote = True
        for growth in plan.growths:
            await self._grow(growth)
        refused = await self._apply_all(plan)
        self.notices += plan.notices
        for removal in plan.removals:
            await self._remove(removal)
        if plan.document is not None:
            self._work.memory.document = plan.document
        if refused is not None:
            raise refused

    async def _still_wanted(self) -> None:
        """Apply creates: a policy that was deleted or changed meanwhile must not come back in its objects."""
        known = self._work.observed.policy["metadata"]
        fresh = await self._observer.policy(self._work.key)
        if fresh is None or any(
            fresh["metadata"].get(field) != known.get(field) for field in ("uid", "generation")
        ):
            raise errors.Superseded(f"CachePolicy {self._work.key} was changed or deleted")
        self._work.see_policy(fresh)

    async def _grow(self, growth: Growth) -> None:
        change = {"spec": {"resources": {"requests": {"storage": growth.size}}}}
        await self._kube.patch(CLAIM, self._work.key.namespace, growth.claim, change)
        self._metrics.wrote(CLAIM.name, "grows")
        note = f"PersistentVolumeClaim {growth.claim} is asked to grow to {growth.size}"
        self.notices.append(Notice("VolumeGrows", "Resize", note))

    async def _apply_all(self, plan: Plan) -> errors.Invalid | None:
        """Apply stage by stage. One that the API server refuses holds up none of the others: it is given back."""
        refused = None
        for stage in stages(plan.writes):
            ends = await asyncio.gather(*map(self._apply, stage), return_exceptions=True)
            for end in ends:
                if isinstance(end, errors.Invalid):
                    refused = refused or end
                elif isinstance(end, BaseException):
                    raise end
        return refused

    async def _apply(self, write: Write) -> None:
        obj = write.obj
        kind, name = id_of(obj)
        log.info("apply %s %s: %s", kind, name, "; ".join(write.reasons[:5]))
        try:
            stored = await self._kube.apply(obj)
        except errors.Invalid:
            if (kind, name) not in self._work.observed.objects:
                raise
            stored = await self._take_back(obj)
        stored = {"apiVersion": obj["apiVersion"], "kind": kind, **stored}
        self._metrics.wrote(kind, _kind_of_reason(write.reasons[0]))
        self._remember_what_is_left(obj, stored)
        self._work.see_object(stored)

    async def _take_back(self, obj: Json) -> Json:
        """Replace what somebody wrote into a list beside our items so that both together are invalid.

        Server-side apply merges lists by key and cannot remove another's item: a port whose number was changed is a
        second port of the same name. A merge patch replaces whole lists; the apply after it makes them ours again.
        """
        kind, name = id_of(obj)
        log.info("%s %s: its lists are replaced, as merging into them is refused", kind, name)
        content = {key: value for key, value in obj.items() if key not in ("apiVersion", "kind", "metadata")}
        await self._kube.patch(_KINDS_BY_NAME[kind], self._work.key.namespace, name, content)
        return await self._kube.apply(obj)

    def _remember_what_is_left(self, obj: Json, stored: Json) -> None:
        memory, known = self._work.memory, id_of(obj)
        memory.unappliable.pop(known, None)
        left = compare.difference(obj, stored, names.FIELD_MANAGER)
        if left:
            log.warning("%s %s still differs after it was applied: %s", *known, left[0])
            memory.unappliable[known] = (digest(obj), stored["metadata"]["resourceVersion"])

    async def _remove(self, removal: Removal) -> None:
        log.info("delete %s %s", removal.kind, removal.name)
        kind: Kind = _KINDS_BY_NAME[removal.kind]
        was_there = await self._kube.delete(
            kind,
            self._work.key.namespace,
            removal.name,
            uid=removal.uid,
            propagation="Orphan" if removal.orphan else "Background",
        )
        self._metrics.wrote(removal.kind, "unwanted")
        self._work.lose_object((removal.kind, removal.name))
        if was_there and removal.notice is not None:
            self.notices.append(removal.notice)


def stages(writes: Iterable[Write]) -> tuple[tuple[Write, ...], ...]:
    """Writes that may go out together: passwords first, as they are made once; pods last, as they mount the rest."""
    first, last = ("Secret",), ("StatefulSet", "Pod")
    kinds = [(write.obj["kind"], write) for write in writes]
    return (
        tuple(write for kind, write in kinds if kind in first),
        tuple(write for kind, write in kinds if kind not in first + last),
        tuple(write for kind, write in kinds if kind in last),
    )


def _kind_of_reason(reason: str) -> str:
    """A reason of :func:`compare.difference` without its path: few values, for a metric."""
    words = reason.rpartition(": ")[2]
    return {"missing": "missing", "changed": "changed", "no longer wanted": "unwanted"}.get(
        words, "taken over"
    )
