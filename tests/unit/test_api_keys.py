"""Who owns a key, and nobody else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from cachepolicy import Identity
from cachepolicy_runtime.apikeys import ApiKeys, ApiKeysError
from cachepolicy_runtime.secrets import WatchedFile


def sha(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def scope(authorization: str | None, **others: str) -> dict[str, Any]:
    headers = {**others, **({"authorization": authorization} if authorization is not None else {})}
    return {
        "type": "http",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({sha("alice-key"): {"tenant": "acme", "user": "alice"}}))
    return path


def test_a_key_names_its_owner(path: Path) -> None:
    """Tenant, user, and an id of the key that is not the key."""
    keys = ApiKeys.from_path(str(path))
    assert keys.identify(scope("Bearer alice-key")) == Identity("acme", "alice", sha("alice-key")[:16])
    assert keys.identify(scope("bearer  alice-key")) is not None


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer other",
        "Basic alice-key",
        "alice-key",
        f"Bearer {sha('alice-key')}",
    ],
)
def test_anything_else_is_nobody(path: Path, authorization: str | None) -> None:
    """Neither another scheme nor the stored digest lets anybody in."""
    assert ApiKeys.from_path(str(path)).identify(scope(authorization)) is None


def test_anthropics_clients_send_the_key_in_a_header_of_its_own(path: Path) -> None:
    """A bearer key goes before it, whether it is valid or not."""
    keys = ApiKeys.from_path(str(path))
    both = scope("Bearer other", **{"x-api-key": "alice-key"})
    assert keys.identify(scope(None, **{"x-api-key": "alice-key"})) is not None
    assert keys.identify(both) is keys.identify(scope(None, **{"x-api-key": "other"})) is None


def test_no_header_chooses_a_tenant(path: Path) -> None:
    """Only the key does."""
    keys = ApiKeys.from_path(str(path))
    claimed = {"x-tenant": "victim", "x-user": "root", "x-forwarded-user": "root"}
    assert keys.identify(scope("Bearer alice-key", **claimed)) == keys.identify(scope("Bearer alice-key"))
    assert keys.identify(scope(None, **claimed)) is None


def test_the_file_is_followed_and_a_bad_one_changes_nothing(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A typing mistake must not lock everybody out, nor show what stands there."""
    now = [0.0]

    def later() -> float:
        now[0] += 10
        return now[0]

    keys = ApiKeys(WatchedFile(path, clock=later))
    assert keys.identify(scope("Bearer alice-key")) is not None
    path.write_text('{"secret-thing": ')
    assert keys.identify(scope("Bearer alice-key")) is not None
    assert keys.identify(scope("Bearer alice-key")) is not None
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "secret-thing" not in caplog.text
    path.write_text(json.dumps({sha("bob-key"): {"tenant": "globex"}}))
    assert keys.identify(scope("Bearer alice-key")) is None
    assert keys.identify(scope("Bearer bob-key")) == Identity("globex", None, sha("bob-key")[:16])


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("[]", "object of sha256"),
        ("no", "not JSON"),
        ('{"abc": {"tenant": "a"}}', "64 lower-case hex digits"),
        (json.dumps({sha("k"): {"tenant": ""}}), "tenant"),
        (json.dumps({sha("k"): {"user": "x"}}), "tenant"),
        (json.dumps({sha("k"): {"tenant": "a", "admin": True}}), "admin"),
        (json.dumps({sha("k"): {"tenant": 5}}), "tenant"),
    ],
)
def test_a_bad_file_ends_the_start_with_what_it_must_hold(tmp_path: Path, content: str, what: str) -> None:
    """The message names the file and the field, and never repeats a value."""
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(ApiKeysError, match=what) as caught:
        ApiKeys.from_path(str(path))
    assert str(path) in str(caught.value)


def test_a_missing_file_ends_the_start(tmp_path: Path) -> None:
    """It was asked for by name."""
    with pytest.raises(ApiKeysError, match="CACHEPOLICY_API_KEYS_FILE"):
        ApiKeys.from_path(str(tmp_path / "absent"))


def test_without_a_file_nobody_is_let_in(caplog: pytest.LogCaptureFixture) -> None:
    """And a line says so."""
    assert ApiKeys.from_path(None).identify(scope("Bearer x")) is None
    assert "CACHEPOLICY_API_KEYS_FILE" in caplog.text
