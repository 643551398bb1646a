"""What can go wrong in the operator, sorted by what happens next.

Three futures, and every exception of this package has exactly one of them:

* :class:`RetryLater`: tried again with back-off; the reason is shown in status meanwhile.
* :class:`Stalled`: nothing the operator does can help; it waits for a new generation of the CachePolicy.
* :class:`Superseded`: the world moved while we worked; look again at once and report nothing.

No message ever holds a secret: they name objects, fields and the server's own words about fields.
"""

from __future__ import annotations


class OperatorError(Exception):
    """Base of everything the operator raises on purpose."""


class RetryLater(OperatorError):  # noqa: N818 - named after what happens next
    """Retry with back-off, or after `after` seconds where the other side named a time.

    `reason` is a CamelCase word for the condition that shows the wait.
    """

    def __init__(self, message: str, *, reason: str = "Retrying", after: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.after = after


class Stalled(OperatorError):  # noqa: N818 - named after what happens next
    """Wait for a new generation: `field` is the path in the CachePolicy (or the object) to change."""

    def __init__(self, message: str, *, reason: str, field: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.field = field


class Superseded(OperatorError):  # noqa: N818 - named after what happens next
    """Something changed under our hands: read again, tell nobody."""


class NotFound(Superseded):
    """The API server has no such object."""


class Conflict(Superseded):
    """A resourceVersion or uid precondition failed, or the object exists already."""


class NamespaceTerminating(Superseded):
    """The namespace is being deleted: nothing can be created there, and nothing needs to be."""


class Forbidden(RetryLater):
    """Role-based access, a quota or an admission policy refused the request; people can lift that any time."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="Forbidden")


class Throttled(RetryLater):
    """The API server asks for a pause of `after` seconds."""

    def __init__(self, message: str, *, after: float | None = None) -> None:
        super().__init__(message, reason="Throttled", after=after)


class Unreachable(RetryLater):
    """No answer in time, no connection, no valid login, or an internal error of the API server."""

    def __init__(self, message: str, *, after: float | None = None) -> None:
        super().__init__(message, reason="APIServerUnreachable", after=after)


class Invalid(Stalled):
    """The API server refused the object itself; the message carries its words about the field."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message, reason="InvalidObject", field=field)
