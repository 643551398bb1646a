"""Which directives of redis.conf a policy may set, and in what form.

A directive is one line of redis.conf: a newline in a value would add another one (``loadmodule`` is code
execution), so control characters are refused. What follows from the rest of the spec belongs to the operator
and is refused, never overridden in silence.
"""

from __future__ import annotations

import re

KEY_PATTERN = r"^[a-z][a-z0-9-]*$"
VALUE_PATTERN = r"^[^\x00-\x1f\x7f]*$"
ONE_LINE = "a value holds no newline or other control character: write it on one line"
MAX_KEY_LENGTH = 64
MAX_VALUE_LENGTH = 1024
MAX_DIRECTIVES = 64

#: Redis's and Valkey's names, the old ones too: ``slaveof`` alone would hand the data to another server.
OWNED = (
    "aclfile",
    "appenddirname",
    "appendfilename",
    "appendonly",
    "bind",
    "daemonize",
    "dbfilename",
    "dir",
    "include",
    "loadmodule",
    "logfile",
    "masterauth",
    "masteruser",
    "maxmemory",
    "maxmemory-policy",
    "pidfile",
    "port",
    "primaryauth",
    "primaryuser",
    "protected-mode",
    "rename-command",
    "replicaof",
    "requirepass",
    "save",
    "slaveof",
    "user",
)
OWNED_PREFIXES = ("cluster-", "enable-", "tls-", "unixsocket")


def refusal(key: str, value: str) -> str | None:
    """Why this directive is refused, as a sentence; None when it is fine."""
    if len(key) > MAX_KEY_LENGTH or not re.fullmatch(KEY_PATTERN, key):
        return f"{key[:40]!r} is not a directive of redis.conf: write lower-case letters, digits and '-'"
    if key in OWNED or key.startswith(OWNED_PREFIXES):
        return f"{key} belongs to the operator and follows from the rest of the spec: remove it here"
    if len(value) > MAX_VALUE_LENGTH:
        return f"the value of {key} is longer than {MAX_VALUE_LENGTH} characters"
    if not re.fullmatch(VALUE_PATTERN, value):
        return f"the value of {key} holds a newline or another control character: write it on one line"
    return None


def cel_owned() -> str:
    """The same refusal of owned keys for the API server, over a map called ``self``."""
    names = ", ".join(f"'{name}'" for name in OWNED)
    prefixes = " || ".join(f"k.startsWith('{prefix}')" for prefix in OWNED_PREFIXES)
    return f"self.all(k, !(k in [{names}] || {prefixes}))"
