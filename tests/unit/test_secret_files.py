"""Secrets follow their files, and never show."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from cachepolicy_runtime.secrets import AdminToken, CacheSecretSource, SecretError, WatchedFile, required_file


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 10
        return self.now


def watched(path: Path) -> WatchedFile:
    """A file whose next reading always looks at the disk."""
    return WatchedFile(path, clock=Clock())


def swap(path: Path, content: str) -> None:
    """Replace it as Kubernetes does: a new file behind the same name."""
    fresh = path.with_suffix(".new")
    fresh.write_text(content)
    fresh.replace(path)


def test_a_file_is_read_again_when_it_changed(tmp_path: Path) -> None:
    """Absent, there, changed, gone; the trailing line break is no part of it."""
    path = tmp_path / "token"
    file = watched(path)
    assert file.read() is None
    swap(path, "one\n")
    assert file.read() == b"one"
    swap(path, "two")
    assert file.read() == b"two"
    path.unlink()
    assert file.read() is None


def test_a_file_is_looked_at_once_a_second_at_most(tmp_path: Path) -> None:
    """A request does not pay for the disk."""
    path = tmp_path / "token"
    path.write_text("one")
    now = 0.0
    file = WatchedFile(path, clock=lambda: now)
    assert file.read() == b"one"
    swap(path, "two")
    assert file.read() == b"one"
    now = 1.0
    assert file.read() == b"two"


def test_two_processes_with_one_file_have_one_key(tmp_path: Path) -> None:
    """So that the cache is shared; with another file it is another key."""
    path = tmp_path / "key"
    path.write_text("k" * 32)
    source, other = CacheSecretSource((watched(path),)), CacheSecretSource((watched(path),))
    assert source() == other()
    assert source.shared
    before = source()
    swap(path, "l" * 32)
    assert source() != before


def test_without_a_file_the_key_is_of_this_process_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One clear line says that the cache is not shared."""
    source = CacheSecretSource((watched(tmp_path / "absent"),))
    assert source() == source()
    assert source() != CacheSecretSource(())()
    assert not source.shared
    assert [record.levelno for record in caplog.records if "not shared" in record.message] == [30, 30]


def test_a_key_that_comes_later_is_taken_and_one_that_goes_is_kept(tmp_path: Path) -> None:
    """Core may start before its policy; a mount may blink."""
    path = tmp_path / "key"
    source = CacheSecretSource((watched(path),))
    alone = source()
    swap(path, "k" * 32)
    mounted = source()
    assert mounted != alone
    path.unlink()
    assert source() == mounted


def test_a_short_key_is_refused_and_never_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The line names the file and the length that is needed."""
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "key"
    path.write_text("hunter2")
    source = CacheSecretSource((watched(path),))
    source()
    source()
    assert [record.levelname for record in caplog.records if "at least 16 bytes" in record.message] == [
        "ERROR"
    ]
    assert "hunter2" not in caplog.text


def test_the_first_file_that_exists_counts(tmp_path: Path) -> None:
    """The policy's own before the environment's."""
    first, second = tmp_path / "first", tmp_path / "second"
    second.write_text("s" * 32)
    source = CacheSecretSource((watched(first), watched(second)))
    assert source() == CacheSecretSource((watched(second),))()


def test_the_admin_token_is_compared_whole_and_follows_its_file(tmp_path: Path) -> None:
    """No token configured: nothing is accepted, not even an empty one."""
    path = tmp_path / "admin-token"
    token = AdminToken((watched(path),))
    assert not token.configured
    assert not token.accepts(b"")
    swap(path, "secret-token\n")
    assert token.configured
    assert token.accepts(b"secret-token")
    assert not token.accepts(b"secret-toke")
    assert not token.accepts(b"secret-token\n")


def test_a_file_that_the_environment_names_must_be_readable(tmp_path: Path) -> None:
    """At start, with the variable's name in the message."""
    with pytest.raises(SecretError, match=r"CACHE_HMAC_KEY_FILE names .*absent"):
        required_file("CACHE_HMAC_KEY_FILE", str(tmp_path / "absent"))
