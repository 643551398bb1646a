"""What a Core process tells about itself: ``/cache/health`` and ``/cache/stats``.

Pure: values in, plain JSON out. Nothing here names a tenant, a user, a key of a request or an address.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cachepolicy.document import PolicyDocument
from cachepolicy.names import Role
from cachepolicy_runtime.sessions import SessionCounts
from cachepolicy_runtime.store.transport import Transport

MEMORY = "memory"


def session_stats(counts: SessionCounts) -> dict[str, int]:
    return {
        "conflicts": counts.conflicts,
        "retried": counts.retried,
        "recreated": counts.recreated,
        "copiesServed": counts.copies_served,
        "revoked": counts.revoked,
    }


def stores(transports: Mapping[Role, Transport]) -> dict[str, Any]:
    """Each role: ``up``, ``unavailable`` with the reason, or ``memory``."""
    return {str(role): _store(transports.get(role)) for role in Role}


def store_stats(transports: Mapping[Role, Transport]) -> dict[str, Any]:
    """The same with the number of outages that this process has seen."""
    seen = {str(role): transport.outages for role, transport in transports.items()}
    return {role: {**state, "outages": seen.get(role, 0)} for role, state in stores(transports).items()}


def _store(transport: Transport | None) -> dict[str, str]:
    if transport is None:
        return {"status": MEMORY}
    if transport.available:
        return {"status": "up"}
    return {"status": "unavailable", "reason": transport.reason}


def health(
    document: PolicyDocument | None, transports: Mapping[Role, Transport], other_reasons: Iterable[str]
) -> dict[str, Any]:
    """``degraded`` is no failure: Core answers, with less. The reasons say what is missing."""
    away = [
        f"the {role} store is unavailable: {transport.reason}"
        for role, transport in transports.items()
        if not transport.available
    ]
    reasons = [*away, *other_reasons]
    return {
        "status": "degraded" if reasons else "up",
        "reasons": reasons,
        **policy(document),
        "stores": stores(transports),
    }


def policy(document: PolicyDocument | None) -> dict[str, Any]:
    """Which policy is enforced; nulls while there is none."""
    return {
        "policy": document.policy if document else None,
        "revision": document.revision if document else None,
        "sequence": document.sequence if document else None,
        "sections": list(document.sections) if document else [],
    }
