"""Programs of the local stack end with the process that started them, and leave their last words."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cachepolicy_operator.processes import Process, Program

# Says its pid, then stays; `python -m` runs it from PYTHONPATH.
PROGRAM = """
import os, signal, sys, time
if sys.argv[1:] == ["stubborn"]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("pid", os.getpid(), flush=True)
time.sleep(60)
"""

OWNER = """
import pathlib, sys, time
from cachepolicy_operator.processes import Process, Program
folder = pathlib.Path(sys.argv[1])
Process(Program("stays", "stays", [], {"PYTHONPATH": str(folder)}, folder / "log"))
time.sleep(60)
"""


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.fixture
def program(tmp_path: Path) -> Program:
    (tmp_path / "stays.py").write_text(PROGRAM)
    return Program("stays", "stays", [], {"PYTHONPATH": str(tmp_path)}, tmp_path / "log")


def pid_in(log: Path) -> int:
    assert eventually(lambda: log.exists() and "pid" in log.read_text())
    return int(log.read_text().split()[1])


def test_a_stopped_program_has_gone_when_stop_returns(program: Program) -> None:
    process = Process(program)
    pid = pid_in(program.log)
    assert process.running
    process.stop()
    assert gone(pid)
    assert not process.running
    process.stop()


def test_a_killed_program_has_gone_at_once(program: Program) -> None:
    process = Process(program)
    pid = pid_in(program.log)
    process.kill()
    assert gone(pid)
    process.stop()


def test_a_program_is_gone_after_sigkill_of_the_process_that_started_it(
    program: Program, tmp_path: Path
) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)])
    pid = pid_in(program.log)
    owner.kill()
    owner.wait()
    assert eventually(lambda: gone(pid))


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux")
def test_a_program_is_gone_after_sigkill_of_its_guard(program: Program) -> None:
    process = Process(program)
    pid = pid_in(program.log)
    os.kill(int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
    assert eventually(lambda: gone(pid))
    process.stop()


def test_a_program_that_cannot_start_leaves_its_last_words(program: Program, tmp_path: Path) -> None:
    process = Process(Program("missing", "no_such_module", [], {}, tmp_path / "log"))
    assert eventually(lambda: not process.running)
    assert "no_such_module" in process.last_words()
    process.stop()
