"""kubectl-cachepolicy validate and render: what they print, where, and with which exit code."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import yaml

from cachepolicy.document import read_document
from cachepolicy_operator.cli import main

FULL = """\
apiVersion: cache.masterclaw.io/v1alpha1
kind: CachePolicy
metadata: {name: core, namespace: shop}
spec:
  redis:
    managed:
      state: {config: {maxclients: "500"}}
  sessions: {}
  responseCache: {ttl: 5m}
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "core.yaml"
    path.write_text(FULL)
    return path


def test_validate_names_every_valid_policy_and_exits_0(
    policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", str(policy)]) == 0
    assert capsys.readouterr().out == f"{policy}: shop/core is valid (sessions, responseCache)\n"


def test_validate_tells_all_mistakes_of_all_files_on_standard_error_and_exits_1(
    tmp_path: Path, policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text(FULL.replace("ttl", "tll"))
    second.write_text(FULL.replace("5m", "5 minutes"))
    assert main(["validate", str(first), str(policy), str(second)]) == 1
    captured = capsys.readouterr()
    assert f"{first}:9: spec.responseCache.tll: unknown field; did you mean ttl?" in captured.err
    assert f"{second}:9: spec.responseCache.ttl: '5 minutes' is not a duration" in captured.err
    assert f"{policy}: shop/core is valid" in captured.out


def test_validate_reads_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(FULL))
    assert main(["validate", "-"]) == 0
    assert capsys.readouterr().out.startswith("standard input: shop/core is valid")


def test_validate_refuses_what_the_operator_would_stall_on(
    policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy.write_text(FULL.replace('config: {maxclients: "500"}', "resources: {limits: {memory: 16Mi}}"))
    assert main(["validate", str(policy)]) == 1
    assert "spec.redis.managed.state.resources.limits.memory: 16Mi is too small" in capsys.readouterr().err


def test_a_file_without_a_policy_is_not_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("apiVersion: v1\nkind: Namespace\n")
    assert main(["validate", str(other)]) == 1
    captured = capsys.readouterr()
    assert "skipped: Namespace is not a CachePolicy" in captured.out
    assert "no CachePolicy in it" in captured.err


def test_a_file_that_cannot_be_read_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(tmp_path / "missing.yaml")]) == 2
    assert "missing.yaml: No such file or directory" in capsys.readouterr().err


def test_the_exit_codes_stand_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["validate", "--help"])
    assert "exit codes:" in capsys.readouterr().out


def rendered(policy: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["render", str(policy), *options]) == 0
    return capsys.readouterr().out


def test_render_prints_every_object_and_twice_the_same(
    policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = rendered(policy, capsys)
    assert text == rendered(policy, capsys)
    kinds = [(obj["kind"], obj["metadata"]["name"]) for obj in yaml.safe_load_all(text)]
    assert ("StatefulSet", "core-state") in kinds
    assert ("StatefulSet", "core-cache") in kinds
    assert ("ConfigMap", "core-core") in kinds
    assert ("Secret", "core-redis-auth") in kinds


def test_render_shows_the_rules_of_users_and_no_secret(
    policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secrets = [obj for obj in yaml.safe_load_all(rendered(policy, capsys)) if obj["kind"] == "Secret"]
    assert all("data" not in secret for secret in secrets)
    auth = next(secret for secret in secrets if secret["metadata"]["name"] == "core-redis-auth")
    assert "user core on #<sha256 of core-password> " in auth["stringData"]["users.acl"]


def test_render_says_which_directives_wait_for_the_server(
    policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rendered(policy, capsys).startswith("# spec.redis.managed.state.config (maxclients) is not")


def test_render_of_the_document_alone_is_what_a_runtime_reads(
    policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = rendered(policy, capsys, "--only", "policy.json", "--cache-url", "redis://cache:6379")
    document = read_document(text.encode()).document
    assert document.redis.cache is not None
    assert document.redis.cache.url == "redis://cache:6379"
    assert json.loads(text)["redis"]["state"]["url"] == "redis://core-state.shop.svc:6379"


def test_render_of_a_server_that_the_policy_has_not_is_refused(
    policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy.write_text(FULL.replace("  responseCache: {ttl: 5m}\n", ""))
    assert main(["render", str(policy), "--only", "cache/redis.conf"]) == 1
    assert "core has no cache server" in capsys.readouterr().err


def test_an_address_with_a_password_is_refused_as_wrong_use(
    policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["render", str(policy), "--state-url", "redis://:secret@state:6379"])
    assert exit_info.value.code == 2
    captured = capsys.readouterr()
    assert "must not hold a user or a password" in captured.err
    assert "secret@" not in captured.err


def test_render_needs_exactly_one_policy(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy.write_text(f"{FULL}---\n{FULL}")
    assert main(["render", str(policy)]) == 1
    assert "exactly one CachePolicy is needed, and 2 are there" in capsys.readouterr().err
