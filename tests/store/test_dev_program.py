"""The programs of a laptop as a person runs them: they come up, follow, end in order, and leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cachepolicy_operator import stack
from cachepolicy_operator.local import LocalBackend
from cachepolicy_operator.policyfile import read_policies
from cachepolicy_operator.processes import ProcessError, free_port

pytestmark = pytest.mark.timeout(180)

POLICY = """\
apiVersion: cache.masterclaw.io/v1alpha1
kind: CachePolicy
metadata: {name: core, namespace: shop}
spec:
  redis: {managed: {}}
  sessions: {idleTimeout: 5m}
  rateLimits:
    per-user: {by: [{type: Tenant}, {type: User}], rates: [{limit: 9, window: 1m}]}
  responseCache: {}
  embeddingCache: {}
"""


class Dev:
    """``kubectl-cachepolicy dev`` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "core.yaml"
        self.file.write_text(POLICY)
        self.output = folder / "output"
        self.errors = folder / "errors"
        # Inherited by every process of the stack, so that a test finds them all.
        self.mark = f"CACHEPOLICY_TEST_MARK={folder}"
        arguments = ["dev", str(self.file), "--data", str(folder / "data"), "--port", str(_two_free_ports())]
        with self.output.open("wb") as output, self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cachepolicy_operator.cli", *arguments],
                stdout=output,
                stderr=errors,
                env={**os.environ, "CACHEPOLICY_TEST_MARK": str(folder)},
            )

    def says(self, text: str, seconds: float = 60) -> None:
        found = eventually(lambda: text in self.output.read_text(), seconds)
        assert found, f"{text!r} is missing in:\n{self.output.read_text()}\n{self.errors.read_text()}"

    def left(self) -> list[str]:
        """Command lines of the processes of this stack that still run."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (process / "environ").read_bytes().split(b"\0"):
                    found.append((process / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
        return found


def _two_free_ports() -> int:
    """A port that is free together with the next one."""
    while True:
        first = free_port()
        with contextlib.suppress(OSError), socket.socket() as second:
            second.bind(("127.0.0.1", first + 1))
            return first


def eventually(condition: Callable[[], bool], seconds: float = 15) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.fixture
def dev() -> Iterator[Dev]:
    with tempfile.TemporaryDirectory(prefix="cp-", dir="/tmp") as folder:
        dev = Dev(Path(folder).resolve())
        yield dev
        if dev.process.poll() is None:
            dev.process.send_signal(signal.SIGTERM)
        dev.process.wait(30)


def test_dev_comes_up_enforced_follows_an_edit_and_ctrl_c_leaves_nothing(dev: Dev) -> None:
    dev.says("Enforced 2/2")
    revision = dev.output.read_text().rpartition("revision ")[2].split()[0]
    dev.file.write_text(POLICY.replace("5m", "5 m"))
    dev.says(f"The file is not applied: revision {revision} stays.")
    assert "spec.sessions.idleTimeout: '5 m' is not a duration" in dev.output.read_text()
    dev.file.write_text(POLICY.replace("limit: 9", "limit: 12"))
    dev.says("is out")
    new = dev.output.read_text().partition(" is out")[0].rpartition("revision ")[2]
    assert new != revision
    dev.says(f"Enforced 2/2: revision {new}")
    dev.process.send_signal(signal.SIGINT)
    assert dev.process.wait(30) == 0
    assert dev.left() == []


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_sigkill_of_dev_leaves_nothing(dev: Dev) -> None:
    dev.says("Enforced 2/2")
    assert len(dev.left()) >= 9  # dev, two supervisors and servers, three programs behind guards
    dev.process.kill()
    dev.process.wait()
    assert eventually(lambda: dev.left() == []), dev.left()


def test_dev_refuses_a_bad_file_before_anything_starts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "core.yaml"
    file.write_text(POLICY.replace("sessions", "sesions"))
    done = subprocess.run([sys.executable, "-m", "cachepolicy_operator.cli", "dev", str(file)], check=False)
    assert done.returncode == 1
    assert "spec.sesions: unknown field; did you mean sessions?" in capfd.readouterr().err


async def test_a_missing_extra_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "find_spec", lambda name: None if name == "uvicorn" else object())
    backend = LocalBackend(tmp_path / "data", print)
    with pytest.raises(ProcessError, match=r"Core needs uvicorn: pip install 'cachepolicy\[gateway\]'"):
        await stack.Stack(backend, stack.StackOptions()).start(read_policies(POLICY).policies[0])
    assert not (tmp_path / "data").exists()


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        options = stack.StackOptions(
            replicas=1, first_port=port, upstream=stack.Upstream("http://127.0.0.1:9")
        )
        async with stack.Stack(LocalBackend(tmp_path / "data", print), options) as running:
            with pytest.raises(ProcessError, match=f"core-0 needs port {port}, and somebody listens there"):
                await running.start(read_policies(POLICY).policies[0])


def test_the_demo_tells_its_whole_story(capfd: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "cachepolicy_operator.demo"], check=False)
    captured = capfd.readouterr()
    assert done.returncode == 0, captured.out + captured.err
    assert "8 of 8 steps as told" in captured.out
