"""What a change would do, told before it is done."""

from __future__ import annotations

from dataclasses import replace

from tests.policies import with_value
from tests.worlds import SPEC, at_rest, nothing_yet, with_spec

from cachepolicy.status import Effect
from cachepolicy_operator.decide import decide
from cachepolicy_operator.foresight import MOST, foresee, summary
from cachepolicy_operator.observed import Observed
from cachepolicy_operator.report import report


def told(world: Observed) -> set[tuple[str, str]]:
    """Effect and object of each change."""
    return {(str(change.effect), change.object) for change in foresee(decide(world))}


def test_at_rest_there_is_nothing_to_tell() -> None:
    changes = foresee(decide(at_rest()))
    assert changes == ()
    assert summary(changes) == "nothing would change"


def test_a_new_policy_is_all_creation() -> None:
    assert {effect for effect, _ in told(nothing_yet())} == {"Create"}


def test_a_changed_limit_is_live_and_more_memory_restarts() -> None:
    world = with_spec(at_rest(), with_value("sessions.idleTimeout", "10m", SPEC))
    assert told(world) == {("Live", "ConfigMap core-core")}
    limits = {"limits": {"memory": "512Mi"}}
    world = with_spec(at_rest(), with_value("redis.managed.cache", {"resources": limits}, SPEC))
    assert ("Restart", "StatefulSet core-cache") in told(world)
    assert not [item for item in told(world) if "core-state" in item[1]]


def test_a_directive_is_told_by_its_field() -> None:
    spec = with_value("redis.managed.state.config", {"maxclients": "500"}, SPEC)
    (change,) = foresee(decide(with_spec(at_rest(), spec)))
    assert (change.effect, change.field) == (Effect.LIVE, "spec.redis.managed.state.config.maxclients")


def test_what_is_refused_comes_first() -> None:
    limits = {"limits": {"memory": "8Mi"}}
    spec = with_value("redis.managed.cache", {"resources": limits}, SPEC)
    first, *_ = foresee(decide(with_spec(at_rest(), spec)))
    assert first.effect is Effect.REJECTED
    assert "8Mi" in str(first.field)


def test_a_section_that_goes_takes_its_server_with_it() -> None:
    world = with_spec(at_rest(), {key: value for key, value in SPEC.items() if key != "responseCache"})
    assert ("Delete", "StatefulSet core-cache") in told(world)


def test_a_paused_policy_has_its_plan_in_status_and_another_has_none() -> None:
    changed = with_value("sessions.idleTimeout", "10m", SPEC)
    paused = with_spec(at_rest(), {**changed, "paused": True})
    assert report(paused, decide(paused))["plan"] == [
        {"object": "ConfigMap core-core", "field": "data.policy.json", "effect": "Live"}
    ]
    active = with_spec(at_rest(), changed)
    assert "plan" not in report(active, decide(active))


def test_a_plan_is_bounded() -> None:
    plan = decide(nothing_yet())
    many = replace(plan, writes=tuple(replace(plan.writes[0], reasons=(f"f{n}: x",)) for n in range(99)))
    assert len(foresee(many)) == MOST
