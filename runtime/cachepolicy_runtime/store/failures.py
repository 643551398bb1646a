"""What went wrong, in a few words that may be logged: no key, value, address or credential."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    MaxConnectionsError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

AUTHENTICATION = "the server refused the username or password"

_ERRNO = {
    errno.ECONNREFUSED: "connection refused",
    errno.ENOENT: "there is no such socket",
    errno.EACCES: "no permission to open the socket",
    errno.ECONNRESET: "the server closed the connection",
    errno.EHOSTUNREACH: "no route to the server",
    errno.ENETUNREACH: "no route to the server",
}

_REFUSALS: tuple[tuple[type[BaseException], str], ...] = (
    (AuthenticationError, AUTHENTICATION),
    (BusyLoadingError, "the server is still loading its data"),
    (MaxConnectionsError, "the server has no free connection"),
)

_TROUBLES: tuple[tuple[type[BaseException], str], ...] = (
    (ssl.SSLError, "the TLS handshake failed"),
    (socket.gaierror, "the host name cannot be resolved"),
    (TimeoutError, "no connection in time"),
    (RedisTimeoutError, "no connection in time"),
)

#: redis-py takes the code off the text of these answers and tells it by the class.
_CODES: tuple[tuple[type[Exception], str], ...] = (
    (NoScriptError, "NOSCRIPT"),
    (NoPermissionError, "NOPERM"),
    (OutOfMemoryError, "OOM"),
    (ReadOnlyError, "READONLY"),
)

#: Answers that speak for the whole server and not for the one command.
_WHOLE_SERVER = frozenset({"LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "NOAUTH", "WRONGPASS"})
#: Other codes that redis-py leaves in the text. It takes ERR off, so a first word in capitals need not be a code.
_IN_TEXT = _WHOLE_SERVER | {"MISCONF", "WRONGTYPE", "NOREPLICAS", "MOVED", "ASK", "TRYAGAIN", "UNKILLABLE"}
_SCRIPT_LINE = re.compile(r"user_script:\d+")


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An error that the server answered: its code (``ERR``, ``OOM``, …), with the line in a script's case."""

    code: str
    line: str = ""

    @property
    def whole_server(self) -> bool:
        return self.code in _WHOLE_SERVER

    @property
    def reason(self) -> str:
        return f"the server answered {self.code}{f' at {self.line}' if self.line else ''}"


def error_reply(error: ResponseError) -> ErrorReply:
    """Keep the code; the text may repeat arguments."""
    line = _SCRIPT_LINE.search(str(error))
    for kind, code in _CODES:
        if isinstance(error, kind):
            return ErrorReply(code)
    first = str(error).split(" ", 1)[0]
    return ErrorReply(first if first in _IN_TEXT else "ERR", line.group() if line else "")


def reason_of(error: BaseException) -> str:
    """Why a connection could not be made or was lost: what the server said, else what the system said."""
    chain = list(_causes(error))
    for explain in (_said_by_server, _said_by_system):
        for cause in chain:
            if reason := explain(cause):
                return reason
    return "the server closed the connection"


def _said_by_server(cause: BaseException) -> str | None:
    for kind, reason in _REFUSALS:
        if isinstance(cause, kind):
            return reason
    return error_reply(cause).reason if isinstance(cause, ResponseError) else None


def _said_by_system(cause: BaseException) -> str | None:
    if isinstance(cause, OSError) and cause.errno in _ERRNO:
        return _ERRNO[cause.errno]
    for kind, reason in _TROUBLES:
        if isinstance(cause, kind):
            return reason
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__
