"""The rendered files on real servers: what they start with, and what each user may and may not do."""

from __future__ import annotations

import itertools
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.servers import REAL_KINDS, absent

from cachepolicy.keys import KeyLayout
from cachepolicy.names import Role
from cachepolicy.spec import CachePolicySpec
from cachepolicy_operator import embedded
from cachepolicy_operator.resources import LiveDirective, ServerConfig, acl, redis_conf
from cachepolicy_operator.resources.credentials import Credentials

KEYS = KeyLayout.of_policy("ns", "core")
P = KEYS.prefix
_COUNTER = itertools.count(1)
MADE = Credentials.generate(lambda: f"made-up-token-{next(_COUNTER)}")
OTHER = Credentials.generate(lambda: f"other-token-{next(_COUNTER)}")
PASSWORDS = {"probe": acl.PROBE_PASSWORD, "core": MADE.core_password, "operator": MADE.operator_password}
SPEC = CachePolicySpec.model_validate(
    {"redis": {"managed": {"state": {"storage": {"size": "1Gi"}}}}, "sessions": {}}
)
# As CONFIG GET gives them: of several words, empty, with quotes and a backslash.
LIVE = {
    "client-output-buffer-limit": "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 61",
    "notify-keyspace-events": "",
    "oom-score-adj-values": "0 100 800",
    "latency-tracking-info-percentiles": "50 99 99.8",
    "proc-title-template": '{title} "a\\b" {listen-addr}',
    "maxclients": "500",
}


@dataclass(frozen=True)
class Started:
    socket: Path

    @contextmanager
    def user(self, name: str | None, password: str | None = None) -> Iterator[redis.Redis]:
        client = redis.Redis(
            unix_socket_path=str(self.socket),
            username=name,
            password=password or (PASSWORDS[name] if name else None),
            protocol=2,
        )
        try:
            yield client
        finally:
            client.close()


@pytest.fixture(scope="module", params=REAL_KINDS)
def started(request: pytest.FixtureRequest) -> Iterator[Started]:
    """A server with the files of the state server as the operator renders them."""
    if reason := absent(request.param):
        pytest.skip(reason)
    valkey = request.param == "valkey"
    binary = embedded.find_binary() if valkey else Path(str(shutil.which("redis-server")))
    config = ServerConfig(live={key: LiveDirective(value, value, "") for key, value in LIVE.items()})
    with tempfile.TemporaryDirectory(prefix="cp-") as text:
        folder = Path(text)
        (folder / "redis.conf").write_text(redis_conf.redis_conf(SPEC, Role.STATE, config))
        (folder / "restart.conf").write_text(redis_conf.restart_conf({"databases": "4"}))
        (folder / "users.acl").write_text(acl.acl_file(P, MADE))
        launch = embedded.Launch(
            folder, folder / "redis.conf", acl=folder / "users.acl", include=folder / "restart.conf"
        )
        server = embedded.start(launch, binary=binary)
        try:
            yield Started(server.socket)
        finally:
            server.stop()


def test_the_server_has_every_value_that_the_file_says(started: Started) -> None:
    """The operator's own, the user's in whatever spelling, and those of the restart file."""
    own = redis_conf.own_directives(SPEC, Role.STATE, 96 * 1024**2)
    with started.user("operator") as operator:
        for key, value in {**own, **LIVE, "databases": "4"}.items():
            assert operator.config_get(key) == {key: value}


ALLOWED = [
    ("probe", ("PING",)),
    ("core", ("SET", f"{P}:x", "1", "PX", "1000")),
    ("core", ("GET", KEYS.document)),
    ("core", ("EVAL", "return {redis.call('TIME'), redis.call('GET', KEYS[1])}", 1, f"{P}:x")),
    ("core", ("SCRIPT", "LOAD", "return 1")),
    ("core", ("SCRIPT", "EXISTS", "0" * 40)),
    ("core", ("PUBLISH", KEYS.wake_channel, "")),
    ("core", ("INFO", "server")),
    ("core", ("ZADD", KEYS.acknowledgements, 1, "m")),
    ("operator", ("SET", KEYS.document, "{}")),
    ("operator", ("PUBLISH", KEYS.wake_channel, "")),
    ("operator", ("ZRANGE", KEYS.acknowledgements, 0, -1)),
    ("operator", ("MGET", KEYS.acknowledgement("a/1/b"))),
    ("operator", ("HGETALL", KEYS.stamps)),
    ("operator", ("CONFIG", "GET", "maxmemory")),
    ("operator", ("CONFIG", "SET", "timeout", "0")),
    ("operator", ("ACL", "GETUSER", "core")),
    ("operator", ("INFO", "memory")),
    ("operator", ("ROLE",)),
    ("operator", ("TIME",)),
]
REFUSED = [
    ("probe", ("GET", f"{P}:x")),
    ("probe", ("INFO",)),
    ("core", ("SET", KEYS.document, "{}")),
    ("core", ("GET", "other/policy:x")),
    ("core", ("SET", "ns/core2:x", "1")),
    ("core", ("EVAL", "return redis.call('SET', KEYS[1], '1')", 1, KEYS.document)),
    ("core", ("EVAL", "return redis.call('FLUSHALL')", 0)),
    ("core", ("PUBLISH", "other/policy:wake", "")),
    ("core", ("FLUSHALL",)),
    ("core", ("KEYS", "*")),
    ("core", ("CONFIG", "GET", "*")),
    ("core", ("ACL", "LIST")),
    ("core", ("SCRIPT", "FLUSH")),
    ("core", ("FUNCTION", "LIST")),
    ("core", ("SHUTDOWN", "NOSAVE")),
    ("core", ("MULTI",)),
    ("operator", ("SET", f"{P}:x", "1")),
    ("operator", ("GET", "other/policy:x")),
    ("operator", ("SET", "cpctl:other/policy:policy", "{}")),
    ("operator", ("FLUSHALL",)),
    ("operator", ("ACL", "LOAD")),
    ("operator", ("CONFIG", "REWRITE")),
    ("operator", ("EVAL", "return 1", 0)),
    ("operator", ("SHUTDOWN", "NOSAVE")),
    ("operator", ("REPLICAOF", "NO", "ONE")),
]


def named(cases: list[tuple[str, tuple[Any, ...]]]) -> list[Any]:
    return [
        pytest.param(user, command, id=f"{user}-{command[0]}-{i}") for i, (user, command) in enumerate(cases)
    ]


@pytest.mark.parametrize(("user", "command"), named(ALLOWED))
def test_a_user_may_do_what_it_is_for(started: Started, user: str, command: tuple[Any, ...]) -> None:
    """Everything that Core, the operator and the probes send."""
    with started.user(user) as client:
        client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py has no annotation here


@pytest.mark.parametrize(("user", "command"), named(REFUSED))
def test_a_user_may_do_nothing_else(started: Started, user: str, command: tuple[Any, ...]) -> None:
    """Foreign keys, the document, other users and everything that could hurt the server."""
    with started.user(user) as client, pytest.raises(redis.exceptions.ResponseError) as caught:
        client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py has no annotation here
    # NOPERM; within a script each server has words of its own.
    assert re.search("permission|acl failure|can't run this command", str(caught.value), re.IGNORECASE)


def test_without_a_login_nothing_goes(started: Started) -> None:
    """The default user is off, for PING as well."""
    with started.user(None) as nobody, pytest.raises(redis.exceptions.AuthenticationError):
        nobody.ping()


def shown_hashes(operator: redis.Redis, user: str) -> set[str]:
    found: Any = operator.acl_getuser(user)
    return set(found["passwords"])


def test_setuser_changes_a_password_of_a_running_server_and_back(started: Started) -> None:
    """The repair of a server that started on a stale file; GETUSER then shows exactly our hashes."""
    hashes = acl.password_hashes(OTHER)["core"]
    with started.user("operator") as operator:
        operator.execute_command("ACL", "SETUSER", *acl.setuser_arguments("core", P, OTHER))  # type: ignore[no-untyped-call]  # see above
        assert shown_hashes(operator, "core") == hashes
        with started.user("core", OTHER.core_password) as core:
            assert core.set(f"{P}:x", "1", px=1000)
            operator.execute_command("ACL", "SETUSER", *acl.setuser_arguments("core", P, MADE))  # type: ignore[no-untyped-call]  # see above
            assert core.get(f"{P}:x") == b"1", "a connection that exists stays"
        assert shown_hashes(operator, "core") == acl.password_hashes(MADE)["core"]
