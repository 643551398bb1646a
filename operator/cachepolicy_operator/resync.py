"""Finds what a watch has missed (rule 25), from one LIST per kind for all policies, and from single GETs of Secrets.

Only resourceVersions are compared: where they are what the last quiet reconcile saw, there is nothing to decide again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from cachepolicy import names
from cachepolicy_operator import errors
from cachepolicy_operator.handlers import key_of_consumer, key_of_owned, key_of_policy
from cachepolicy_operator.kinds import (
    CACHE_POLICY,
    CONFIG_MAP,
    NETWORK_POLICY,
    POD,
    SECRET,
    SERVICE,
    STATEFUL_SET,
)
from cachepolicy_operator.kube import Kube
from cachepolicy_operator.observe import secret_names
from cachepolicy_operator.observed import Json, ObjectId, id_of
from cachepolicy_operator.queue import Key
from cachepolicy_operator.reconcile import Reconciler
from cachepolicy_operator.resources.labels import owned_selector

#: Seconds between two GETs of a Secret, over all policies.
SECRETS_PACE: Final = 1.5

log = logging.getLogger(__name__)


class Resync:
    """Runs until it is cancelled. ``namespaces`` is empty for all."""

    def __init__(
        self,
        kube: Kube,
        reconciler: Reconciler,
        enqueue: Callable[[Key], None],
        *,
        interval: float,
        namespaces: tuple[str, ...] = (),
    ) -> None:
        self._kube = kube
        self._reconciler = reconciler
        self._enqueue = enqueue
        self._interval = interval
        self._namespaces: tuple[str | None, ...] = namespaces or (None,)

    async def run(self) -> None:
        """Rounds over all kinds, with jitter; what fails is tried again in the next one."""
        while True:
            await asyncio.sleep(self._interval * (0.8 + 0.4 * random.random()))  # noqa: S311 - no secret
            try:
                await self.look()
            except errors.OperatorError as error:
                log.warning("resync: %s", error)

    async def look(self) -> None:
        """One round: enqueue every policy of which an object is not as it was at its last rest."""
        found: dict[Key, dict[ObjectId, str]] = {}
        for namespace in self._namespaces:
            for policy in await self._kube.list(CACHE_POLICY, namespace):
                _add(found, key_of_policy(policy["metadata"]), policy)
            for kind in (STATEFUL_SET, SERVICE, CONFIG_MAP, NETWORK_POLICY, POD):
                for obj in await self._kube.list(kind, namespace, selector=owned_selector()):
                    _add(found, key_of_owned(obj["metadata"]), obj)
            for pod in await self._kube.list(POD, namespace, selector=names.LABEL_POLICY):
                _add(found, key_of_consumer(pod["metadata"]), pod)
        for key in {*self._policies(found), *self._reconciler.policies}:
            if not same_versions(found.get(key, {}), self._reconciler.versions(key)):
                log.debug("%s: the resync found a difference", key)
                self._enqueue(key)

    async def look_at_secrets(self) -> None:
        """GET one Secret after the other, for ever, and enqueue the policy of one that changed or has gone."""
        while True:
            asked = False
            for key in self._reconciler.policies:
                for name in secret_names(key.name):
                    await asyncio.sleep(SECRETS_PACE)
                    asked = True
                    await self._look_at_secret(key, name)
            if not asked:
                await asyncio.sleep(SECRETS_PACE)

    async def _look_at_secret(self, key: Key, name: str) -> None:
        known = self._reconciler.versions(key)
        if known is None:
            return
        try:
            secret = await self._kube.find(SECRET, key.namespace, name)
        except errors.OperatorError as error:
            log.warning("%s: Secret %s: %s", key, name, error)
            return
        version = None if secret is None else secret["metadata"]["resourceVersion"]
        if known.get((SECRET.name, name)) != version:
            self._enqueue(key)

    @staticmethod
    def _policies(found: Mapping[Key, Mapping[ObjectId, str]]) -> Iterable[Key]:
        return (key for key, objects in found.items() if (CACHE_POLICY.name, key.name) in objects)


def same_versions(found: Mapping[ObjectId, str], known: Mapping[ObjectId, str] | None) -> bool:
    """Whether all objects but Secrets, which are not listed, are as they were."""
    if known is None:
        return False
    listed = {known_id: version for known_id, version in known.items() if known_id[0] != SECRET.name}
    # Pods by a selector of the policy's own are in no list of a round.
    return all(
        found.get(known_id) == version for known_id, version in listed.items() if known_id[0] != POD.name
    ) and {known_id for known_id in found if known_id[0] != POD.name} <= set(listed)


def _add(found: dict[Key, dict[ObjectId, str]], key: Key | None, obj: Json) -> None:
    if key is not None:
        found.setdefault(key, {})[id_of(obj)] = obj["metadata"]["resourceVersion"]
