"""Whether directives that need a restart may reach the server: what their trial says. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cachepolicy.names import Role
from cachepolicy_operator import liveconfig, rollout
from cachepolicy_operator.observed import Json, ObjectId, id_of
from cachepolicy_operator.plan import ServerPlan
from cachepolicy_operator.resources import RenderInputs
from cachepolicy_operator.resources.trial import trial_pod


@dataclass(frozen=True)
class Trial:
    """What follows for one server.

    ``restart``: the directives that its pods are to start with. ``candidate``: those that are, or were, tried; None
    where nothing has to be. ``rejected``: directive → why the server does not start with it. ``waiting``: a sentence.
    """

    restart: Mapping[str, str]
    candidate: Mapping[str, str] | None = None
    rejected: Mapping[str, str] = field(default_factory=dict)
    waiting: str | None = None


def needed(wanted: Mapping[str, str], current: Mapping[str, str]) -> bool:
    """A trial is needed for every value that the server did not start with before; taking some out needs none."""
    return any(current.get(key) != value for key, value in wanted.items())


def trials(
    inputs: RenderInputs, plans: Mapping[Role, ServerPlan], objects: Mapping[ObjectId, Json]
) -> dict[Role, Trial]:
    """Every server's trial; ``inputs`` are as if there were none, ``objects`` what there is."""
    found = {}
    for role, plan in plans.items():
        wanted, current, pod = plan.live.restart, plan.inputs.restart, None
        if needed(wanted, current):
            pod = objects.get(id_of(trial_pod(inputs, role, wanted)))
        found[role] = judge(wanted, current, pod)
    return found


def after_trial(plan: ServerPlan, trial: Trial, mounted: Mapping[str, str] | None) -> ServerPlan:
    """``plan`` with what the trial says; ``mounted`` is what the running pod was started with, None without a pod."""
    live = replace(plan.live, restart=trial.restart, rejected={**plan.live.rejected, **trial.rejected})
    coming = trial.candidate if trial.candidate is not None and not trial.rejected else trial.restart
    pending = liveconfig.pending_restart(coming, mounted) if mounted is not None else ()
    return replace(plan, live=live, pending_restart=pending)


def judge(wanted: Mapping[str, str], current: Mapping[str, str], pod: Json | None) -> Trial:
    """``pod`` is the one that tries ``wanted``, as it is now; None where there is none yet."""
    if not needed(wanted, current):
        return Trial(wanted)
    phase = ((pod or {}).get("status") or {}).get("phase", "")
    if pod is not None and phase == "Succeeded":
        return Trial(wanted)
    changed = sorted(key for key, value in wanted.items() if current.get(key) != value)
    if pod is not None and phase == "Failed":
        return Trial(current, wanted, _refused(changed, rollout.ended(pod)))
    names = ", ".join(changed)
    why = "" if pod is None else _delayed(pod)
    return Trial(
        current, wanted, waiting=f"{names}: tried in a pod of its own before the server restarts{why}"
    )


def _delayed(pod: Json) -> str:
    trouble = rollout.trouble(pod, pod["metadata"]["name"])
    return f" ({trouble.message})" if trouble.broken else ""


def _refused(changed: list[str], words: str) -> dict[str, str]:
    """The directive that Redis's words name, else all that were new."""
    quoted = re.search(r"'\s*([a-z0-9-]+)[ ']", words)
    named = [key for key in changed if quoted is not None and quoted[1] == key]
    return dict.fromkeys(named or changed, f"the server does not start with it: {words}")
