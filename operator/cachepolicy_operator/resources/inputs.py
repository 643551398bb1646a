"""What the builders of objects are given: values only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cachepolicy.document import PolicyDocument
from cachepolicy.keys import KeyLayout
from cachepolicy.names import Role
from cachepolicy.spec import CachePolicySpec
from cachepolicy_operator.resources.credentials import Credentials


@dataclass(frozen=True)
class LiveDirective:
    """A directive of the user that a server took.

    `requested` as in the spec, `accepted` as CONFIG GET spells it (the file's value), `initial` as it was before we
    first set it: restored when the directive leaves the spec.
    """

    requested: str
    accepted: str
    initial: str


@dataclass(frozen=True)
class ServerConfig:
    """What one server's files hold beside the operator's own directives.

    `live`: by directive. `restart`: directive → value of those that a server answered "immutable" to; `candidate`: the same with new ones, which
    are tried first. `maxmemory` in
    bytes where it must differ from what the memory limit gives (lowering it would not fit yet); else None.
    """

    live: Mapping[str, LiveDirective] = field(default_factory=dict)
    restart: Mapping[str, str] = field(default_factory=dict)
    maxmemory: int | None = None
    candidate: Mapping[str, str] | None = None


@dataclass(frozen=True)
class RenderInputs:
    """One CachePolicy and everything decided about it. `servers` may leave out roles without directives."""

    namespace: str
    name: str
    uid: str
    spec: CachePolicySpec
    default_image: str
    credentials: Credentials
    document: PolicyDocument
    servers: Mapping[Role, ServerConfig] = field(default_factory=dict)
    operator_namespace: str | None = None

    @property
    def image(self) -> str:
        """Image of both servers."""
        return self.spec.redis.managed.image or self.default_image

    @property
    def keys(self) -> KeyLayout:
        """Key names of this policy in Redis."""
        return KeyLayout.of_policy(self.namespace, self.name)

    def server(self, role: Role) -> ServerConfig:
        """What was decided about one server's configuration."""
        return self.servers.get(role, ServerConfig())


def live_json(live: Mapping[str, LiveDirective]) -> str:
    """`live.json` of a server's ConfigMap: `{directive: {requested, accepted, initial}}`, sorted."""
    rows = {
        key: {"requested": item.requested, "accepted": item.accepted, "initial": item.initial}
        for key, item in live.items()
    }
    return json.dumps(rows, indent=2, sort_keys=True) + "\n"


def read_live(config_map: Mapping[str, Any] | None, entry: str) -> dict[str, LiveDirective]:
    """The inverse of :func:`live_json` for a live ConfigMap. What somebody broke by hand counts as not there."""
    try:
        rows = json.loads(((config_map or {}).get("data") or {}).get(entry) or "{}")
        return {
            str(key): LiveDirective(str(row["requested"]), str(row["accepted"]), str(row["initial"]))
            for key, row in rows.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}
