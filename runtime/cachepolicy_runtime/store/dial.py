"""From an address to a connection that is logged in: one server, or the primary that Sentinels name."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TypeVar

from cachepolicy_runtime.store.endpoint import NO_LOGIN, Address, Credentials, CredentialSource, Topology
from cachepolicy_runtime.store.failures import (
    AUTHENTICATION,
    CLOSED_BY_SERVER,
    ErrorReply,
    Refused,
    reason_of,
)
from cachepolicy_runtime.store.link import Command, Link, Reply
from cachepolicy_runtime.store.tls import TlsContext

#: How long a connection is silent before the kernel looks whether the other side is still there, and how often.
_KEEPALIVE = (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
#: Why a server that is up is not the one to work with, by the mode that it names in its answer to HELLO.
_WRONG_MODES = {
    "cluster": "the server is a node of a Redis Cluster: a cache names it as redis+cluster://, "
    "and sessions and rate limits cannot be kept in one",
    "sentinel": "the server is a Sentinel: name it as redis+sentinel://host:port/name-of-the-primary",
}
_NO_CERTIFICATE = (
    "the server ended the TLS connection at once: it may ask for a client certificate, or another one"
)
AnyLink = TypeVar("AnyLink", bound=Link)


class Dialler:
    """Opens connections to one server, wherever it is at the time.

    A login that was changed in the files and that the server does not take yet is no failure while the last
    good one still works: the two are never changed at the same moment.
    """

    def __init__(
        self,
        address: Address,
        credentials: CredentialSource,
        tls: TlsContext,
        *,
        sentinel_credentials: CredentialSource = NO_LOGIN,
        name: str = "",
        handshake_s: float = 0.9,
    ) -> None:
        """``name`` is shown in the server's list of clients; ``handshake_s`` is the longest time for that of TLS."""
        self._handshake_s = handshake_s
        self._address = address
        self._credentials = credentials
        self._tls = tls
        self._sentinel_credentials = sentinel_credentials
        self._name = name
        self._good: Credentials | None = None

    def login(self) -> Credentials:
        """The login as it is now."""
        return self._credentials()

    async def open(self, kind: Callable[[Credentials], AnyLink]) -> AnyLink:
        """Connect and log in; cancelling it closes what was opened. Raises ``OSError``, ``ValueError`` (a name
        that cannot be one) or :class:`Refused`."""
        server = await self._server()
        login = self._credentials()
        try:
            link = await self._open_at(server, login, kind)
        except _LoginRefused:
            if self._good is None or self._good == login:
                raise
            return await self._open_at(server, self._good, kind)
        self._good = login
        return link

    async def _server(self) -> Address:
        if self._address.topology is not Topology.SENTINEL:
            return self._address
        return await self._primary()

    async def _open_at(
        self, server: Address, login: Credentials, kind: Callable[[Credentials], AnyLink]
    ) -> AnyLink:
        link = await self._connect(server, lambda: kind(login))
        try:
            self._check(await self._greet(link, login), login)
        except BaseException:
            link.drop()
            raise
        return link

    async def _greet(self, link: Link, login: Credentials) -> list[Reply]:
        try:
            return await link.ask(*self._greeting(login))
        except OSError as error:
            # With TLS 1.3 a server looks at the client's certificate after the client's part of the handshake.
            if self._address.tls and reason_of(error) == CLOSED_BY_SERVER:
                raise Refused(_NO_CERTIFICATE) from None
            raise

    def _greeting(self, login: Credentials) -> list[Command]:
        hello: Command = ("HELLO", 2, "SETNAME", f"cachepolicy-{self._name}") if self._name else ("HELLO", 2)
        select = [("SELECT", self._address.db)] if self._address.db else []
        return [*log_in(login), hello, *select]

    def _check(self, replies: list[Reply], login: Credentials) -> None:
        for reply in replies:
            # A proxy that does not know HELLO answers ERR: what it would have told is not needed then.
            if isinstance(reply, ErrorReply) and reply.whole_server:
                raise _LoginRefused(reply.reason) if reply.reason == AUTHENTICATION else Refused(reply.reason)
        if login.password is not None and isinstance(replies[0], ErrorReply):
            raise _LoginRefused(AUTHENTICATION)
        hello = replies[1 if login.password is not None else 0]
        if self._address.db and isinstance(replies[-1], ErrorReply):
            raise Refused("the server has no database of that number")
        told = _pairs(hello)
        expected = "cluster" if self._address.clustered else "standalone"
        if told.get("mode", expected) != expected:
            raise Refused(_WRONG_MODES.get(told["mode"], "the server is no node of a Redis Cluster"))
        if self._address.topology is Topology.SENTINEL and told.get("role", "master") != "master":
            raise Refused("the Sentinels name a server that is not the primary")

    async def _primary(self) -> Address:
        """Ask all Sentinels at once; the first that knows is believed."""
        asked = [asyncio.create_task(self._ask_sentinel(host, port)) for host, port in self._address.seeds]
        refusal: Exception = Refused("no Sentinel answers")
        try:
            for answer in asyncio.as_completed(asked):
                try:
                    return await answer
                except Refused as error:
                    refusal = error
                except OSError:
                    pass
        finally:
            await _cancel(asked)
        raise refusal

    async def _ask_sentinel(self, host: str, port: int) -> Address:
        login = self._sentinel_credentials()
        link = await self._connect(Address(host, port, tls=self._address.tls), lambda: Link(login))
        try:
            replies = await link.ask(
                *log_in(login), ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._address.service)
            )
        finally:
            link.drop()
        match replies[-1]:
            case [bytes(name), bytes(number)]:
                return Address(name.decode(), int(number), db=self._address.db, tls=self._address.tls)
            case ErrorReply():
                raise Refused("the Sentinels refused the question")
            case _:
                raise Refused("the Sentinels know no primary of that name")

    async def _connect(self, server: Address, kind: Callable[[], AnyLink]) -> AnyLink:
        """A bare connection."""
        loop = asyncio.get_running_loop()
        if server.path:
            _, link = await loop.create_unix_connection(kind, server.path)
            return link
        if server.tls:
            context = await asyncio.to_thread(self._tls.current)
            transport, link = await loop.create_connection(
                kind, server.host, server.port, ssl=context, ssl_handshake_timeout=self._handshake_s
            )
        else:
            transport, link = await loop.create_connection(kind, server.host, server.port)
        _keep_alive(transport.get_extra_info("socket"))
        return link


class _LoginRefused(Refused):
    pass


def log_in(login: Credentials) -> list[Command]:
    if login.password is None:
        return []
    return [("AUTH", login.username or "default", login.password)]


def _keep_alive(sock: socket.socket) -> None:
    """A server that vanished without a word is noticed while nobody calls, not by the next caller."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE:
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _pairs(hello: Reply) -> dict[str, str]:
    if not isinstance(hello, list):
        return {}
    texts = [item.decode() if isinstance(item, bytes) else "" for item in hello]
    return dict(zip(texts[::2], texts[1::2], strict=False))


async def _cancel(tasks: Iterable[Awaitable[object]]) -> None:
    running = [task for task in tasks if isinstance(task, asyncio.Task)]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
