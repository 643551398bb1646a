"""The embedded server against the real binary: shared, saved, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cachepolicy_operator import embedded
from cachepolicy_operator.embedded import EmbeddedError, EmbeddedServer, Launch

PLAIN = 'save ""\nappendonly no\n'
DURABLE = 'save ""\nappendonly yes\nappendfsync everysec\n'
ACL = "user default off\nuser probe on nopass -@all +ping\nuser core on >secret ~* +@all\n"

OWNER = """
import sys, pathlib
from cachepolicy_operator.embedded import Launch, start
folder = pathlib.Path(sys.argv[1])
server = start(Launch(folder, folder / "redis.conf"))
print(server.pid, flush=True)
sys.stdin.read()
server.stop()
"""


def launch(folder: Path, conf: str = PLAIN, acl: str | None = None) -> Launch:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "redis.conf").write_text(conf)
    if acl is not None:
        (folder / "users.acl").write_text(acl)
    return Launch(folder, folder / "redis.conf", folder / "users.acl" if acl is not None else None)


def client(server: EmbeddedServer, **options: str) -> redis.Redis:
    no_retry = Retry(NoBackoff(), 0)
    return redis.Redis(unix_socket_path=str(server.socket), decode_responses=True, retry=no_retry, **options)  # type: ignore[arg-type] # redis types its keywords one by one


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


@pytest.fixture
def owners(tmp_path: Path) -> Iterator[Callable[[], tuple[subprocess.Popen[str], int]]]:
    """Start further processes that hold the server of ``tmp_path``."""
    launch(tmp_path)
    started: list[subprocess.Popen[str]] = []

    def begin() -> tuple[subprocess.Popen[str], int]:
        process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        return process, int(process.stdout.readline())

    yield begin
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """pytest's own folders are too deep for a unix socket."""
    with tempfile.TemporaryDirectory(prefix="cp-", dir="/tmp") as folder:
        yield Path(folder).resolve()


def test_a_started_server_answers_on_its_unix_socket_and_listens_on_no_port(tmp_path: Path) -> None:
    server = embedded.start(launch(tmp_path))
    with client(server) as connection:
        assert connection.ping()
        assert connection.config_get("port") == {"port": "0"}
    assert server.running
    assert server.stop()
    assert gone(server.pid)


def test_a_stopped_server_leaves_no_socket_and_no_lock(tmp_path: Path) -> None:
    embedded.start(launch(tmp_path)).stop()
    assert not (tmp_path / "control.sock").exists()
    again = embedded.start(launch(tmp_path))
    assert again.stop()


def test_a_server_whose_default_user_is_off_is_found_ready_through_the_probe_user(tmp_path: Path) -> None:
    server = embedded.start(launch(tmp_path, acl=ACL))
    with client(server) as nobody, pytest.raises(redis.AuthenticationError):
        nobody.ping()
    with client(server, username="core", password="secret") as core:
        assert core.ping()
    server.stop()


def test_a_second_caller_attaches_to_the_running_server_and_the_last_one_stops_it(tmp_path: Path) -> None:
    first = embedded.start(launch(tmp_path))
    second = embedded.start(launch(tmp_path))
    assert second.pid == first.pid
    assert not first.stop()
    assert second.running
    with client(second) as connection:
        assert connection.ping()
    assert second.stop()
    assert gone(second.pid)


def test_several_processes_that_start_at_once_share_one_server(
    owners: Callable[[], tuple[subprocess.Popen[str], int]],
) -> None:
    assert len({owners()[1] for _ in range(3)}) == 1


def test_the_server_is_gone_after_sigkill_of_its_only_owner(
    owners: Callable[[], tuple[subprocess.Popen[str], int]],
) -> None:
    owner, pid = owners()
    assert not gone(pid)
    owner.send_signal(signal.SIGKILL)
    assert eventually(lambda: gone(pid))


def test_sigkill_of_one_owner_leaves_the_server_to_the_other(
    owners: Callable[[], tuple[subprocess.Popen[str], int]], tmp_path: Path
) -> None:
    killed, pid = owners()
    other = embedded.start(launch(tmp_path))
    killed.kill()
    killed.wait()
    assert other.pid == pid
    with client(other) as connection:
        assert connection.ping()
    assert other.stop()
    assert gone(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux")
def test_the_server_is_gone_after_sigkill_of_the_supervisor(tmp_path: Path) -> None:
    server = embedded.start(launch(tmp_path))
    supervisor = int(Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(supervisor, signal.SIGKILL)
    assert eventually(lambda: gone(server.pid))
    assert not server.running
    assert server.stop()
    after = embedded.start(launch(tmp_path))
    assert after.stop()


def test_a_server_that_dies_is_reported_and_can_be_started_again(tmp_path: Path) -> None:
    server = embedded.start(launch(tmp_path))
    os.kill(server.pid, signal.SIGKILL)
    assert eventually(lambda: not server.running)
    again = embedded.start(launch(tmp_path))
    assert again.pid != server.pid
    server.stop()
    assert again.running
    again.stop()


def test_a_restarted_state_server_has_its_data(tmp_path: Path) -> None:
    server = embedded.start(launch(tmp_path, DURABLE))
    with client(server) as connection:
        connection.set("kept", "yes")
    server.stop()
    again = embedded.start(launch(tmp_path, DURABLE))
    with client(again) as connection:
        assert connection.get("kept") == "yes"
    again.stop()


def test_a_data_folder_with_a_long_path_gets_short_sockets_and_its_data_stays_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_folder: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_folder))
    folder = tmp_path / ("long-" * 20)
    server = embedded.start(launch(folder, DURABLE))
    assert server.socket.is_relative_to(short_folder)
    with client(server) as connection:
        assert connection.config_get("dir") == {"dir": str(folder)}
    assert embedded.socket_folder(folder) == server.socket.parent
    server.stop()


def test_no_path_short_enough_for_a_socket_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("x" * 100)))
    with pytest.raises(EmbeddedError, match="choose a data folder with a shorter path"):
        embedded.start(launch(tmp_path / ("long-" * 20)))


def test_a_bad_directive_is_reported_with_the_servers_own_words(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match=r"(?s)did not start.*no-such-directive"):
        embedded.start(launch(tmp_path, "no-such-directive 1\n"))
    fixed = embedded.start(launch(tmp_path))
    fixed.stop()


def test_a_missing_binary_is_reported_with_the_extra_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "files", lambda _: [])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedError, match=r"cachepolicy\[embedded\]"):
        embedded.start(launch(tmp_path))


def test_a_data_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(EmbeddedError, match="cannot be used as a folder"):
        embedded.start(Launch(file, tmp_path / "redis.conf"))
