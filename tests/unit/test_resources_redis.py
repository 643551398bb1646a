"""redis.conf, memory, users, probes and credentials."""

from __future__ import annotations

import base64
import itertools
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cachepolicy import names
from cachepolicy.names import Role
from cachepolicy.quantities import Quantity
from cachepolicy.spec import CachePolicySpec
from cachepolicy_operator import errors
from cachepolicy_operator.resources import LiveDirective, ServerConfig, acl, memory, probes, redis_conf
from cachepolicy_operator.resources.credentials import Credentials, FoundCredentials, found_in, random_token

MIB = 1024**2


def spec_of(role: str = "state", **server: Any) -> CachePolicySpec:
    section = "sessions" if role == "state" else "responseCache"
    return CachePolicySpec.model_validate({"redis": {"managed": {role: server}}, section: {}})


def made() -> Credentials:
    counter = itertools.count(1)
    return Credentials.generate(lambda: f"made-up-token-{next(counter)}")


# ------------------------------------------------------------------------------------------------ memory


@pytest.mark.parametrize(
    ("limit", "role", "expected"),
    [
        ("1Gi", Role.STATE, 768 * MIB),
        ("1Gi", Role.CACHE, int(1024 * MIB * 0.8)),
        ("128Mi", Role.STATE, 96 * MIB),
        ("128Mi", Role.CACHE, 96 * MIB),
        ("64Mi", Role.STATE, 32 * MIB),
        ("40Mi", Role.STATE, 8 * MIB),
        ("1G", Role.STATE, 750_000_000),
    ],
)
def test_maxmemory_is_a_share_of_the_limit_with_32mi_left(limit: str, role: Role, expected: int) -> None:
    """Rule 1: 75 %, 80 % without a disk, and at least 32Mi for everything that is not data."""
    assert memory.maxmemory_of(Quantity.parse(limit), role) == expected


def test_a_limit_too_small_for_redis_is_refused_with_the_arithmetic() -> None:
    """The message says what came out, what is needed and what to set."""
    with pytest.raises(errors.Stalled) as caught:
        memory.maxmemory(spec_of(resources={"limits": {"memory": "39Mi"}}), Role.STATE)
    assert (caught.value.reason, caught.value.field) == (
        "MemoryTooSmall",
        "spec.redis.managed.state.resources.limits.memory",
    )
    for part in ("39Mi", "75 %", "39Mi - 32Mi", "7Mi", "8Mi", "40Mi or more"):
        assert part in str(caught.value)


def test_the_memory_request_is_the_limit_unless_said_otherwise() -> None:
    """Rule 2: a server that may grow to its limit must find the memory there."""
    assert memory.container_resources(spec_of(), Role.STATE) == {
        "requests": {"cpu": "50m", "memory": "128Mi"},
        "limits": {"memory": "128Mi"},
    }
    given = spec_of(resources={"limits": {"memory": "1Gi", "cpu": 1}, "requests": {"cpu": "200m"}})
    assert memory.container_resources(given, Role.STATE) == {
        "requests": {"cpu": "200m", "memory": "1Gi"},
        "limits": {"memory": "1Gi", "cpu": "1"},
    }


def test_a_request_above_its_limit_is_refused_with_its_field() -> None:
    """The API server would refuse the StatefulSet, and name a field of that."""
    wrong = spec_of(resources={"limits": {"memory": "64Mi"}, "requests": {"memory": "128Mi"}})
    with pytest.raises(errors.Stalled, match=r"requests\.memory: 128Mi is more than the limit of 64Mi"):
        memory.check_requests(wrong, Role.STATE)


# -------------------------------------------------------------------------------------------- redis.conf


def test_state_with_a_disk_keeps_a_log_and_snapshots() -> None:
    """Rule 4; and it never evicts."""
    text = redis_conf.redis_conf(spec_of(storage={"size": "1Gi"}), Role.STATE, ServerConfig())
    for line in (
        "appendonly yes",
        "appendfsync everysec",
        'save "3600 1 300 100 60 10000"',
        "maxmemory-policy noeviction",
    ):
        assert f"\n{line}\n" in text


@pytest.mark.parametrize("role", list(Role))
def test_a_server_without_a_disk_writes_nothing(role: Role) -> None:
    """The cache never has one."""
    text = redis_conf.redis_conf(spec_of(str(role)), role, ServerConfig())
    assert "\nappendonly no\n" in text
    assert '\nsave ""\n' in text


def test_the_cache_evicts_what_is_used_least() -> None:
    """Evictable data has a server of its own (rule 3)."""
    text = redis_conf.redis_conf(spec_of("cache"), Role.CACHE, ServerConfig())
    assert "\nmaxmemory-policy allkeys-lfu\n" in text


def test_the_file_names_no_place() -> None:
    """The same file starts a server in a pod and on a laptop."""
    text = redis_conf.redis_conf(spec_of(storage={"size": "1Gi"}), Role.STATE, ServerConfig())
    assert "/" not in text
    keys = {line.split()[0] for line in text.splitlines() if not line.startswith("#")}
    assert not keys & {"dir", "port", "bind", "aclfile", "unixsocket", "logfile", "include"}


def test_a_users_directive_comes_last_in_the_spelling_that_redis_accepted() -> None:
    """The later line wins in redis.conf; what was requested is kept elsewhere."""
    config = ServerConfig(live={"timeout": LiveDirective("5m", "300", "0")})
    text = redis_conf.redis_conf(spec_of(), Role.STATE, config)
    assert text.endswith("as Redis accepted it.\ntimeout 300\n")


def test_maxmemory_can_be_held_back() -> None:
    """Lowering it under what is used would be an outage (rule 2): the old value stays for now."""
    text = redis_conf.redis_conf(spec_of(), Role.STATE, ServerConfig(maxmemory=123))
    assert "\nmaxmemory 123\n" in text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2000", "key 2000"),
        ("", 'key ""'),
        ("normal 0 0 0", 'key "normal 0 0 0"'),
        ('a "b" \\c', 'key "a \\"b\\" \\\\c"'),
        ("#no comment", 'key "#no comment"'),
        ("'", 'key "\'"'),
    ],
)
def test_a_value_is_quoted_so_that_it_stays_one_value(value: str, expected: str) -> None:
    """A quote, a hash or a space must not end or split it (checked on servers in tests/store)."""
    assert redis_conf.line("key", value) == expected


@pytest.mark.parametrize(
    ("key", "value"), [("key", "1\nloadmodule x"), ("key", "a\x00"), ("a b", "1"), ("a\n", "1")]
)
def test_a_control_character_never_reaches_the_file(key: str, value: str) -> None:
    """A newline would add any directive, and one of them loads code. The spec refuses it too; this is the last door."""
    with pytest.raises(ValueError, match="control characters"):
        redis_conf.line(key, value)


# ------------------------------------------------------------------------------------------------- users


def test_the_acl_file_has_the_three_users_and_the_default_user_off() -> None:
    """No comments: an ACL file takes none (rule 10). Passwords only as hashes."""
    lines = acl.acl_file("ns/core", made()).splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["user", "default", "off"],
        ["user", "probe", "on"],
        ["user", "core", "on"],
        ["user", "operator", "on"],
    ]
    assert made().core_password not in "".join(lines)


def test_cores_rules_are_those_that_were_checked() -> None:
    """Removals before grants, its prefix, and reading only what the operator writes (design §4, rule 9)."""
    rules = " ".join(acl.user_rules("ns/core", made())["core"][2:])
    assert rules == (
        "-@all +@read +@write +@pubsub +@connection -@admin -@dangerous -@scripting +eval +evalsha "
        "+script|load +script|exists +time +info ~ns/core:* &ns/core:* %R~cpctl:ns/core:*"
    )


def test_setuser_starts_from_nothing() -> None:
    """So that a rule which somebody added goes, in one step of the server."""
    assert acl.setuser_arguments("probe", "ns/core", made()) == (
        "probe",
        "reset",
        "on",
        "nopass",
        "-@all",
        "+ping",
    )


def test_password_hashes_are_what_getuser_shows() -> None:
    """SHA-256 in hexadecimal; the probe user has none."""
    hashes = acl.password_hashes(made())
    assert hashes["probe"] == frozenset()
    assert hashes["core"] == {acl.password_hash(made().core_password)}
    assert f"#{acl.password_hash(made().operator_password)}" in acl.acl_file("ns/core", made())


# ------------------------------------------------------------------------------------------------ probes


def test_readiness_takes_pong_only_and_liveness_a_loading_server_too() -> None:
    """Rule 6: one script for both kills a server that loads much data."""
    found = probes.probes()
    assert "LOADING" not in found["readinessProbe"]["exec"]["command"][-1]
    assert "*PONG*|*LOADING*|*MASTERDOWN*" in found["livenessProbe"]["exec"]["command"][-1]


def test_probes_say_some_password_and_have_a_time_limit() -> None:
    """Rule 7: without one redis-cli sends no AUTH; a hung server must not hang the probe."""
    for script in (probes.READY, probes.LIVE):
        assert f"REDISCLI_AUTH={acl.PROBE_PASSWORD} timeout 2" in script
        assert "command -v redis-cli || command -v valkey-cli" in script


@pytest.mark.parametrize(
    ("answer", "ready", "alive"),
    [
        ("PONG", True, True),
        ("LOADING Redis is loading the dataset in memory", False, True),
        ("MASTERDOWN Link with MASTER is down", False, True),
        ("NOAUTH Authentication required.", False, False),
        ("", False, False),
    ],
)
@pytest.mark.parametrize("cli", ["redis-cli", "valkey-cli"])
def test_the_reply_decides_and_not_the_exit_code(
    tmp_path: Path, cli: str, answer: str, ready: bool, alive: bool
) -> None:
    """redis-cli exits 0 on LOADING (rule 7); the image has either of the two programs."""
    fake = tmp_path / cli
    fake.write_text(f'#!/bin/sh\necho "{answer}"\n')
    fake.chmod(0o755)
    for tool in ("sh", "timeout", "sleep"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    for script, expected in ((probes.READY, ready), (probes.LIVE, alive)):
        done = subprocess.run(["sh", "-c", script], env={"PATH": str(tmp_path)}, check=False)
        assert (done.returncode == 0) is expected


# ------------------------------------------------------------------------------------------- credentials


def secret(**entries: str) -> dict[str, Any]:
    data = {
        key.replace("_", "-"): base64.b64encode(value.encode()).decode() for key, value in entries.items()
    }
    return {"data": data}


AUTH = secret(operator_password="op", generation="g1", users_acl="x")
CORE = secret(username="core", password="pw")
KEYS = secret(cache_hmac_key="key", admin_token="token")


def test_credentials_are_read_back_and_never_made_again() -> None:
    """A reconcile with all Secrets in place changes nothing."""
    found = found_in(AUTH, CORE, KEYS)
    assert found.missing == ()
    assert found.complete(pytest.fail) == Credentials("op", "pw", "key", "token", "g1")


def test_nothing_found_makes_everything() -> None:
    """The first reconcile."""
    found = found_in(None, None, None)
    assert found.nothing
    first, second = found.complete(), found.complete()
    assert first.operator_password != second.operator_password
    assert len({first.operator_password, first.core_password, first.cache_hmac_key, first.admin_token}) == 4


@pytest.mark.parametrize(
    ("auth", "core", "keys", "rolls"),
    [(None, CORE, KEYS, True), (AUTH, None, KEYS, True), (AUTH, CORE, None, False)],
)
def test_a_lost_secret_is_made_anew_and_the_others_are_kept(
    auth: dict[str, Any] | None, core: dict[str, Any] | None, keys: dict[str, Any] | None, rolls: bool
) -> None:
    """Only a new Redis password rolls the pods."""
    found = found_in(auth, core, keys)
    whole = found.complete()
    for field in ("operator_password", "core_password", "cache_hmac_key", "admin_token"):
        assert getattr(found, field) in (None, getattr(whole, field))
    assert (whole.generation != "g1") is rolls


@pytest.mark.parametrize(
    "value", ["", "not base64!", base64.b64encode(b"a b").decode(), base64.b64encode(b"a\nb").decode(), None]
)
def test_an_unusable_entry_counts_as_missing(value: str | None) -> None:
    """What a person broke by hand must not end up in an ACL file or a URI."""
    broken = {"data": {names.FILE_PASSWORD: value}}
    assert found_in(AUTH, broken, KEYS).missing == ("core_password",)


def test_credentials_never_show_themselves() -> None:
    """Tracebacks and log lines print values with repr."""
    whole = Credentials.generate()
    for text in (repr(whole), str(whole), repr(FoundCredentials(core_password="hunter2"))):
        assert whole.core_password not in text
        assert "hunter2" not in text


def test_tokens_fit_a_uri_and_an_acl_rule() -> None:
    """256 bits of the alphabet that needs no escaping anywhere."""
    token = random_token()
    assert len(token) == 43
    assert token.replace("-", "").replace("_", "").isalnum()
