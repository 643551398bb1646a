"""redis.conf of one server.

The text names no path and no port: the same file starts a server in a pod and on a laptop, places come from the
command line. The operator's own directives come first, then the user's in the spelling that a server accepted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from cachepolicy.names import Role
from cachepolicy.servers import StateServer
from cachepolicy.spec import CachePolicySpec
from cachepolicy_operator.resources import memory
from cachepolicy_operator.resources.inputs import ServerConfig

# Seconds that a stopping server waits for replicas to catch up before it saves and leaves.
SHUTDOWN_TIMEOUT: Final = 10
# Snapshot after an hour with 1 change, 5 minutes with 100, 1 minute with 10,000: Redis's own default, written out.
SAVE_POINTS: Final = "3600 1 300 100 60 10000"

# What needs no quotes. A value of several words is quoted as one argument, as CONFIG SET is given it: Redis 7.0 and
# Valkey 9.1 split it themselves for the directives that take several (checked for all of them).
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,=-]+")


def has_disk(spec: CachePolicySpec, role: Role) -> bool:
    """Whether the server writes to a volume. The cache never does (rule 4)."""
    server = spec.server(role)
    return isinstance(server, StateServer) and server.storage is not None


def own_directives(spec: CachePolicySpec, role: Role, maxmemory: int) -> dict[str, str]:
    """The directives that follow from the spec, in the order of the file; values as CONFIG SET takes them."""
    disk = has_disk(spec, role)
    return {
        # Access is decided by the ACL file: the default user is off, so "protected" would only refuse Core.
        "protected-mode": "no",
        "maxmemory": str(maxmemory),
        "maxmemory-policy": "noeviction" if role is Role.STATE else "allkeys-lfu",
        "appendonly": "yes" if disk else "no",
        "appendfsync": "everysec",
        "save": SAVE_POINTS if disk else "",
        "shutdown-timeout": str(SHUTDOWN_TIMEOUT),
        # Freeing large values must not hold up other clients.
        "lazyfree-lazy-eviction": "yes",
        "lazyfree-lazy-expire": "yes",
        "lazyfree-lazy-user-del": "yes",
    }


def redis_conf(spec: CachePolicySpec, role: Role, config: ServerConfig) -> str:
    """The whole file. Raises Stalled when the memory limit is too small for Redis."""
    maxmemory = config.maxmemory if config.maxmemory is not None else memory.maxmemory(spec, role)
    own = own_directives(spec, role, maxmemory)
    users = {key: item.accepted for key, item in config.live.items()}
    parts = [
        f"# The {role} server of a CachePolicy, written by its operator: edits are undone.",
        *_lines(own),
        *(["# From the CachePolicy, as Redis accepted it."] if users else []),
        *_lines(dict(sorted(users.items()))),
    ]
    return "\n".join(parts) + "\n"


def restart_conf(directives: Mapping[str, str]) -> str:
    """The file of directives that take effect at a start only; sorted, so equal directives are equal text."""
    return "\n".join(_lines(dict(sorted(directives.items())))) + "\n"


def line(key: str, value: str) -> str:
    """One line that Redis reads back as exactly this value.

    Raises ValueError for a control character: a newline would start a line of its own, and with it any directive.
    """
    if re.search(r"[\x00-\x1f\x7f]", value) or not re.fullmatch(r"[a-z][a-z0-9-]*", key):
        raise ValueError(f"{key[:64]!r} and its value must hold no control characters")
    if _PLAIN.fullmatch(value):
        return f"{key} {value}"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{key} "{escaped}"'


def _lines(directives: Mapping[str, str]) -> list[str]:
    return [line(key, value) for key, value in directives.items()]
