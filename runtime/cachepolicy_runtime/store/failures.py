"""What went wrong, in a few words that may be logged: no key, value, address or credential."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field

AUTHENTICATION = "the server refused the username or password"
CLOSED_BY_SERVER = "the server closed the connection"

_ERRNO = {
    errno.ECONNREFUSED: "connection refused",
    errno.ENOENT: "there is no such socket",
    errno.EACCES: "no permission to open the socket",
    errno.ECONNRESET: CLOSED_BY_SERVER,
    errno.EPIPE: CLOSED_BY_SERVER,
    errno.EHOSTUNREACH: "no route to the server",
    errno.ENETUNREACH: "no route to the server",
}

_TROUBLES: tuple[tuple[type[BaseException], str], ...] = (
    (socket.gaierror, "the host name cannot be resolved"),
    (UnicodeError, "the host name cannot be resolved"),
    (TimeoutError, "no connection in time"),
    # asyncio's word for a handshake that takes too long, for a server without TLS waits for the end of a line.
    (ConnectionAbortedError, "the TLS handshake got no answer: the server may not speak TLS"),
)

#: OpenSSL's results of a verification (``X509_V_ERR_…``).
_VERIFICATION = {
    **dict.fromkeys((9, 10), "the server's certificate is not valid at this time"),
    **dict.fromkeys(
        (2, 18, 19, 20, 21), "the server's certificate is not trusted: no known authority signed it"
    ),
    **dict.fromkeys((62, 64), "the server's certificate is for another host name"),
}
#: Words of OpenSSL's reason for a failed handshake, and of the alerts that a server sends.
_TLS: tuple[tuple[str, str], ...] = (
    ("CERTIFICATE_REQUIRED", "the server asks for a client certificate"),
    ("HANDSHAKE_FAILURE", "the server asks for a client certificate, or shares no cipher"),
    ("UNKNOWN_CA", "the server does not trust the client certificate"),
    ("CERTIFICATE_EXPIRED", "the client certificate has expired"),
    ("BAD_CERTIFICATE", "the server does not take the client certificate"),
    ("WRONG_VERSION_NUMBER", "the server does not speak TLS"),
    ("RECORD_LAYER_FAILURE", "the server does not speak TLS"),
    ("KEY_VALUES_MISMATCH", "the client certificate and its key do not belong together"),
)

#: Answers that speak for the whole server and not for the one command.
_WHOLE_SERVER = frozenset({"LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "NOAUTH", "WRONGPASS"})
_AUTHENTICATION = frozenset({"NOAUTH", "WRONGPASS"})
_REDIRECTIONS = frozenset({"MOVED", "ASK"})
_CODE = re.compile(r"[A-Z][A-Z0-9_]{1,31}")
_SCRIPT_LINE = re.compile(r"user_script:\d+")


class Refused(Exception):  # noqa: N818 - named after what the server did
    """The server, or a file that it needs, does not let us in. The text is a reason in the sense of this module."""


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An error that the server answered: its code (``ERR``, ``OOM``, …), with the line in a script's case.

    ``where`` is what stands behind ``MOVED`` or ``ASK``: the slot and the address that has it.
    """

    code: str
    line: str = ""
    where: str = field(default="", repr=False)

    @property
    def whole_server(self) -> bool:
        return self.code in _WHOLE_SERVER

    @property
    def reason(self) -> str:
        if self.code in _AUTHENTICATION:
            return AUTHENTICATION
        return f"the server answered {self.code}{f' at {self.line}' if self.line else ''}"


def error_reply(text: bytes) -> ErrorReply:
    """Read the line behind the ``-``. The code is kept; the text may repeat arguments."""
    line = text.decode("utf-8", "replace")
    first, _, rest = line.partition(" ")
    code = first if _CODE.fullmatch(first) else "ERR"
    place = _SCRIPT_LINE.search(rest)
    return ErrorReply(code, place.group() if place else "", rest if code in _REDIRECTIONS else "")


def reason_of(error: BaseException | None) -> str:
    """Why a connection could not be made or was lost."""
    for cause in _causes(error):
        if reason := _explain(cause):
            return reason
    return CLOSED_BY_SERVER


def _explain(cause: BaseException) -> str | None:
    if isinstance(cause, Refused):
        return str(cause)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _VERIFICATION.get(cause.verify_code, "the server's certificate cannot be verified")
    if isinstance(cause, ssl.SSLError):
        return _of_tls(cause)
    for kind, reason in _TROUBLES:
        if isinstance(cause, kind):
            return reason
    return _ERRNO.get(cause.errno or 0) if isinstance(cause, OSError) else None


def _of_tls(error: ssl.SSLError) -> str:
    told = f"{error.reason or ''} {error}".upper()
    return next((reason for word, reason in _TLS if word in told), "the TLS handshake failed")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
