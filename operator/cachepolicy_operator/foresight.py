"""What a plan would do, before it is done: one line for each change, with the object, the field and the effect. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cachepolicy.names import Role
from cachepolicy.status import Effect, PlannedChange
from cachepolicy_operator.plan import Plan, ServerPlan, Write

#: More than this many changes are not told one by one.
MOST: Final = 50
_TEMPLATE: Final = "spec.template"
# What the directives' own lines say better.
_OF_DIRECTIVES: Final = ("data.redis.conf", "data.live.json")


def foresee(plan: Plan) -> tuple[PlannedChange, ...]:
    """The changes of ``plan``, those that are refused first and those that need a restart before the others."""
    found = dict.fromkeys(_changes(plan))
    order = list(Effect)
    return tuple(sorted(found, key=lambda change: order.index(change.effect)))[:MOST]


def _changes(plan: Plan) -> Iterator[PlannedChange]:
    if plan.blocked is not None:
        field = getattr(plan.blocked, "field", None)
        yield PlannedChange(object="CachePolicy", field=f"{field}: {plan.blocked}", effect=Effect.REJECTED)
    for role, server in plan.servers.items():
        yield from _directives(role, server)
    for growth in plan.growths:
        yield PlannedChange(
            object=f"PersistentVolumeClaim {growth.claim}",
            field=f"spec.resources.requests.storage: {growth.size}",
            effect=Effect.LIVE,
        )
    for write in plan.writes:
        yield from _write(write)
    for removal in plan.removals:
        effect = Effect.RECREATE if removal.orphan else Effect.DELETE
        yield PlannedChange(object=f"{removal.kind} {removal.name}", effect=effect)


def _directives(role: Role, server: ServerPlan) -> Iterator[PlannedChange]:
    """Whether one is live is the server's answer, and it comes with the change."""
    config = f"spec.redis.managed.{role}.config"
    instance = f"{role} server"
    for key in sorted({*server.live.to_set, *server.live.waiting}):
        told = f"{config}.{key}" if key in server.inputs.wanted or key in server.inputs.live else key
        yield PlannedChange(object=instance, field=told, effect=Effect.LIVE)
    for key in server.pending_restart:
        yield PlannedChange(object=instance, field=f"{config}.{key}", effect=Effect.RESTART)
    for key, reason in sorted(server.live.rejected.items()):
        yield PlannedChange(object=instance, field=f"{config}.{key}: {reason}", effect=Effect.REJECTED)
    if server.held:
        yield PlannedChange(object=instance, field=server.held, effect=Effect.REJECTED)


def _write(write: Write) -> Iterator[PlannedChange]:
    kind, name = write.obj["kind"], write.obj["metadata"]["name"]
    instance = f"{kind} {name}"
    if write.reasons == ("missing",):
        yield PlannedChange(object=instance, effect=Effect.CREATE)
        return
    for reason in write.reasons:
        field = reason.partition(": ")[0]
        if field in _OF_DIRECTIVES:
            continue
        restarts = kind == "StatefulSet" and field.startswith(_TEMPLATE)
        yield PlannedChange(object=instance, field=field, effect=Effect.RESTART if restarts else Effect.LIVE)


def summary(changes: tuple[PlannedChange, ...]) -> str:
    """How many of each, in words."""
    counts = {effect: sum(change.effect is effect for change in changes) for effect in Effect}
    parts = [f"{count} {effect}" for effect, count in counts.items() if count]
    return ", ".join(parts) if parts else "nothing would change"
