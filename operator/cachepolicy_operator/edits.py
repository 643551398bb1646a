"""What the verbs of ``kubectl-cachepolicy`` change in a CachePolicy, and who will change it back. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cachepolicy import names

#: The name under which a person's edits are recorded; the operator itself never writes a CachePolicy.
MANAGER: Final = "kubectl-cachepolicy"

#: Field managers of the tools that keep objects as they are in Git, by the beginning of their names.
GITOPS: Final[Mapping[str, str]] = {
    "argocd": "Argo CD",
    "kustomize-controller": "Flux",
    "helm-controller": "Flux",
    "flux": "Flux",
    "fleetagent": "Fleet",
}

Json = dict[str, Any]


@dataclass(frozen=True)
class Edit:
    """A merge patch of a CachePolicy: ``path`` below the object, its ``value`` (None removes the field)."""

    path: tuple[str, ...]
    value: Any
    said: str

    @property
    def patch(self) -> Json:
        """JSON merge patch (RFC 7396)."""
        change: Any = self.value
        for part in reversed(self.path):
            change = {part: change}
        return dict(change)

    @property
    def field(self) -> str:
        """The path as people write it."""
        return ".".join(self.path)


PAUSE: Final = Edit(("spec", "paused"), True, "paused: the operator looks and reports, and changes nothing")
RESUME: Final = Edit(("spec", "paused"), None, "resumed: the operator carries the spec out again")
HIBERNATE: Final = Edit(
    ("spec", "redis", "managed", "hibernated"), True, "hibernated: its Redis pods end, its claims stay"
)
WAKE: Final = Edit(("spec", "redis", "managed", "hibernated"), None, "woken: its Redis pods start again")


def rotate(now: datetime) -> Edit:
    """Ask for another password of Core."""
    path = ("metadata", "annotations", names.ANNOTATION_ROTATE)
    return Edit(path, stamp(now), "rotated: Core's password is replaced, and no connection is lost")


def stamp(now: datetime) -> str:
    """A value that was never there before."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def purge(scope: str | None, name: str | None, now: datetime) -> Edit:
    """Give one scope of the caches a value that it never had. ``scope`` is a map of ``spec.purge``, None for all."""
    path = ("spec", "purge", "all") if scope is None else ("spec", "purge", scope, name or "")
    what = "everything cached" if scope is None else f"everything cached of {scope.removesuffix('s')} {name}"
    return Edit(path, stamp(now), f"purged: {what} is a miss from now on; sessions and limits stay")


def warning(policy: Mapping[str, Any], edit: Edit) -> str | None:
    """What a person should know before the edit: a GitOps tool manages the object."""
    for entry in policy["metadata"].get("managedFields") or ():
        tool = _tool(str(entry.get("manager", "")))
        if tool is None or entry.get("subresource"):
            continue
        name = policy["metadata"]["name"]
        if _owns(entry.get("fieldsV1") or {}, edit.path):
            return f"{tool} manages {edit.field} of {name} and will set it back: change it in Git instead"
        return f"{tool} manages {name}: {edit.field} stays as long as Git does not name it"
    return None


def _tool(manager: str) -> str | None:
    return next((tool for prefix, tool in GITOPS.items() if manager.startswith(prefix)), None)


def _owns(fields: Mapping[str, Any], path: tuple[str, ...]) -> bool:
    for part in path:
        found = fields.get(f"f:{part}")
        if found is None:
            return False
        if not found:  # a leaf: the whole value is owned
            return True
        fields = found
    return True


def tree(policy: Mapping[str, Any], objects: list[Json]) -> Iterator[str]:
    """A CachePolicy, its conditions, its servers, Core and its objects, as lines for a person."""
    metadata, status = policy["metadata"], policy.get("status") or {}
    seen = status.get("observedGeneration")
    generation = metadata.get("generation")
    stale = "" if seen == generation else f", the operator has seen {seen or 'none'}"
    yield f"{metadata['namespace']}/{metadata['name']}  generation {generation}{stale}"
    branches = [
        ("Conditions", list(_conditions(status))),
        ("Redis", list(_servers(status))),
        ("Configuration", list(_configuration(status))),
        ("Core", list(_core(status))),
        ("Objects", [f"{obj['kind']} {obj['metadata']['name']}" for obj in objects]),
    ]
    shown = [(title, lines) for title, lines in branches if lines]
    for number, (title, lines) in enumerate(shown):
        last = number == len(shown) - 1
        yield f"{'└─' if last else '├─'} {title}"
        for position, line in enumerate(lines):
            trunk = "   " if last else "│  "
            yield f"{trunk}{'└─' if position == len(lines) - 1 else '├─'} {line}"


def _conditions(status: Mapping[str, Any]) -> Iterator[str]:
    for item in status.get("conditions") or ():
        yield f"{item['type']:<15}{item['status']:<8}{item['reason']:<18}{item.get('message', '')}".rstrip()


def _servers(status: Mapping[str, Any]) -> Iterator[str]:
    for role, server in (status.get("redis") or {}).items():
        parts = [server.get("ready"), server.get("version"), server.get("endpoint")]
        memory = server.get("maxmemory")
        parts += [f"maxmemory {int(memory) >> 20}Mi"] if memory else []
        yield f"{role:<6}" + "  ".join(str(part) for part in parts if part)


def _configuration(status: Mapping[str, Any]) -> Iterator[str]:
    config = status.get("config") or {}
    for item in config.get("pendingRestart") or ():
        yield f"{item['instance']}: {item['key']} waits for a restart"
    for item in config.get("rejected") or ():
        yield f"{item['instance']}: {item['key']} refused: {item['reason']}"


def _core(status: Mapping[str, Any]) -> Iterator[str]:
    core = status.get("core") or {}
    if core.get("revision"):
        yield f"revision {core['revision']}  enforced {core.get('enforced')}  processes {core.get('processes', 0)}"
    for pod in core.get("lagging") or ():
        yield f"lagging: {pod}"
