"""Sessions over Redis: a hash for each, a sorted set for the sessions of a user."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from cachepolicy.keys import KeyLayout
from cachepolicy_runtime.store.link import Argument, Reply
from cachepolicy_runtime.store.port import (
    MAX_LISTED,
    SessionEntry,
    SessionRead,
    SessionRecord,
    SessionSaved,
    SessionWrite,
)
from cachepolicy_runtime.store.replies import blob, integer, items
from cachepolicy_runtime.store.transport import Transport
from cachepolicy_runtime.store.wire import pack

#: Sessions that one script removes; Redis does nothing else meanwhile.
_CHUNK = 500
_FIELDS = ("v", "c", "d", "i", "a", "l")


class RedisSessionStore:
    """See ``scripts/session_*.lua``. A load is four plain commands in one round trip, for a script costs the
    server twice as much as they do together; the script does what they cannot."""

    def __init__(self, transport: Transport, keys: KeyLayout) -> None:
        self._transport = transport
        self._epoch = keys.epoch
        self._load = _load_template(keys.epoch)

    async def load(self, key: str, *, idle_ms: int, absolute_ms: int) -> SessionRead:
        name, idle = key.encode(), b"%d" % idle_ms
        packed = self._load % (len(name), name, len(name), name, len(idle), idle)
        found, _, epoch, time = await self._transport.packed(packed, 4)
        read = _plain(found, epoch, time, idle_ms, absolute_ms)
        return read or await self._load_by_script(key, idle_ms, absolute_ms)

    async def _load_by_script(self, key: str, idle_ms: int, absolute_ms: int) -> SessionRead:
        """Where an epoch has to be made, a session is over, or its place in the owner's list is to be renewed."""
        args: list[Argument] = [idle_ms, absolute_ms, _nonce()]
        reply = items(await self._transport.script("session_load", [key, self._epoch], args))
        epoch = blob(reply[0]).decode()
        return SessionRead(epoch, _record(reply[1:]) if len(reply) > 1 else None)

    async def save(self, key: str, write: SessionWrite) -> SessionSaved:
        if write.expected_version and write.index is None and write.replaces is None and write.label is None:
            version = write.expected_version + 1
            args: list[Argument] = [write.data, write.expected_version, version, write.idle_ms]
            epoch = await self._transport.script("session_change", [key, self._epoch], args)
            if epoch is not None:
                return SessionSaved(True, version, blob(epoch).decode())
        return await self._save(key, write)

    async def _save(self, key: str, write: SessionWrite) -> SessionSaved:
        """Where more than the content changes, or another request was first."""
        keys = [key, self._epoch, *(name for name in (write.index, write.replaces) if name is not None)]
        args: list[Argument] = [
            write.data,
            write.expected_version,
            write.idle_ms,
            write.absolute_ms,
            write.age_ms,
            _nonce(),
            int(write.index is not None),
            int(write.replaces is not None),
            write.label or "",
        ]
        epoch, saved, version, *found = items(await self._transport.script("session_save", keys, args))
        instead = _record([found[0], version, *found[1:]]) if found else None
        return SessionSaved(saved == 1, integer(version), blob(epoch).decode(), instead)

    async def destroy(self, keys: Sequence[str], *, owner: str | None = None) -> int:
        return integer(await self._transport.script("session_destroy", keys, [owner or ""])) if keys else 0

    async def destroy_owned(self, index: str, *, keep: str | None = None) -> int:
        found, finished = 0, False
        while not finished:
            reply = await self._transport.script("session_destroy_owned", [index], [keep or "", _CHUNK])
            removed, done = items(reply)
            found, finished = found + integer(removed), done == 1
        return found

    async def owned(self, index: str, *, idle_ms: int, absolute_ms: int) -> list[SessionEntry]:
        args = [idle_ms, absolute_ms, MAX_LISTED]
        flat = items(await self._transport.script("session_owned", [index], args))
        return [
            SessionEntry(blob(key).decode(), integer(created), integer(used), _text(label))
            for key, created, used, label in zip(flat[::4], flat[1::4], flat[2::4], flat[3::4], strict=True)
        ]


def _load_template(epoch: str) -> bytes:
    """The commands of a load, but for the key (twice) and the idle time, each after its length."""
    hole = "\0"
    commands = (("HMGET", hole, *_FIELDS), ("PEXPIRE", hole, hole), ("GET", epoch), ("TIME",))
    return b"".join(map(pack, commands)).replace(b"%", b"%%").replace(b"$1\r\n\0", b"$%d\r\n%b")


def _plain(found: Reply, epoch: Reply, time: Reply, idle_ms: int, absolute_ms: int) -> SessionRead | None:
    """What the plain commands read; None where the script has to look."""
    version, created, data, owner, score, label = items(found)
    if epoch is None:
        return None
    name = blob(epoch).decode()
    if version is None:
        return SessionRead(name, None)
    seconds, micros = items(time)
    began = int(blob(created))
    age = max(0, int(blob(seconds)) * 1000 + int(blob(micros)) // 1000 - began)
    if age >= absolute_ms:
        return None
    if owner is None:
        return SessionRead(name, SessionRecord(blob(data), int(blob(version)), age, None, _text(label)))
    if score is None or int(blob(score)) != began + idle_ms + absolute_ms:
        return None
    return SessionRead(name, SessionRecord(blob(data), int(blob(version)), age, _text(owner), _text(label)))


def _record(reply: Sequence[Reply]) -> SessionRecord:
    data, version, age, owner, label = reply
    return SessionRecord(blob(data), integer(version), integer(age), _text(owner), _text(label))


def _text(reply: Reply) -> str | None:
    return blob(reply).decode() if reply else None


def _nonce() -> str:
    return secrets.token_hex(8)
