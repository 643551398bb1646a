"""Which pods of Core enforce the policy document, from what their processes report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cachepolicy.acknowledgement import Acknowledgement, Member, lacking
from cachepolicy.document import PolicyDocument
from cachepolicy.spec import CachePolicySpec
from cachepolicy_operator.resources.labels import consumers


@dataclass(frozen=True)
class Enforcement:
    """``lagging``: pod → why it does not count. ``too_old``: those of them whose runtime is too old for it."""

    replicas: int
    enforced: int
    processes: int
    lagging: Mapping[str, str] = field(default_factory=dict)
    too_old: tuple[str, ...] = ()


def core_selector(policy: str, spec: CachePolicySpec) -> str:
    """Label selector of the pods whose acknowledgements count."""
    return ",".join(f"{key}={value}" for key, value in sorted(consumers(policy, spec).items()))


def counting_pods(pods: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Names of the pods whose word counts: running, and not on their way out."""
    return tuple(
        sorted(
            pod["metadata"]["name"]
            for pod in pods
            if (pod.get("status") or {}).get("phase") == "Running"
            and not pod["metadata"].get("deletionTimestamp")
        )
    )


def enforcement(
    pods: Sequence[str], reports: Iterable[tuple[Member, Acknowledgement]], document: PolicyDocument
) -> Enforcement:
    """A pod counts when all its processes, and at least one, enforce every section of this revision."""
    by_pod: dict[str, list[Acknowledgement]] = {pod: [] for pod in pods}
    for member, acknowledgement in reports:
        if member.pod in by_pod:
            by_pod[member.pod].append(acknowledgement)
    lagging = {pod: why for pod, said in by_pod.items() if (why := _why(said, document)) is not None}
    return Enforcement(
        replicas=len(by_pod),
        enforced=len(by_pod) - len(lagging),
        processes=sum(map(len, by_pod.values())),
        lagging=lagging,
        too_old=tuple(pod for pod in lagging if any(said.too_old for said in by_pod[pod])),
    )


def _why(said: Sequence[Acknowledgement], document: PolicyDocument) -> str | None:
    if not said:
        return "has not reported"
    for acknowledgement in said:
        if acknowledgement.refused:
            return f"refuses the document: {acknowledgement.refused[:200]}"
        if acknowledgement.revision != document.revision:
            return f"enforces revision {acknowledgement.revision[:16] or 'none'}"
        missing = lacking(acknowledgement, document.sections)
        if missing:
            return f"does not enforce {', '.join(missing)}: nothing of Core is set up for it"
    return None
