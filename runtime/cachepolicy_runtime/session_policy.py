"""The session section of one revision, as requests use it."""

from __future__ import annotations

from cachepolicy.identity import Identity
from cachepolicy.keys import KeyLayout
from cachepolicy.sessions import Sessions as SessionRules
from cachepolicy_runtime.session import id_hash


class SessionPolicy:
    """The rules, and the keys that sessions are stored under. What every request needs is worked out once.

    Attributes:
        idle_ms, absolute_ms: time to live since the last use, since creation.
        max_bytes: largest content.
    """

    __slots__ = ("_prefix", "absolute_ms", "idle_ms", "keys", "max_bytes", "rules")

    def __init__(self, keys: KeyLayout, rules: SessionRules) -> None:
        self.keys = keys
        self.rules = rules
        self.idle_ms = rules.idle_timeout.milliseconds
        self.absolute_ms = rules.absolute_timeout.milliseconds
        self.max_bytes = rules.max_bytes.bytes
        self._prefix = keys.session("-")[:-1]

    def key(self, session_id: str) -> str:
        return self._prefix + id_hash(session_id)

    def key_of_handle(self, handle: str) -> str:
        return self._prefix + handle

    def handle_of_key(self, key: str) -> str:
        return key.removeprefix(self._prefix)

    def index(self, owner: Identity | None) -> str | None:
        """Key of the owner's list; None where there is no user."""
        return self.keys.user_sessions(owner) if owner is not None and owner.user is not None else None
