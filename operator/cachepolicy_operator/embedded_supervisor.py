"""The process between an embedded Redis server and the processes that use it.

Run as a script (standard library only, so that it starts in milliseconds):

    python -I -S embedded_supervisor.py LOCK_FD LISTEN_FD SOCKET COMMAND…

* ``LOCK_FD`` is an open, exclusively locked file: while it is open, here or in the server, nobody else starts a
  server on this folder.
* ``LISTEN_FD`` is a listening unix socket. Every process that uses the server keeps a connection to it open. The
  kernel closes those connections however a process ends, SIGKILL included; with the last one the server is stopped.
* ``SOCKET`` is the unix socket of the server, which is asked PING before anybody is told that it is ready.

Lines to an owner: ``ready <pid of the server>`` or ``failed <reason>``. Line from an owner: ``leave``, after which the
supervisor answers ``left <owners that remain>`` and, where that is 0, ends the connection once the server has stopped.

Should the supervisor itself be killed, the kernel ends the server (parent-death signal, Linux).
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

PR_SET_PDEATHSIG = 1
STOP_SECONDS = 30.0  # an append-only file is synced well within this; after it the server is killed
PING_EVERY_SECONDS = 0.004
# A rendered server lets nobody in without a password except the probe user, which may only PING (see the ACL file).
PING = b"PING\r\n"
PING_AS_PROBE = b"AUTH probe probe\r\nPING\r\n"


def main(arguments: list[str]) -> int:
    lock_fd, listen_fd, socket_path, *command = arguments
    listener = socket.socket(fileno=int(listen_fd))
    return Supervisor(listener, int(lock_fd), socket_path).run(command)


class Supervisor:
    """One server and the connections of its owners, in one thread."""

    def __init__(self, listener: socket.socket, lock_fd: int, server_socket: str) -> None:
        self.listener = listener
        self.lock_fd = lock_fd
        self.server_socket = server_socket
        self.owners: dict[socket.socket, bytes] = {}
        self.last: socket.socket | None = None
        self.ready_line = ""
        self.asked_to_stop = False
        self.selector = selectors.DefaultSelector()
        self.wake_read, self.wake_write = socket.socketpair()

    def run(self, command: list[str]) -> int:
        self._catch_signals()
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(self.wake_read, selectors.EVENT_READ)
        try:
            server = subprocess.Popen(  # noqa: S603 - the command of embedded.py
                command,
                stdin=subprocess.DEVNULL,
                pass_fds=(self.lock_fd,),  # the folder stays locked until the server itself has gone
                preexec_fn=_end_with_parent(),  # noqa: PLW1509 - safe, this process has one thread
            )
        except OSError as error:
            self._accept()
            self._tell(f"failed {error}")
            return 1
        self._accept()
        while server.poll() is None and self.owners and not self.asked_to_stop:
            self._turn(server)
        ended_by_itself = server.poll() is not None
        if ended_by_itself and not self.ready_line:
            self._accept()
            self._tell(f"failed the server ended with {_ending(server.returncode)}")
        self._stop(server)
        return 1 if ended_by_itself else 0

    def _turn(self, server: subprocess.Popen[bytes]) -> None:
        """Wait for the next event: an owner comes or goes, the server ends, it is time for another PING."""
        for key, _ in self.selector.select(None if self.ready_line else PING_EVERY_SECONDS):
            if key.fileobj is self.listener:
                self._accept()
            elif key.fileobj is self.wake_read:
                self.wake_read.recv(512)
            elif isinstance(key.fileobj, socket.socket):
                self._hear(key.fileobj)
        if not self.ready_line and answers(self.server_socket):
            self.ready_line = f"ready {server.pid}"
            self._tell(self.ready_line)

    def _accept(self) -> None:
        while (
            not self.asked_to_stop
        ):  # who comes now finds the listener closed, and starts a server of its own
            try:
                owner, _ = self.listener.accept()
            except OSError:  # nobody (more) is waiting
                return
            owner.setblocking(False)
            self.owners[owner] = b""
            self.selector.register(owner, selectors.EVENT_READ)
            if self.ready_line:
                _send(owner, self.ready_line)

    def _hear(self, owner: socket.socket) -> None:
        try:
            said = owner.recv(512)
        except OSError:
            said = b""
        self.owners[owner] += said
        if said and b"leave\n" not in self.owners[owner]:
            return
        self.selector.unregister(owner)
        del self.owners[owner]
        if said:
            _send(owner, f"left {len(self.owners)}")
        if said and not self.owners:
            self.asked_to_stop = True
            self.last = (
                owner  # stays open until this process ends: so the owner knows when the server has gone
            )
        else:
            owner.close()

    def _tell(self, line: str) -> None:
        for owner in self.owners:
            _send(owner, line)

    def _stop(self, server: subprocess.Popen[bytes]) -> None:
        """SIGTERM makes the server save its data and leave. The lock is given up only when it has gone."""
        path = self.listener.getsockname()
        self.listener.close()
        with suppress(OSError):  # the folder was removed under us
            os.unlink(path)
        if server.poll() is None:
            server.terminate()
            try:
                server.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()

    def _catch_signals(self) -> None:
        self.wake_write.setblocking(False)
        signal.set_wakeup_fd(self.wake_write.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_terminate)
        for ignored in (signal.SIGINT, signal.SIGHUP):
            signal.signal(ignored, signal.SIG_IGN)

    def _on_terminate(self, *_: object) -> None:
        self.asked_to_stop = True


def answers(socket_path: str) -> bool:
    """Whether the server answers PING with PONG; LOADING and everything else is a no."""
    for question in (PING, PING_AS_PROBE):
        reply = _ask(socket_path, question)
        if b"+PONG" in reply:
            return True
        if not reply.startswith(b"-NOAUTH"):
            return False
    return False


def _ask(socket_path: str, question: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(socket_path)
            connection.sendall(question)
            reply = b""
            while reply.count(b"\r\n") < question.count(b"\r\n"):
                part = connection.recv(512)
                if not part:
                    break
                reply += part
        except OSError:
            return b""
        return reply


def _send(owner: socket.socket, line: str) -> None:
    with suppress(OSError):  # it has gone; its end of file arrives next
        owner.sendall(line.replace("\n", " ").encode() + b"\n")


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


def _end_with_parent() -> Callable[[], None]:
    """What the child does before it becomes the server: ask the kernel for SIGTERM when the supervisor dies."""
    if sys.platform != "linux":
        return lambda: None
    prctl = ctypes.CDLL(None).prctl
    supervisor = os.getpid()

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != supervisor:  # it died before the kernel was asked
            os.kill(os.getpid(), signal.SIGTERM)

    return ask


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
