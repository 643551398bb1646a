"""The environment of the runtime: what it may say, and that no password is ever told."""

from __future__ import annotations

from pathlib import Path

import pytest

from cachepolicy_runtime.settings import RuntimeSettings, SettingsError
from cachepolicy_runtime.store.endpoint import Address, Credentials, FileCredentials, Topology, parse_url
from cachepolicy_runtime.store.tls import TlsFiles

SECRET = "hunter2-not-to-be-seen"


def read(**env: str) -> RuntimeSettings:
    return RuntimeSettings.from_env({"POD_NAME": "core-0", **env})


def test_nothing_set_means_memory() -> None:
    settings = read()
    assert (settings.policy_dir, settings.state, settings.cache) == (None, None, None)
    assert (settings.key_prefix, settings.deadline_s, settings.pod_name) == ("local/core", 0.1, "core-0")


def test_one_url_serves_both_and_a_url_of_its_own_comes_first() -> None:
    settings = read(REDIS_URL="redis://one:6380/2", REDIS_CACHE_URL="rediss://two")
    assert settings.state is not None
    assert settings.cache is not None
    assert settings.state.address == Address(host="one", port=6380, db=2)
    assert settings.cache.address == Address(host="two", tls=True)


def test_a_server_can_be_named_in_parts(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{SECRET}\n")
    settings = read(
        REDIS_HOST="redis.example",
        REDIS_PORT="6380",
        REDIS_DB="3",
        REDIS_SSL="true",
        REDIS_USERNAME="core",
        REDIS_PASSWORD_FILE=str(tmp_path / "password"),
    )
    assert settings.state is not None
    assert settings.state.address == Address(host="redis.example", port=6380, db=3, tls=True)
    assert settings.state.credentials() == Credentials("core", SECRET)
    (tmp_path / "password").write_text("rotated")
    assert settings.state.credentials() == Credentials("core", "rotated")


def test_a_login_in_the_url_is_used_and_one_beside_it_where_the_url_has_none() -> None:
    inside = read(REDIS_URL=f"redis://ann:{SECRET}%40@one", REDIS_PASSWORD="other").state
    beside = read(REDIS_URL="unix:///run/redis.sock?db=4", REDIS_USERNAME="ann", REDIS_PASSWORD=SECRET).state
    assert inside is not None
    assert beside is not None
    assert inside.credentials() == Credentials("ann", f"{SECRET}@")
    assert beside.credentials() == Credentials("ann", SECRET)
    assert beside.address == Address(path="/run/redis.sock", db=4)


def test_a_server_of_the_document_gets_the_login_that_is_mounted_beside_it(tmp_path: Path) -> None:
    target = read(CACHEPOLICY_DIR=str(tmp_path)).target("redis://core-state:6379")
    assert target.credentials == FileCredentials(tmp_path)
    assert target.credentials() == Credentials()
    (tmp_path / "username").write_text("core")
    (tmp_path / "password").write_text(SECRET)
    assert target.credentials() == Credentials("core", SECRET)


def test_sentinels_and_clusters_are_named_by_some_of_their_members(tmp_path: Path) -> None:
    (tmp_path / "sentinels").write_text(f"{SECRET}\n")
    settings = read(
        REDIS_STATE_URL=f"rediss+sentinel://ann:{SECRET}@one,[2001:db8::2]:5/my%20main/3",
        REDIS_CACHE_URL="redis+cluster://one:7000,two",
        REDIS_SENTINEL_USERNAME="reader",
        REDIS_SENTINEL_PASSWORD_FILE=str(tmp_path / "sentinels"),
    )
    assert settings.state is not None
    assert settings.cache is not None
    assert settings.state.address == Address(
        db=3,
        tls=True,
        topology=Topology.SENTINEL,
        seeds=(("one", 26379), ("2001:db8::2", 5)),
        service="my main",
    )
    assert settings.state.credentials() == Credentials("ann", SECRET)
    assert settings.state.sentinel_credentials() == Credentials("reader", SECRET)
    assert settings.cache.address == Address(topology=Topology.CLUSTER, seeds=(("one", 7000), ("two", 6379)))
    assert SECRET not in repr(settings)


def test_certificates_come_from_variables_and_else_from_beside_the_document(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("x")
    ca, cert = str(tmp_path / "ca.crt"), __file__
    named = read(
        REDIS_URL="rediss://one", REDIS_TLS_CA_FILE=ca, REDIS_TLS_CERT_FILE=cert, REDIS_TLS_KEY_FILE=cert
    )
    assert named.state is not None
    assert named.state.tls == TlsFiles(Path(ca), Path(cert), Path(cert))
    directory = {"CACHEPOLICY_DIR": str(tmp_path)}
    assert read(**directory).target("rediss://core-state:6379").tls == TlsFiles.beside(tmp_path)
    both = read(**directory, REDIS_TLS_CA_FILE=ca)
    assert both.target("rediss://core-state:6379").tls == TlsFiles(Path(ca))
    # So that a new document which moves no server leaves the connections alone.
    assert both.target("rediss://core-state:6379") == both.target("rediss://core-state:6379")


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        (
            {"REDIS_HOST": "a", "REDIS_PORT": "0"},
            "REDIS_PORT must be a whole number from 1 to 65535, not '0'",
        ),
        ({"REDIS_HOST": "a", "REDIS_PORT": "tcp://10.0.0.1:6379"}, "enableServiceLinks: false"),
        ({"REDIS_HOST": "a", "REDIS_DB": "-1"}, "REDIS_DB must be a whole number from 0"),
        ({"REDIS_HOST": "a", "REDIS_SSL": "maybe"}, "REDIS_SSL must be true or false, not 'maybe'"),
        ({"REDIS_HOST": "a", "REDIS_URL": "redis://b"}, "REDIS_URL and REDIS_HOST both name a server"),
        (
            {"REDIS_HOST": "a", "REDIS_PASSWORD": SECRET, "REDIS_PASSWORD_FILE": "/x"},
            "REDIS_PASSWORD and REDIS_PASSWORD_FILE are both set",
        ),
        (
            {"REDIS_HOST": "a", "REDIS_PASSWORD_FILE": "/not/there"},
            "REDIS_PASSWORD_FILE names /not/there, which cannot be read or is empty",
        ),
        ({"REDIS_URL": f"http://ann:{SECRET}@b"}, "REDIS_URL is not a Redis URL; use redis://host:port/db"),
        ({"REDIS_URL": f"redis://ann:{SECRET}@b:port"}, "REDIS_URL is not a Redis URL"),
        (
            {"REDIS_STATE_URL": f"redis://:{SECRET}@b/zero"},
            "REDIS_STATE_URL names a database that is not a number",
        ),
        ({"REDIS_CACHE_URL": f"redis://:{SECRET}@"}, "REDIS_CACHE_URL is not a Redis URL"),
        ({"REDIS_URL": f"redis://:{SECRET}@b?ssl_cert_reqs=none"}, "REDIS_URL is not a Redis URL"),
        ({"REDIS_URL": f"redis+sentinel://:{SECRET}@b"}, "REDIS_URL is not a Redis URL"),
        ({"REDIS_URL": f"redis+sentinel://:{SECRET}@b:x/main"}, "REDIS_URL is not a Redis URL"),
        ({"REDIS_URL": f"redis+ssh://:{SECRET}@b/main"}, "REDIS_URL is not a Redis URL"),
        ({"REDIS_CACHE_URL": "redis+cluster://a,b/1"}, "a Redis Cluster has only the database 0"),
        (
            {"REDIS_URL": f"redis+cluster://:{SECRET}@b"},
            "REDIS_STATE_URL (or REDIS_URL without it) names a Redis Cluster, which cannot keep sessions",
        ),
        ({"REDIS_TLS_CA_FILE": "/not/there"}, "REDIS_TLS_CA_FILE names /not/there, which is no file"),
        (
            {"REDIS_TLS_KEY_FILE": __file__},
            "REDIS_TLS_KEY_FILE is the key of a certificate: set REDIS_TLS_CERT_FILE too",
        ),
        (
            {"REDIS_SENTINEL_PASSWORD": SECRET, "REDIS_SENTINEL_PASSWORD_FILE": "/x"},
            "REDIS_SENTINEL_PASSWORD and REDIS_SENTINEL_PASSWORD_FILE are both set",
        ),
        ({"CACHEPOLICY_DEADLINE_MS": "0"}, "CACHEPOLICY_DEADLINE_MS must be a whole number from 1 to 60000"),
        ({"CACHEPOLICY_KEY_PREFIX": "A*"}, "CACHEPOLICY_KEY_PREFIX: key prefix 'A*' must start with"),
    ],
)
def test_a_bad_value_is_refused_by_the_name_of_its_variable(env: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read(**env)
    assert sentence in str(refused.value)
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None


def test_no_repr_shows_a_password() -> None:
    settings = read(
        REDIS_URL=f"redis://ann:{SECRET}@one", REDIS_STATE_URL="redis://two", REDIS_PASSWORD=SECRET
    )
    assert settings.state is not None
    assert SECRET not in repr(settings) + repr(settings.state.credentials())
    assert SECRET not in repr(parse_url(f"redis://:{SECRET}@one"))


def test_an_empty_variable_counts_as_absent() -> None:
    assert read(REDIS_URL="", CACHEPOLICY_DIR="", REDIS_HOST="").state is None


def test_a_pods_name_becomes_a_safe_part_of_a_key() -> None:
    assert read(POD_NAME="my laptop/1").pod_name == "my-laptop-1"
