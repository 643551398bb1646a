"""Pods and rollouts of a StatefulSet: what is in progress, what is stuck, and why, in words for a person."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_IMAGE_REASONS: Final = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}
)
_BROKEN_REASONS: Final = _IMAGE_REASONS | {
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
}
_REVISION: Final = "controller-revision-hash"
# What Redis writes before each log line: pid, role, date and time, level. They would make each message a new one.
_LOG_PREFIX = re.compile(r"^\d+:[A-Z] \d+ \w+ \d+ [\d:.]+ [.*#-] ")
#: Fields of a StatefulSet that the API server never lets change (rule 17).
_FIXED: Final = ("serviceName", "podManagementPolicy", "selector")

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Trouble:
    """Why a pod is not ready. ``broken``: it will not come up without a change from outside."""

    reason: str
    message: str
    broken: bool = False


def rolled_out(statefulset: Json | None) -> bool:
    """Whether all pods are of the newest revision and available (rule 20)."""
    if statefulset is None:
        return False
    status, wanted = statefulset.get("status") or {}, statefulset["spec"].get("replicas", 1)
    return (
        status.get("observedGeneration") == statefulset["metadata"].get("generation")
        and status.get("updatedReplicas", 0) == status.get("availableReplicas", 0) == wanted
        and status.get("currentRevision") == status.get("updateRevision")
    )


def ready(pod: Json | None) -> bool:
    """Whether Services send clients to the pod."""
    return pod is not None and not terminating(pod) and _condition(pod, "Ready").get("status") == "True"


def terminating(obj: Json) -> bool:
    return bool(obj["metadata"].get("deletionTimestamp"))


def trouble(pod: Json | None, name: str) -> Trouble:
    """Why the pod ``name`` is not ready; ``pod`` is None where there is none yet."""
    if pod is None:
        return Trouble("Starting", f"pod {name} does not exist yet")
    if terminating(pod):
        return Trouble("Starting", f"pod {name} is stopping")
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return Trouble("Unschedulable", f"pod {name}: {scheduled.get('message', '')}", broken=True)
    for container in (pod.get("status") or {}).get("containerStatuses") or ():
        found = _container_trouble(name, container)
        if found is not None:
            return found
    return Trouble("Starting", f"pod {name} is starting")


def stuck(pod: Json | None, statefulset: Json | None) -> bool:
    """Whether the pod holds up a newer revision: an OrderedReady set waits for a broken pod for ever.

    Kubernetes documents it as a known limitation: https://github.com/kubernetes/kubernetes/issues/67250.
    """
    if pod is None or statefulset is None or terminating(pod) or ready(pod):
        return False
    status = statefulset.get("status") or {}
    if status.get("observedGeneration") != statefulset["metadata"].get("generation"):
        return False
    newest = status.get("updateRevision")
    outdated = newest is not None and (pod["metadata"].get("labels") or {}).get(_REVISION) != newest
    return outdated and trouble(pod, pod["metadata"]["name"]).broken


def fixed_difference(want: Json, live: Json | None) -> str | None:
    """The first field that differs and can only change by making the StatefulSet anew; None when there is none."""
    if live is None:
        return None
    for field in _FIXED:
        if want["spec"].get(field) != live["spec"].get(field):
            return f"spec.{field}"
    if claim_size(want) != claim_size(live):
        return "spec.volumeClaimTemplates"
    return None


def claim_size(statefulset: Json | None) -> str | None:
    """The requested size in the claim template, as it is written; None without storage."""
    for template in (statefulset or {}).get("spec", {}).get("volumeClaimTemplates") or ():
        return str(template["spec"]["resources"]["requests"]["storage"])
    return None


def container(obj: Json) -> Json:
    """The Redis container of a pod, or of a StatefulSet's template."""
    spec = obj["spec"].get("template", obj)["spec"]
    first: Json = spec["containers"][0]
    return first


def memory_limit(obj: Json) -> str | None:
    """``limits.memory`` of the Redis container."""
    found = ((container(obj).get("resources") or {}).get("limits") or {}).get("memory")
    return None if found is None else str(found)


def mounted_config_map(obj: Json, volume: str) -> str | None:
    """Name of the ConfigMap behind a volume of a pod, or of a StatefulSet's template."""
    spec = obj["spec"].get("template", obj)["spec"]
    for item in spec.get("volumes") or ():
        if item.get("name") == volume:
            name = (item.get("configMap") or {}).get("name")
            return None if name is None else str(name)
    return None


def ended(pod: Json) -> str:
    """The last words of a pod that has failed."""
    for container in (pod.get("status") or {}).get("containerStatuses") or ():
        found = (container.get("state") or {}).get("terminated")
        if found and found.get("exitCode") != 0:
            return _last_words(found)
    return str((pod.get("status") or {}).get("message") or "it ended without a word")


def _container_trouble(pod: str, status: Json) -> Trouble | None:
    waiting = (status.get("state") or {}).get("waiting") or {}
    reason = waiting.get("reason", "")
    if reason in _IMAGE_REASONS:
        # The runtime's reasons alternate with every attempt: one sentence for all of them.
        return Trouble(
            "ImagePullFailed",
            f"pod {pod}: the image {status.get('image')} cannot be pulled: check spec.redis.managed.image",
            broken=True,
        )
    ended = (status.get("lastState") or {}).get("terminated") or (status.get("state") or {}).get("terminated")
    if ended and ended.get("exitCode") != 0:
        # Waiting, running for a moment, ended: one word for all of them, or status would change with each turn.
        return Trouble("Crashing", f"pod {pod}: {_last_words(ended)}", broken=True)
    if reason in _BROKEN_REASONS:
        return Trouble(reason, f"pod {pod}: {waiting.get('message', '')}".rstrip(": "), broken=True)
    return None


def _last_words(ended: Json) -> str:
    if ended.get("reason") == "OOMKilled":
        return "it needs more memory than its limit and was killed: raise resources.limits.memory"
    lines = [_LOG_PREFIX.sub("", line).strip() for line in str(ended.get("message") or "").splitlines()]
    lines = [line for line in lines if line]
    for position, line in enumerate(lines):
        if "FATAL CONFIG" in line:
            return " ".join(lines[position:])[:400]
    said = lines[-1][:400] if lines else ended.get("reason", "ended")
    return f"{said} (exit code {ended.get('exitCode')})"


def _condition(pod: Json, kind: str) -> Json:
    for item in (pod.get("status") or {}).get("conditions") or ():
        if item.get("type") == kind:
            found: Json = item
            return found
    return {}
