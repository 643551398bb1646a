"""A Redis Cluster behind the same verbs, for caches: each key goes to the node that has its slot.

Every node has a transport of its own, with its connections and its breaker, so that one node that is away
costs the keys that it has and no others. ``MOVED`` and ``ASK`` are followed, for such an answer says that
nothing was done (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/).
"""

from __future__ import annotations

import asyncio
from binascii import crc_hqx
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any

from cachepolicy.keys import SLOTS
from cachepolicy_runtime.store.endpoint import Address, CredentialSource, HostPort
from cachepolicy_runtime.store.errors import Redirected, StoreUnavailable
from cachepolicy_runtime.store.link import Answer
from cachepolicy_runtime.store.redis import RedisTransport
from cachepolicy_runtime.store.tls import TlsFiles
from cachepolicy_runtime.store.transport import TransportSettings
from cachepolicy_runtime.store.wire import Argument, Command, Reply

#: All arguments are keys; the answers of the parts are a list to be put together, or numbers to be added.
_LISTED = frozenset({"MGET"})
_COUNTED = frozenset({"DEL", "UNLINK", "EXISTS", "TOUCH"})
#: Commands without a key: any node will do, a message reaches the subscribers of all.
_ANYWHERE = frozenset({"PUBLISH", "PING", "TIME", "ECHO"})
#: How often one call follows where it is sent.
_HOPS = 5
#: The map of the slots is asked for at most this often.
_REFRESH_EVERY_S = 0.5

Attempt = Callable[[RedisTransport], Awaitable[Reply]]


def slot_of(key: Argument) -> int:
    """The slot of a key, by its hash tag where it has one."""
    data = key if isinstance(key, bytes) else str(key).encode()
    start = data.find(b"{")
    if start >= 0 and (end := data.find(b"}", start + 1)) > start + 1:
        data = data[start + 1 : end]
    return crc_hqx(data, 0) % SLOTS


class ClusterTransport:
    """One cluster, one process, one event loop."""

    def __init__(
        self,
        server: str,
        address: Address,
        credentials: CredentialSource,
        settings: TransportSettings | None = None,
        *,
        tls: TlsFiles | None = None,
    ) -> None:
        self.server = server
        self._address = address
        self._credentials = credentials
        self._settings = settings or TransportSettings()
        self._tls = tls
        self._nodes: dict[HostPort, RedisTransport] = {}
        self._owners: list[HostPort] = []
        """Who has each slot; empty while nobody has told."""
        self._refreshing: asyncio.Task[None] | None = None
        self._refreshed_at = float("-inf")
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def deadline_s(self) -> float:
        return self._settings.deadline_s

    @property
    def available(self) -> bool:
        return not self.reason

    @property
    def reason(self) -> str:
        away = [node.reason for node in self._nodes.values() if not node.available]
        return f"{len(away)} of {len(self._nodes)} nodes: {away[0]}" if away else ""

    @property
    def outages(self) -> int:
        return sum(node.outages for node in self._nodes.values())

    async def call(self, *command: Argument, bulk: bool = False) -> Reply:
        name = str(command[0]).upper()
        if name in _ANYWHERE:
            return await (await self._any_node()).call(*command, bulk=bulk)
        if len(command) > 2 and (name in _LISTED or name in _COUNTED):
            return await self._call_parts(name, command[1:], bulk)
        return await self._at_owner(slot_of(command[1]), lambda node: node.call(*command, bulk=bulk), command)

    def call_nowait(self, *command: Argument, bulk: bool = False) -> asyncio.Future[Any]:
        return asyncio.ensure_future(self.call(*command, bulk=bulk))

    async def pipeline(self, commands: Sequence[Command]) -> list[Reply]:
        """One round trip to each node that is concerned."""
        parts: dict[HostPort, list[int]] = defaultdict(list)
        await self._know_owners()
        for position, command in enumerate(commands):
            parts[self._owners[slot_of(command[1])]].append(position)
        done = await asyncio.gather(
            *(
                self._pipeline_at(owner, [commands[position] for position in part])
                for owner, part in parts.items()
            )
        )
        return _in_order(parts.values(), done)

    async def each(self, *command: Argument) -> list[Reply]:
        await self._know_owners()
        nodes = [self._node(place) for place in dict.fromkeys(self._owners)]
        return await asyncio.gather(*(node.call(*command) for node in nodes))

    def packed(self, commands: bytes, wanted: int) -> asyncio.Future[Any]:
        raise TypeError("a cluster has to see the keys: use call, pipeline or script")

    async def script(self, name: str, keys: Sequence[str], args: Sequence[Argument]) -> Reply:
        """All keys have to be in one slot."""
        return await self._at_owner(slot_of(keys[0]), lambda node: node.script(name, keys, args))

    def script_nowait(self, name: str, keys: Sequence[str], args: Sequence[Argument]) -> asyncio.Future[Any]:
        return asyncio.ensure_future(self.script(name, keys, args))

    def script_into(self, answer: Answer, name: str, keys: Sequence[str], args: Sequence[Argument]) -> None:
        def hand_over(done: asyncio.Future[Any]) -> None:
            error = None if done.cancelled() else done.exception()
            if isinstance(error, Exception):
                answer.set_exception(error)
            elif not done.cancelled():
                answer.set_result(done.result())

        self.script_nowait(name, keys, args).add_done_callback(hand_over)

    def gather(self, collect: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(collect)

    async def listen(self, channel: str) -> AsyncGenerator[bytes, None]:
        async with aclosing((await self._any_node()).listen(channel)) as messages:
            async for payload in messages:
                yield payload

    async def aclose(self) -> None:
        self._closed = True
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
        await asyncio.gather(*self._closing, *(node.aclose() for node in self._nodes.values()))

    # --- one call -----------------------------------------------------------------------------------------

    async def _at_owner(self, slot: int, attempt: Attempt, command: Command | None = None) -> Reply:
        """Let the owner of ``slot`` do it, wherever that is by now. ``command`` is what to ask of a node that
        is about to take the slot over; without it that answer is a failure."""
        await self._know_owners()
        place, asking = self._owners[slot], False
        for _ in range(_HOPS):
            node = self._node(place)
            try:
                if asking and command is not None:
                    return (await node.pipeline([("ASKING",), command]))[1]
                return await attempt(node)
            except Redirected as told:
                place, asking = _place(told.where, place), told.asking
                if not asking:
                    self._owners[slot] = place
                    self._refresh_soon()
            except StoreUnavailable:
                self._refresh_soon()
                raise
        raise StoreUnavailable(self.server, "the nodes of the cluster name each other in circles")

    async def _call_parts(self, name: str, keys: Sequence[Argument], bulk: bool) -> Reply:
        """A command of many keys, as one for each slot."""
        parts: dict[int, list[int]] = defaultdict(list)
        for position, key in enumerate(keys):
            parts[slot_of(key)].append(position)
        done = await asyncio.gather(
            *(self._call_part(slot, (name, *(keys[i] for i in part)), bulk) for slot, part in parts.items())
        )
        if name in _LISTED:
            return _in_order(parts.values(), [part if isinstance(part, list) else [] for part in done])
        return sum(count for count in done if isinstance(count, int))

    async def _call_part(self, slot: int, command: Command, bulk: bool) -> Reply:
        return await self._at_owner(slot, lambda node: node.call(*command, bulk=bulk), command)

    async def _pipeline_at(self, owner: HostPort, commands: Sequence[Command]) -> list[Reply]:
        try:
            return await self._node(owner).pipeline(commands)
        except Redirected:  # some were done; a cache may be told again what it was told
            return [await self.call(*command) for command in commands]

    # --- who has what -------------------------------------------------------------------------------------

    async def _know_owners(self) -> None:
        if self._closed:
            raise StoreUnavailable(self.server, "the transport was closed")
        if not self._owners:
            self._refresh_soon()
            if self._refreshing is not None:
                await asyncio.wait([self._refreshing], timeout=self.deadline_s)
            if not self._owners:
                raise StoreUnavailable(self.server, self._unknown())

    def _unknown(self) -> str:
        reasons = [node.reason for node in self._nodes.values() if node.reason]
        return reasons[0] if reasons else "no node told who has which slots"

    def _refresh_soon(self) -> None:
        loop = asyncio.get_running_loop()
        if self._refreshing is None and loop.time() - self._refreshed_at >= _REFRESH_EVERY_S:
            self._refreshed_at = loop.time()
            self._refreshing = loop.create_task(self._refresh())

    async def _refresh(self) -> None:
        try:
            for place in (*dict.fromkeys(self._owners), *self._address.seeds):
                with suppress(StoreUnavailable):
                    owners = _read_slots(await self._node(place).call("CLUSTER", "SLOTS"), place)
                    if owners:
                        self._owners = owners
                        self._forget_others()
                        return
        finally:
            self._refreshing = None

    def _node(self, place: HostPort) -> RedisTransport:
        node = self._nodes.get(place)
        if node is None:
            address = replace(self._address, host=place[0], port=place[1])
            node = RedisTransport(self.server, address, self._credentials, self._settings, tls=self._tls)
            self._nodes[place] = node
        return node

    def _forget_others(self) -> None:
        """Nodes that have no slot are not kept, nor asked for their health."""
        for place in self._nodes.keys() - set(self._owners):
            task = asyncio.create_task(self._nodes.pop(place).aclose())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _any_node(self) -> RedisTransport:
        await self._know_owners()
        nodes = [self._node(place) for place in dict.fromkeys(self._owners)]
        return next((node for node in nodes if node.available), nodes[0])


def _read_slots(reply: Reply, asked: HostPort) -> list[HostPort]:
    """``CLUSTER SLOTS`` as one place for each slot; empty where some slot has none. A node that does not know
    its own address names none: it is the one that was asked."""
    owners: dict[int, HostPort] = {}
    for part in reply if isinstance(reply, list) else ():
        match part:
            case [int(first), int(last), [host, int(port), *_], *_]:
                place = (host.decode() if isinstance(host, bytes) and host else asked[0], port)
                owners.update(dict.fromkeys(range(first, last + 1), place))
    return [owners[slot] for slot in range(SLOTS)] if len(owners) == SLOTS else []


def _place(where: str, answered: HostPort) -> HostPort:
    """The address in ``3999 127.0.0.1:6381``; without a host it is that of who answered."""
    host, _, port = where.partition(" ")[2].rpartition(":")
    return (host or answered[0], int(port))


def _in_order(parts: Iterable[Sequence[int]], done: Iterable[Sequence[Reply]]) -> list[Reply]:
    """Answers of parts at the positions that the questions had."""
    found = {
        position: reply
        for part, replies in zip(parts, done, strict=True)
        for position, reply in zip(part, replies, strict=True)
    }
    return [found[position] for position in range(len(found))]
