"""Reads from the API server what a decision about one CachePolicy needs. Redis is asked by ``reconcile``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Final

from cachepolicy import names
from cachepolicy.names import Role
from cachepolicy.spec import CachePolicySpec
from cachepolicy_operator.enforcement import core_selector
from cachepolicy_operator.kinds import (
    CACHE_POLICY,
    CLAIM,
    CONFIG_MAP,
    NETWORK_POLICY,
    POD,
    SECRET,
    SERVICE,
    STATEFUL_SET,
    Kind,
)
from cachepolicy_operator.kube import Kube
from cachepolicy_operator.observed import Json, ObjectId, Observed, ServerView, id_of
from cachepolicy_operator.ownership import Owner, owner_of
from cachepolicy_operator.queue import Key
from cachepolicy_operator.resources import Credentials, FoundCredentials, found_in, random_token
from cachepolicy_operator.resources.labels import policy_selector
from cachepolicy_operator.resources.trial import COMPONENT as TRIAL

_LISTED: Final = (STATEFUL_SET, SERVICE, CONFIG_MAP, NETWORK_POLICY)


@dataclass(frozen=True)
class Objects:
    """What the API server holds for one policy."""

    children: dict[ObjectId, Json]
    claims: dict[str, Json]
    redis_pods: dict[str, Json]
    core_pods: tuple[Json, ...]


class Observer:
    """Reads; never writes."""

    def __init__(self, kube: Kube, default_image: str, operator_namespace: str | None = None) -> None:
        self._kube = kube
        self._default_image = default_image
        self._operator_namespace = operator_namespace

    async def policy(self, key: Key) -> Json | None:
        """The CachePolicy; None when it is gone or going."""
        found = await self._kube.find(CACHE_POLICY, key.namespace, key.name)
        if found is None or found["metadata"].get("deletionTimestamp"):
            return None
        return {"apiVersion": CACHE_POLICY.api_version, "kind": CACHE_POLICY.name, **found}

    async def observe(
        self, policy: Json, spec: CachePolicySpec, now: datetime, made: Credentials | None
    ) -> Observed:
        """Everything but Redis itself. Credentials that are missing are made here, and written with the rest.

        ``made`` are those of an attempt that failed half-way: what it wrote must not be made again.
        """
        name, uid = policy["metadata"]["name"], policy["metadata"]["uid"]
        objects = await self._objects(policy["metadata"]["namespace"], name, spec)
        found = _credentials(objects.children, name, uid)
        had_some = any(kind == "StatefulSet" for kind, _ in objects.children)
        return Observed(
            policy=policy,
            default_image=self._default_image,
            operator_namespace=self._operator_namespace,
            spare_token=random_token(),
            now=now,
            credentials=_completed(found, made),
            lost_credentials=found.missing if had_some else (),
            objects=objects.children,
            claims=objects.claims,
            core_pods=objects.core_pods,
            servers={
                role: ServerView(pod=objects.redis_pods.get(f"{names.server(name, role)}-0"))
                for role in spec.roles
            },
        )

    async def _objects(self, namespace: str, name: str, spec: CachePolicySpec) -> Objects:
        selector = policy_selector(name)
        lists = await asyncio.gather(
            *(self._kube.list(kind, namespace, selector=selector) for kind in (*_LISTED, CLAIM, POD)),
            self._kube.list(POD, namespace, selector=core_selector(name, spec)),
            self._found(namespace, ((SECRET, secret) for secret in secret_names(name))),
        )
        *listed, claims, redis_pods, core_pods, secrets = lists
        children = {id_of(obj): obj for objects in (*listed, secrets) for obj in objects}
        # What lost its labels, and what somebody else made under a name of ours, is in no list.
        unlisted = [
            (kind, child) for kind, child in _fixed_names(name, spec) if (kind.name, child) not in children
        ]
        children |= {id_of(obj): obj for obj in await self._found(namespace, unlisted)}
        children |= {id_of(pod): pod for pod in redis_pods if _is_trial(pod)}
        return Objects(
            children,
            {claim["metadata"]["name"]: claim for claim in claims},
            {pod["metadata"]["name"]: pod for pod in redis_pods},
            tuple(core_pods),
        )

    async def _found(self, namespace: str, wanted: Iterable[tuple[Kind, str]]) -> list[Json]:
        found = await asyncio.gather(*(self._kube.find(kind, namespace, name) for kind, name in wanted))
        return [obj for obj in found if obj is not None]


def _is_trial(pod: Json) -> bool:
    return bool((pod["metadata"].get("labels") or {}).get(names.LABEL_COMPONENT) == TRIAL)


def secret_names(policy: str) -> tuple[str, ...]:
    """The Secrets of a policy: read by name, never listed or watched."""
    return (*_credential_secrets(policy), names.binding_secret(policy))


def _credential_secrets(policy: str) -> tuple[str, ...]:
    """Those that credentials are read back from."""
    return names.redis_auth_secret(policy), names.core_secret(policy), names.core_keys_secret(policy)


def _fixed_names(policy: str, spec: CachePolicySpec) -> list[tuple[Kind, str]]:
    servers = [item for role in spec.roles for item in _server_names(policy, role)]
    return [
        *servers,
        (CONFIG_MAP, names.core_config_map(policy)),
        (NETWORK_POLICY, names.network_policy(policy)),
    ]


def _server_names(policy: str, role: Role) -> list[tuple[Kind, str]]:
    return [
        (CONFIG_MAP, names.redis_config_map(policy, role)),
        (SERVICE, names.headless_service(policy, role)),
        (SERVICE, names.server(policy, role)),
        (STATEFUL_SET, names.server(policy, role)),
    ]


def _completed(found: FoundCredentials, made: Credentials | None) -> Credentials:
    if made is None:
        return found.complete()
    return Credentials(
        *(getattr(found, part.name) or getattr(made, part.name) for part in fields(Credentials))
    )


def _credentials(children: dict[ObjectId, Json], name: str, uid: str) -> FoundCredentials:
    """What our own Secrets hold: nothing is taken from one that belongs to somebody else."""
    ours = []
    for secret in _credential_secrets(name):
        found = children.get((SECRET.name, secret))
        ours.append(found if found is not None and owner_of(found, name, uid) is Owner.OURS else None)
    return found_in(*ours)
