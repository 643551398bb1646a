"""The first level of the response cache: answers in the memory of this process.

It never serves longer than the answer is fresh, and an answer only while the purge stamp that it was made under
is the current one. At its bound the answer used longest ago goes.
"""

from __future__ import annotations

from collections import OrderedDict

from cachepolicy_runtime.response_entries import Found

#: What an entry takes besides its name and its body: objects and their places (tracemalloc, C)
OVERHEAD_BYTES = 1150


class FirstLevel:
    """Keyed by the full name of the entry. Bounded by bytes."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, tuple[Found, int, int]] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def get(self, name: str, now_ms: int) -> Found | None:
        """The answer; whether its stamp is the current one is for the caller to see."""
        held = self._held.get(name)
        if held is None:
            return None
        if held[1] <= now_ms:
            self.drop(name)
            return None
        self._held.move_to_end(name)
        return held[0]

    def put(self, name: str, found: Found, until_ms: int, max_bytes: int) -> None:
        """Keep ``found`` until ``until_ms`` at the latest, and not more than ``max_bytes`` of all."""
        self.drop(name)
        size = len(name) + len(found.answer.body) + OVERHEAD_BYTES
        if size > max_bytes:
            return
        self._held[name] = (found, until_ms, size)
        self.bytes += size
        while self.bytes > max_bytes:
            self.drop(next(iter(self._held)))

    def drop(self, name: str) -> None:
        held = self._held.pop(name, None)
        if held is not None:
            self.bytes -= held[2]

    def clear(self) -> None:
        self._held.clear()
        self.bytes = 0
