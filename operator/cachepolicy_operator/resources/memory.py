"""From a container's memory limit to Redis's maxmemory, with the arithmetic in every refusal.

Rule 1: Redis needs room beside its data (connections, replication and AOF buffers, fragmentation, pages copied while
a snapshot is written). A container that runs over its limit is killed, so `maxmemory` stays well below it:
75 % of the limit, 80 % where nothing is ever written to disk, and always at least 32Mi below.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from cachepolicy.names import Role
from cachepolicy.quantities import Quantity
from cachepolicy.spec import CachePolicySpec
from cachepolicy_operator import errors

MIB: Final = 1024 * 1024
RESERVED: Final = 32 * MIB
# An empty server uses 1 to 3 MiB; below this a state server would refuse writes almost at once.
SMALLEST_MAXMEMORY: Final = 8 * MIB

DEFAULT_MEMORY: Final = {Role.STATE: "128Mi", Role.CACHE: "256Mi"}
DEFAULT_CPU: Final = "50m"
_SHARE: Final = {Role.STATE: 75, Role.CACHE: 80}


def container_resources(spec: CachePolicySpec, role: Role) -> dict[str, dict[str, str]]:
    """`resources` of the Redis container with the defaults filled in; the memory request is the limit (rule 2)."""
    given = spec.server(role).resources
    limits = {key: str(value) for key, value in given.limits.items()} if given else {}
    limits.setdefault("memory", DEFAULT_MEMORY[role])
    asked = {key: str(value) for key, value in given.requests.items()} if given else {}
    return {"requests": {"cpu": DEFAULT_CPU, "memory": limits["memory"], **asked}, "limits": limits}


def maxmemory(spec: CachePolicySpec, role: Role) -> int:
    """Bytes for `maxmemory`. Raises Stalled for a limit that leaves Redis too little."""
    return maxmemory_of(Quantity.parse(container_resources(spec, role)["limits"]["memory"]), role)


def maxmemory_of(limit: Quantity, role: Role) -> int:
    """Bytes for `maxmemory` under a memory limit. Raises Stalled for one that leaves Redis too little."""
    share = _SHARE[role]
    allowed = min(int(limit.value * Decimal(share) / 100), limit.bytes - RESERVED)
    if allowed < SMALLEST_MAXMEMORY:
        field = f"spec.redis.managed.{role}.resources.limits.memory"
        raise errors.Stalled(
            f"{field}: {limit} is too small for Redis: the smaller of {share} % of it and {limit} - 32Mi goes to "
            f"data, which is {_mebibytes(allowed)}, and at least {_mebibytes(SMALLEST_MAXMEMORY)} is needed; "
            f"set {_mebibytes(SMALLEST_MAXMEMORY + RESERVED)} or more",
            reason="MemoryTooSmall",
            field=field,
        )
    return allowed


def check_requests(spec: CachePolicySpec, role: Role) -> None:
    """Raises Stalled for a request above its limit, before the API server refuses the whole StatefulSet."""
    resources = container_resources(spec, role)
    for key, text in resources["requests"].items():
        limit = resources["limits"].get(key)
        if limit is not None and Quantity.parse(text).value > Quantity.parse(limit).value:
            field = f"spec.redis.managed.{role}.resources.requests.{key}"
            raise errors.Stalled(
                f"{field}: {text} is more than the limit of {limit}; lower the request or raise the limit",
                reason="RequestAboveLimit",
                field=field,
            )


def _mebibytes(count: int) -> str:
    """Rounded towards zero, and nothing below it: a limit under 32Mi leaves none."""
    return f"{max(count, 0) // MIB}Mi"
