"""The operator's own talk with one Redis server: the only code of the operator that imports redis.

One connection per server, every exchange with a deadline, one write to the socket for each look. Errors never hold a
password: they are this module's own words, or Redis's about a directive.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import redis.asyncio
import redis.exceptions

from cachepolicy import names
from cachepolicy.acknowledgement import LIFETIME_MS, Acknowledgement, Member
from cachepolicy.keys import KeyLayout
from cachepolicy_operator.liveconfig import Attempt, Outcome
from cachepolicy_operator.redis_look import Down, DownReason, Look

USERS: Final = (names.USER_PROBE, names.USER_CORE, names.USER_OPERATOR)
#: A server that is told to write an append-only file begins one before it answers: CONFIG SET may take longer.
SET_DEADLINE_FACTOR: Final = 5.0
_MOST_MEMBERS: Final = 4096

_NAMED_BY_SERVER = re.compile(r"argument '([a-z][a-z0-9-]*)'|CONFIG SET - '([a-z][a-z0-9-]*)'")
_IMMUTABLE = "immutable config"

Reply = Any
Command = Sequence[str | bytes | int]
AnyConnection = redis.asyncio.Connection | redis.asyncio.UnixDomainSocketConnection


class RedisDownError(Exception):
    """The server did not answer, or not as a server of ours does; ``down`` says how."""

    def __init__(self, down: Down) -> None:
        super().__init__(down.message)
        self.down = down


@dataclass(frozen=True)
class Target:
    """One server and how to log in.

    ``url`` is ``redis://host:port`` or ``unix:///path``. ``passwords`` of the operator user are tried in this order: a
    server that started before a Secret was made anew still has the one before. ``directives`` are those to read.
    ``keys`` where the server holds the control keys of a policy, else None.
    """

    url: str
    passwords: tuple[str, ...] = field(repr=False)
    directives: tuple[str, ...] = ()
    keys: KeyLayout | None = None


class RedisServer:
    """A connection that is made when it is needed. Safe for several tasks: they take turns."""

    def __init__(self, target: Target, *, deadline: float = 1.0) -> None:
        self._target = target
        self._deadline = deadline
        self._connection: AnyConnection | None = None
        self._turn = asyncio.Lock()
        self._members: tuple[str, ...] = ()

    @property
    def target(self) -> Target:
        return self._target

    async def retarget(self, target: Target) -> None:
        """Follow the server to another address or password; a connection that is still good stays."""
        moved = (target.url, target.passwords[:1]) != (self._target.url, self._target.passwords[:1])
        self._target = target
        if moved:
            await self.close()

    async def close(self) -> None:
        async with self._turn:
            await self._drop()

    async def look(self) -> Look:
        """Everything that a decision needs to know, in one round trip (two when a new process reported).

        Raises RedisDownError.
        """
        target, keys = self._target, self._target.keys
        commands: list[Command] = [
            ("INFO", "server", "memory", "persistence"),
            ("CONFIG", "GET", *target.directives, "maxmemory"),
            *(("ACL", "GETUSER", user) for user in USERS),
        ]
        members = self._members
        if keys is not None:
            commands += [
                ("TIME",),
                ("GET", keys.document),
                ("ZRANGE", keys.acknowledgements, 0, _MOST_MEMBERS - 1, "REV", "WITHSCORES"),
                *([("MGET", *map(keys.acknowledgement, members))] if members else []),
            ]
        replies = await self._exchange(commands)
        facts = _info(_text(_good(replies[0])))
        acknowledgements: Mapping[str, bytes | None] = {}
        loading = facts.get("loading", "0") != "0"
        if keys is not None and not loading:
            known = dict(zip(members, _good(replies[8]), strict=True)) if members else {}
            acknowledgements = await self._acknowledgements(keys, replies[5], replies[7], known)
        return Look(
            run_id=facts.get("run_id", ""),
            version=_version(facts),
            used_memory=int(facts.get("used_memory", 0)),
            loading=loading,
            directives=_pairs(_good(replies[1])),
            users={
                user: found
                for user, reply in zip(USERS, replies[2 : 2 + len(USERS)], strict=True)
                if (found := _passwords(_good(reply))) is not None
            },
            document=_good(replies[6]) if keys is not None and not loading else None,
            acknowledgements=_read(acknowledgements),
        )

    async def set_directives(self, wanted: Mapping[str, str]) -> dict[tuple[str, str], Attempt]:
        """CONFIG SET of everything in one call, without those that the server refuses, and read back.

        The call is atomic: one refused directive refuses all, so it is taken out and the rest goes out again. Servers
        name it; where one does not, halves are tried. Raises RedisDownError.
        """
        deadline = self._deadline * SET_DEADLINE_FACTOR
        before = await self._directives(wanted)
        refused: dict[str, str] = {}
        await self._set(dict(wanted), refused, deadline)
        after = await self._directives(wanted)
        attempts = {}
        for key, value in wanted.items():
            if key not in refused:
                attempts[key, value] = Attempt(Outcome.ACCEPTED, before.get(key, ""), after.get(key, value))
            else:
                immutable = _IMMUTABLE in refused[key]
                outcome = Outcome.IMMUTABLE if immutable else Outcome.REJECTED
                attempts[key, value] = Attempt(outcome, before.get(key, ""), reason=refused[key])
        return attempts

    async def set_user(self, arguments: Sequence[str]) -> None:
        """ACL SETUSER with these arguments, name first. Passwords in them must be hashes. Raises RedisDownError."""
        _good((await self._exchange([("ACL", "SETUSER", *arguments)]))[0])

    async def publish(self, document: str) -> None:
        """Write the document where Core reads it without waiting for its volume, and wake Core. Raises RedisDownError."""
        keys = self._target.keys
        if keys is None:
            raise ValueError("documents are published on the server of the control keys only")
        for reply in await self._exchange(
            [("SET", keys.document, document), ("PUBLISH", keys.wake_channel, "")]
        ):
            _good(reply)

    # ------------------------------------------------------------------------------------------- inside

    async def _acknowledgements(
        self, keys: KeyLayout, time: Reply, scored: Reply, known: Mapping[str, bytes | None]
    ) -> Mapping[str, bytes | None]:
        seconds, microseconds = _good(time)
        oldest = int(seconds) * 1000 + int(microseconds) // 1000 - LIFETIME_MS
        flat = _good(scored)
        alive = [
            _text(member)
            for member, score in zip(flat[::2], flat[1::2], strict=True)
            if float(score) >= oldest
        ]
        new = [member for member in alive if member not in known]
        records = dict(known)
        if new:
            replies = await self._exchange([("MGET", *map(keys.acknowledgement, new))])
            records |= dict(zip(new, _good(replies[0]), strict=True))
        self._members = tuple(alive)
        return {member: records[member] for member in alive}

    async def _directives(self, keys: Iterable[str]) -> dict[str, str]:
        return _pairs(_good((await self._exchange([("CONFIG", "GET", *keys)]))[0]))

    async def _set(self, wanted: dict[str, str], refused: dict[str, str], deadline: float) -> None:
        while wanted:
            pairs = [part for pair in wanted.items() for part in pair]
            (reply,) = await self._exchange([("CONFIG", "SET", *pairs)], deadline=deadline)
            if not isinstance(reply, redis.exceptions.ResponseError):
                return
            if isinstance(reply, redis.exceptions.NoPermissionError):
                _good(reply)
            named = _named(str(reply), wanted) or (next(iter(wanted)) if len(wanted) == 1 else None)
            if named is None:
                keys = list(wanted)
                for half in (keys[: len(keys) // 2], keys[len(keys) // 2 :]):
                    await self._set({key: wanted[key] for key in half}, refused, deadline)
                return
            refused[named] = _reason(str(reply))
            del wanted[named]

    async def _exchange(self, commands: Sequence[Command], *, deadline: float | None = None) -> list[Reply]:
        """Send all commands in one write and read their replies; an error reply is an item, not an exception."""
        async with self._turn:
            try:
                async with asyncio.timeout(deadline or self._deadline):
                    connection = self._connection or await self._connect()
                    await connection.send_packed_command(
                        connection.pack_commands(commands), check_health=False
                    )
                    return [await _reply(connection) for _ in commands]
            except BaseException as error:
                # Whatever happened, replies may still be on their way: this connection is of no more use.
                await self._drop()
                if isinstance(error, (redis.exceptions.RedisError, TimeoutError, OSError)):
                    raise RedisDownError(_down(error, deadline or self._deadline)) from None
                raise

    async def _connect(self) -> AnyConnection:
        """A connection that is logged in with the first password that the server takes."""
        connection = self._connection = _connection(self._target.url)
        await connection.connect()  # type: ignore[no-untyped-call]  # upstream has no annotations
        reply: Reply = None
        for password in self._target.passwords:
            await connection.send_command("AUTH", names.USER_OPERATOR, password, check_health=False)
            reply = await _reply(connection)
            if not isinstance(reply, redis.exceptions.RedisError):
                return connection
        raise reply

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)


def _connection(url: str) -> AnyConnection:
    parts = urlsplit(url)
    # protocol 2, no driver_info, no password: nothing is sent on connect. Deadlines are ours, for whole exchanges.
    common: dict[str, Any] = {"protocol": 2, "driver_info": None, "socket_timeout": None}
    if parts.scheme == "unix":
        return redis.asyncio.UnixDomainSocketConnection(path=unquote(parts.path), **common)
    return redis.asyncio.Connection(
        host=parts.hostname or "", port=parts.port or names.REDIS_PORT, socket_connect_timeout=None, **common
    )


async def _reply(connection: AnyConnection) -> Reply:
    try:
        return await connection.read_response(disconnect_on_error=False)
    except (
        redis.exceptions.ResponseError,
        redis.exceptions.BusyLoadingError,
        redis.exceptions.AuthenticationError,
    ) as error:
        return error


def _good(reply: Reply) -> Reply:
    """The reply, where it is none of Redis's errors; an error inside an exchange means that a right is missing."""
    if isinstance(reply, redis.exceptions.BusyLoadingError):
        raise RedisDownError(Down(DownReason.LOADING, "Redis loads its data"))
    if isinstance(reply, redis.exceptions.ResponseError):
        words = str(reply)[:200]
        raise RedisDownError(Down(DownReason.REFUSED, f"Redis refuses the operator's command: {words}"))
    return reply


def _down(error: BaseException, deadline: float) -> Down:
    if isinstance(error, redis.exceptions.AuthenticationError):
        return Down(
            DownReason.WRONG_PASSWORD,
            f"Redis refuses the password of its user {names.USER_OPERATOR}: somebody changed it there; "
            "deleting the pod brings back the one of the Secret",
        )
    if isinstance(error, (TimeoutError, redis.exceptions.TimeoutError)):
        return Down(DownReason.NO_ANSWER, f"no answer within {deadline:g} s")
    return Down(DownReason.UNREACHABLE, "no connection")


def _named(error: str, wanted: Mapping[str, str]) -> str | None:
    match = _NAMED_BY_SERVER.search(error)
    named = match and (match[1] or match[2])
    return named if named in wanted else None


def _reason(error: str) -> str:
    """Redis's own words about the directive, without the part that names it."""
    _, _, words = error.partition(") - ")
    return (words or error)[:300]


def _info(text: str) -> dict[str, str]:
    lines = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    return {key: value for key, colon, value in lines if colon}


def _version(facts: Mapping[str, str]) -> str:
    if facts.get("server_name") == "valkey" or "valkey_version" in facts:
        return f"valkey {facts.get('valkey_version', '')}".strip()
    return f"redis {facts.get('redis_version', '')}".strip()


def _pairs(flat: Sequence[bytes]) -> dict[str, str]:
    return {_text(key): _text(value) for key, value in zip(flat[::2], flat[1::2], strict=True)}


def _passwords(reply: Sequence[Any] | None) -> frozenset[str] | None:
    """Hashes of a user's passwords, ``nopass`` for one without, None for one that cannot log in."""
    if reply is None:
        return None
    fields = {_text(key): value for key, value in zip(reply[::2], reply[1::2], strict=True)}
    flags = {_text(flag) for flag in fields.get("flags", ())}
    if "on" not in flags:
        return None
    return frozenset({"nopass"}) if "nopass" in flags else frozenset(map(_text, fields["passwords"]))


def _read(records: Mapping[str, bytes | None]) -> tuple[tuple[Member, Acknowledgement], ...]:
    found = []
    for name, record in records.items():
        member = Member.parse(name)
        acknowledgement = Acknowledgement.from_json(record) if record is not None else None
        if member is not None and acknowledgement is not None:
            found.append((member, acknowledgement))
    return tuple(sorted(found, key=lambda item: str(item[0])))


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
