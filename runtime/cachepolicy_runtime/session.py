"""One session as a request sees it: a mapping of JSON values."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import orjson

from cachepolicy.identity import Identity

#: A label is cut after so many characters.
MAX_LABEL = 256
#: 256 random bits in base64url; whatever looks different was not issued here.
_ID = re.compile(r"[A-Za-z0-9_-]{43}")
# Sorted, so that two equal contents are equal bytes. What orjson would turn into text on its own is refused:
# it would come back as something else.
_JSON = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)


class SessionError(Exception):
    """A session cannot be kept as it is."""


class SessionsUnavailable(SessionError):  # noqa: N818 - a state of the store, answered with 503
    """The store is away and the policy does not allow to go on without it."""


class SessionConflict(SessionError):  # noqa: N818 - an answer to the client (409), who may try again
    """Another request changed or ended the session first."""


class SessionTooLarge(SessionError):  # noqa: N818 - reads as the reason
    """The content is larger than the policy's ``sessions.maxBytes``."""

    def __init__(self, size: int, allowed: int) -> None:
        super().__init__(
            f"the session holds {size} bytes and sessions.maxBytes allows {allowed}: keep large values elsewhere "
            "and their key in the session"
        )


def new_id() -> str:
    return secrets.token_urlsafe(32)


def issued(cookie: str | None) -> str | None:
    """The id in a cookie, None where it does not look like one of ours."""
    return cookie if cookie is not None and _ID.fullmatch(cookie) else None


def id_hash(session_id: str) -> str:
    """What is stored in place of the id, so that whoever reads the store can take over no session."""
    return hashlib.sha256(session_id.encode()).hexdigest()


class Session(MutableMapping[str, Any]):
    """Read and change it like a dict; the middleware saves it when the request is answered.

    Attributes:
        session_id: its id, None for a session that was not saved yet.
        client_id: the id that the client has presented; another one has to be told.
        read_only: the store is away and this is a copy: a change cannot be saved.
        accessed: the application has looked at its content.
    """

    def __init__(
        self, session_id: str | None, data: bytes = b"{}", *, version: int = 0, read_only: bool = False
    ) -> None:
        self.session_id = session_id
        self.client_id = session_id
        self.read_only = read_only
        self.version = version
        self.owner: Identity | None = None
        self.label: str | None = None
        self.destroyed = False
        self.rotated = False
        self.accessed = False
        self._loaded = data
        self._values: dict[str, Any] | None = None

    @property
    def is_new(self) -> bool:
        """Not stored yet."""
        return self.version == 0

    @property
    def handle(self) -> str | None:
        """Names the session in its owner's list, and opens nothing; None for one that was not saved yet."""
        return None if self.session_id is None else id_hash(self.session_id)

    def bind(self, identity: Identity, *, label: str | None = None) -> None:
        """Make ``identity`` the owner, who can list the session and end it from elsewhere; ``label`` names it there
        (the client's user agent, for instance). Also changes the id, as has to be done at every log-in."""
        self.owner = identity
        if label:
            self.label = label[:MAX_LABEL].encode("utf-8", "replace").decode()
        self.rotate()

    def rotate(self) -> None:
        """Give the session another id when it is saved; the old one ends."""
        self.rotated = True

    def destroy(self) -> None:
        """End the session when the request is answered."""
        self.destroyed = True

    def changed_content(self) -> bytes | None:
        """The content to save, None when it is what was loaded.

        Raises ``SessionError`` with the key of a value that is not JSON. Values changed in place are noticed.
        """
        if self._values is None:
            return None
        data = _encode(self._values)
        return None if data == self._loaded else data

    @property
    def content(self) -> bytes:
        """The content as it is now."""
        return self._loaded if self._values is None else _encode(self._values)

    def unsaved(self) -> bytes | None:
        """What has to be saved: changed content, or the same under another id. None where nothing has to."""
        changed = self.changed_content()
        if changed is None and self.rotated and not self.is_new:
            return self.content
        return changed

    def content_after(self, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> bytes:
        """What was loaded, as ``change`` leaves it; this session stays as it is."""
        values = _decode(self._loaded)
        returned = change(values)
        return _encode(values if returned is None else returned)

    def reload(self, data: bytes, version: int) -> None:
        """Go on with what is stored now."""
        self._loaded, self._values, self.version = data, None, version

    def saved(self, session_id: str, data: bytes, version: int) -> None:
        """It is stored as this now."""
        self.session_id, self.rotated = session_id, False
        self.reload(data, version)

    def _all(self) -> dict[str, Any]:
        if self._values is None:
            self.accessed = True
            self._values = _decode(self._loaded)
        return self._values

    def __getitem__(self, key: str) -> Any:
        return self._all()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._all()[key] = value

    def __delitem__(self, key: str) -> None:
        del self._all()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        """Neither the id nor the content."""
        return f"<Session version={self.version} read_only={self.read_only}>"


def _decode(data: bytes) -> dict[str, Any]:
    values = orjson.loads(data)
    return values if isinstance(values, dict) else {}


def _encode(values: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(values, option=_JSON)
    except TypeError as error:
        raise SessionError(f"the session's {_culprit(values)} is not JSON: {error}") from None


def _culprit(values: dict[str, Any]) -> str:
    for key, value in values.items():
        try:
            orjson.dumps({key: value}, option=_JSON)
        except TypeError:
            return f"value under {str(key)[:40]!r}"
    return "content"
