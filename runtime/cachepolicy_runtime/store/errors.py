"""What a store may raise."""

from __future__ import annotations


class StoreUnavailable(Exception):  # noqa: N818 - named after the state a caller has to handle, not after a mistake
    """The store did not do what was asked; whether it did a part of it is unknown.

    The caller falls back to what its policy says for an outage. Nothing here is worth a traceback.

    Attributes:
        server: what the store is for (``state`` or ``cache``).
        reason: a short phrase without any key, value, address or credential, fit for a log line
            (``no answer within 100 ms``, ``connection refused``, ``the server answered OOM``).
    """

    def __init__(self, server: str, reason: str) -> None:
        super().__init__(f"{server} store unavailable: {reason}")
        self.server = server
        self.reason = reason


class Redirected(StoreUnavailable):
    """Another node of the cluster has the key, and nothing was done.

    Attributes:
        where: slot and address, as the server named them.
        asking: for this one call only (``ASK``), else for good (``MOVED``).
    """

    def __init__(self, server: str, reason: str, where: str, asking: bool) -> None:
        super().__init__(server, reason)
        self.where = where
        self.asking = asking
