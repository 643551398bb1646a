"""The operator's talk with a real server: looks, live configuration, users, the document, and servers that hang."""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from tests.servers import absent

from cachepolicy.acknowledgement import LIFETIME_MS, Acknowledgement
from cachepolicy.keys import KeyLayout
from cachepolicy_operator import embedded
from cachepolicy_operator.liveconfig import Outcome
from cachepolicy_operator.redis_admin import RedisDownError, RedisServer, Target
from cachepolicy_operator.redis_look import DownReason, fingerprint
from cachepolicy_operator.resources import Credentials
from cachepolicy_operator.resources.acl import acl_file, password_hash, setuser_arguments

PREFIX = "ns/core"
KEYS = KeyLayout(PREFIX)
CREDENTIALS = Credentials.generate()
ACK = Acknowledgement("rev", 1, "1.0", ("sessions",))


@pytest.fixture(scope="module", params=["valkey", "redis"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server with the users that the operator gives it."""
    if reason := absent(request.param):
        pytest.skip(reason)
    found = embedded.find_binary() if request.param == "valkey" else Path(str(shutil.which("redis-server")))
    with tempfile.TemporaryDirectory(prefix="cp-") as folder:
        conf, acl = Path(folder) / "redis.conf", Path(folder) / "users.acl"
        conf.write_text('save ""\nappendonly no\nmaxmemory 100mb\n')
        acl.write_text(acl_file(PREFIX, CREDENTIALS))
        server = embedded.start(embedded.Launch(Path(folder) / "data", conf, acl), binary=found)
        try:
            yield server.url
        finally:
            server.stop()


def target(
    url: str, *directives: str, passwords: tuple[str, ...] = (CREDENTIALS.operator_password,)
) -> Target:
    return Target(url, passwords, directives, KEYS)


def core(url: str) -> redis.Redis:
    return redis.Redis.from_url(
        url, username="core", password=CREDENTIALS.core_password, decode_responses=True
    )


@pytest.fixture
async def admin(url: str) -> RedisServer:
    return RedisServer(target(url, "maxclients", "hz"))


async def test_one_look_shows_version_memory_directives_and_users(admin: RedisServer) -> None:
    look = await admin.look()
    assert look.version.partition(" ")[0] in ("valkey", "redis")
    assert look.used_memory > 100_000
    assert look.maxmemory == 100 * 1024 * 1024
    assert set(look.directives) == {"maxclients", "hz", "maxmemory"}
    assert look.users["core"] == {password_hash(CREDENTIALS.core_password)}
    assert look.users["probe"] == {"nopass"}
    assert "default" not in look.users
    assert not look.loading
    await admin.close()


async def test_all_good_directives_are_set_and_each_bad_one_is_named(admin: RedisServer) -> None:
    """The server refuses the whole call for one of them, and says which."""
    answers = await admin.set_directives(
        {
            "slowlog-max-len": "77",
            "databases": "3",
            "hz": "x",
            "no-such-thing": "1",
            "repl-backlog-size": "2mb",
        }
    )
    outcome = {key: attempt.outcome for (key, _), attempt in answers.items()}
    assert outcome == {
        "slowlog-max-len": Outcome.ACCEPTED,
        "databases": Outcome.IMMUTABLE,
        "hz": Outcome.REJECTED,
        "no-such-thing": Outcome.REJECTED,
        "repl-backlog-size": Outcome.ACCEPTED,
    }
    backlog = answers["repl-backlog-size", "2mb"]
    assert (backlog.before, backlog.after) == (str(backlog.before), "2097152")
    assert "integer" in answers["hz", "x"].reason
    await admin.close()


async def test_a_server_that_does_not_name_the_refused_directive_is_asked_by_halves(
    admin: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cachepolicy_operator.redis_admin._named", lambda error, wanted: None)
    wanted = {"slowlog-max-len": "88", "hz": "x", "databases": "3", "latency-monitor-threshold": "5"}
    answers = await admin.set_directives(wanted)
    assert {key for (key, _), attempt in answers.items() if attempt.outcome is Outcome.ACCEPTED} == {
        "slowlog-max-len",
        "latency-monitor-threshold",
    }
    await admin.close()


async def test_a_changed_user_is_seen_and_set_right_while_its_connections_stay(
    admin: RedisServer, url: str
) -> None:
    with core(url) as client:
        client.ping()
        await admin.set_user(("core", "resetpass", ">" + "other"))
        assert (await admin.look()).users["core"] == {password_hash("other")}
        await admin.set_user(setuser_arguments("core", PREFIX, CREDENTIALS))
        assert (await admin.look()).users["core"] == {password_hash(CREDENTIALS.core_password)}
        assert client.ping()
    await admin.close()


async def test_the_document_goes_where_core_reads_it_and_wakes_core(admin: RedisServer, url: str) -> None:
    with core(url) as client, client.pubsub() as channel:
        channel.subscribe(KEYS.wake_channel)
        assert channel.get_message(timeout=5)
        await admin.publish('{"a": 1}')
        assert client.get(KEYS.document) == '{"a": 1}'
        woken = channel.get_message(timeout=5)
        assert woken
        assert woken["data"] == ""
    assert (await admin.look()).document == b'{"a": 1}'
    await admin.close()


async def test_only_living_processes_are_among_the_acknowledgements(admin: RedisServer, url: str) -> None:
    with core(url) as client:
        seconds, microseconds = client.time()
        now = seconds * 1000 + microseconds // 1000
        client.delete(KEYS.acknowledgements)
        client.zadd(
            KEYS.acknowledgements,
            {"a/1/x": now, "b/1/x": now, "old/1/x": now - LIFETIME_MS - 1000, "rubbish": now},
        )
        client.set(KEYS.acknowledgement("a/1/x"), ACK.to_json())
        client.set(KEYS.acknowledgement("old/1/x"), ACK.to_json())
        first = await admin.look()
        assert [(str(member), ack) for member, ack in first.acknowledgements] == [("a/1/x", ACK)]
        client.set(KEYS.acknowledgement("b/1/x"), replace(ACK, revision="new").to_json())
        second = await admin.look()
        assert [str(member) for member, _ in second.acknowledgements] == ["a/1/x", "b/1/x"]
    assert fingerprint(first) != fingerprint(second)
    await admin.close()


async def test_beats_and_memory_alone_are_no_difference(admin: RedisServer) -> None:
    look = await admin.look()
    assert fingerprint(look) == fingerprint(replace(look, used_memory=look.used_memory + 1))
    await admin.close()


async def test_the_password_before_is_tried_as_well(url: str) -> None:
    """A server that started before the Secret was made anew still has it."""
    server = RedisServer(target(url, passwords=("new", CREDENTIALS.operator_password)))
    assert (await server.look()).version
    await server.close()


async def test_a_wrong_password_is_said_and_not_shown(url: str) -> None:
    server = RedisServer(target(url, passwords=("secret-word",)))
    with pytest.raises(RedisDownError) as caught:
        await server.look()
    assert caught.value.down.reason is DownReason.WRONG_PASSWORD
    assert "secret-word" not in f"{caught.value!r} {caught.value} {server.target}"


async def test_no_server_is_said_at_once() -> None:
    server = RedisServer(target("unix:///nowhere/redis.sock"))
    with pytest.raises(RedisDownError) as caught:
        await server.look()
    assert caught.value.down.reason is DownReason.UNREACHABLE


async def test_a_server_that_hangs_costs_the_deadline_and_recovers() -> None:
    """Worse than down: it accepts the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as hangs:  # the kernel accepts, and nobody answers
        server = RedisServer(target(f"redis://127.0.0.1:{hangs.getsockname()[1]}"), deadline=0.1)
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises(RedisDownError) as caught:
                await server.look()
            assert caught.value.down.reason is DownReason.NO_ANSWER
            assert time.monotonic() - started < 1.0
    await server.close()


async def test_a_look_that_was_cut_short_leaves_no_reply_behind_for_the_next(admin: RedisServer) -> None:
    await admin.look()
    cut = asyncio.create_task(admin.look())
    await asyncio.sleep(0)
    cut.cancel()
    await asyncio.gather(cut, return_exceptions=True)
    assert (await admin.look()).maxmemory == 100 * 1024 * 1024
    await admin.close()
