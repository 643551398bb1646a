"""How full the cache server is: what is read out of INFO, and how rarely it is asked."""

from __future__ import annotations

from typing import Any

import pytest

from cachepolicy_runtime.store.errors import StoreUnavailable
from cachepolicy_runtime.store.memory import MemoryCacheStore
from cachepolicy_runtime.store.server_info import FRESH_S, ServerFigures, ServerInfo, parse_info, sum_of

INFO = """# Memory\r
used_memory:1048576\r
used_memory_human:1.00M\r
maxmemory:4194304\r
# Stats\r
evicted_keys:7\r
# Keyspace\r
db0:keys=12,expires=12,avg_ttl=5\r
db3:keys=3,expires=0,avg_ttl=0\r
"""


class Server:
    """A server, or a cluster of ``nodes``, that counts how often it is asked."""

    def __init__(self, nodes: int = 1) -> None:
        self.nodes = nodes
        self.asked = 0
        self.up = True

    async def each(self, *command: Any) -> list[Any]:
        self.asked += 1
        if not self.up:
            raise StoreUnavailable("cache", "connection refused")
        return [INFO.encode()] * self.nodes


def test_info_is_read_over_all_databases() -> None:
    assert parse_info(INFO) == ServerFigures(15, 1 << 20, 4 << 20, 7)
    assert parse_info("# Keyspace\r\n") == ServerFigures(0, None, None, None)


@pytest.mark.parametrize("evicted", [None, 7])
def test_servers_of_a_cluster_are_added_up(evicted: int | None) -> None:
    """What one does not tell is unknown, not 0."""
    both = sum_of([ServerFigures(1, 2, 3, 4), ServerFigures(1, 2, 3, evicted)])
    assert both == ServerFigures(2, 4, 6, None if evicted is None else 11)


async def test_a_server_is_asked_rarely_and_its_silence_is_no_failure() -> None:
    now, server = [100.0], Server(nodes=3)
    info, memory = ServerInfo(lambda: now[0]), MemoryCacheStore()
    for _ in range(5):
        found = await info.figures(server, memory)  # type: ignore[arg-type]  # only one verb is used
    assert (found.keys, server.asked) == (45, 1)
    now[0] += FRESH_S
    server.up = False
    assert await info.figures(server, memory) == ServerFigures()  # type: ignore[arg-type]
    other = Server()
    assert (await info.figures(other, memory)).keys == 15  # type: ignore[arg-type]
    await memory.put("k", b"value", 1000)
    assert (await info.figures(None, memory)).keys == 1
