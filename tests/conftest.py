"""Fixtures that every test may use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from tests.servers import KINDS, REAL_KINDS, Server, absent, running


@pytest.fixture(scope="session")
def servers() -> Iterator[Callable[[str], Server]]:
    """One server of each kind for the whole run, started at the first use."""
    with ExitStack() as stack:
        started: dict[str, Server] = {}

        def get(kind: str) -> Server:
            if reason := absent(kind):
                pytest.skip(reason)
            if kind not in started:
                started[kind] = stack.enter_context(running(kind))
            return started[kind]

        yield get


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, servers: Callable[[str], Server]) -> Server:
    """An empty server, once for each kind: embedded Valkey, redis-server where there is one, fakeredis."""
    return _emptied(servers(request.param))


@pytest.fixture(params=REAL_KINDS)
def real_server(request: pytest.FixtureRequest, servers: Callable[[str], Server]) -> Server:
    """An empty server that is a process: embedded Valkey, and redis-server where there is one."""
    return _emptied(servers(request.param))


@pytest.fixture
def valkey(servers: Callable[[str], Server]) -> Server:
    """The empty embedded Valkey server."""
    return _emptied(servers("valkey"))


def _emptied(server: Server) -> Server:
    server.flush()
    return server
