"""Servers that work together: a primary with a replica and Sentinels, a cluster of three, one with TLS."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import redis

from cachepolicy_operator import embedded

SLOTS = 16384
#: What a start, an election or a fail-over may take on a busy machine.
PATIENCE_S = 30.0


def binary() -> Path:
    """``redis-server`` where it is on PATH, else the embedded Valkey: both can do all of this but TLS."""
    found = shutil.which("redis-server")
    return Path(found) if found else embedded.find_binary()


def free_port() -> int:
    """A port whose bus port (for a cluster, 10,000 higher) is a port too."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port < 55_000:
            return port


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)


@dataclass
class Node:
    """One process on a TCP port of loopback."""

    folder: Path
    options: Sequence[str] = ()
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str) -> None:
        command = [str(binary()), *self.options, *more, "--bind", "127.0.0.1", "--dir", str(self.folder)]
        if "--tls-port" not in self.options:
            command += ["--port", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def client(self) -> redis.Redis:
        """Closed by the caller (``with``)."""
        return redis.Redis(port=self.port, decode_responses=True, protocol=2)

    def ask(self, *command: str | int) -> object:
        with self.client() as client:
            return client.execute_command(*command)

    @property
    def answers(self) -> bool:
        try:
            return bool(self.ask("PING"))
        except redis.RedisError:
            return False

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()


@contextmanager
def node(*options: str) -> Iterator[Node]:
    """One server with these options and no persistence; started and answering."""
    with tempfile.TemporaryDirectory(prefix="cp-") as folder:
        made = Node(Path(folder), ["--save", "", *options])
        made.start()
        try:
            wait_until(lambda: made.answers)
            yield made
        finally:
            made.kill()


# --- a cluster

_CLUSTER = (
    *("--cluster-enabled", "yes"),
    *("--cluster-node-timeout", "2000"),
    *("--cluster-require-full-coverage", "no"),
    *("--repl-diskless-sync-delay", "0"),
)


@dataclass
class Cluster:
    """Three primaries, each with a third of the slots."""

    nodes: list[Node]

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def owner(self, slot: int) -> Node:
        """By the arrangement in which it began."""
        return self.nodes[slot * len(self.nodes) // SLOTS]

    def name(self, node: Node) -> str:
        return str(node.ask("CLUSTER", "MYID"))

    def migrate_begin(self, slot: int, source: Node, target: Node) -> None:
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", self.name(source))
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", self.name(target))

    def migrate_end(self, slot: int, target: Node) -> None:
        for node in (target, *self.nodes):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", self.name(target))

    def flush(self) -> None:
        for node in self.nodes:
            node.ask("FLUSHALL")

    @contextmanager
    def replica_of(self, primary: Node) -> Iterator[Node]:
        """One more node, which has what this one has."""
        with node(*_CLUSTER) as made:
            made.ask("CLUSTER", "MEET", "127.0.0.1", primary.port)
            wait_until(lambda: self.name(primary) in str(made.ask("CLUSTER", "NODES")))
            made.ask("CLUSTER", "REPLICATE", self.name(primary))
            wait_until(lambda: "connected_slaves:1" in _replication(primary))
            wait_until(lambda: all(self.name(made) in str(one.ask("CLUSTER", "NODES")) for one in self.nodes))
            yield made


@contextmanager
def cluster(count: int = 3) -> Iterator[Cluster]:
    with ExitStack() as stack:
        nodes = [stack.enter_context(node(*_CLUSTER)) for _ in range(count)]
        for number, each in enumerate(nodes):
            bounds = [SLOTS * (number + end) // count for end in (0, 1)]
            each.ask("CLUSTER", "ADDSLOTSRANGE", bounds[0], bounds[1] - 1)
            each.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number:
                each.ask("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
        for each in nodes:
            wait_until(lambda each=each: _whole(each, count))  # type: ignore[misc]
        yield Cluster(nodes)


def _whole(node: Node, count: int) -> bool:
    with node.client() as client:
        slots = client.execute_command("CLUSTER", "SLOTS")
        state = str(client.execute_command("CLUSTER", "INFO")).replace("'", "").replace(" ", "")
        return len(slots) == count and "cluster_state:ok" in state


# --- a primary, a replica and Sentinels


@dataclass
class Watched:
    """Two servers, one of them the primary, and three Sentinels."""

    servers: list[Node]
    sentinels: list[Node]

    @property
    def url(self) -> str:
        return "redis+sentinel://" + ",".join(f"127.0.0.1:{one.port}" for one in self.sentinels) + "/main/0"

    def primary_port(self) -> int:
        with self.sentinels[0].client() as client:
            return int(client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")[1])


@contextmanager
def watched() -> Iterator[Watched]:
    with ExitStack() as stack:
        primary = stack.enter_context(node("--repl-diskless-sync-delay", "0"))
        replica = stack.enter_context(
            node("--replicaof", f"127.0.0.1 {primary.port}", "--repl-diskless-sync-delay", "0")
        )
        wait_until(lambda: "connected_slaves:1" in _replication(primary))
        sentinels = [stack.enter_context(_sentinel(primary.port)) for _ in range(3)]
        found = Watched([primary, replica], sentinels)
        wait_until(lambda: all(_sees_all(one) for one in sentinels))
        yield found


@contextmanager
def _sentinel(primary_port: int) -> Iterator[Node]:
    with tempfile.TemporaryDirectory(prefix="cp-") as folder:
        conf = Path(folder) / "sentinel.conf"
        conf.write_text(
            f"sentinel monitor main 127.0.0.1 {primary_port} 2\n"
            "sentinel down-after-milliseconds main 500\n"
            "sentinel failover-timeout main 2000\n"
        )
        made = Node(Path(folder), [str(conf), "--sentinel"])
        made.start()
        try:
            wait_until(lambda: made.answers)
            yield made
        finally:
            made.kill()


def _replication(node: Node) -> str:
    with node.client() as client:
        return f"connected_slaves:{client.info('replication')['connected_slaves']}"


def _sees_all(sentinel: Node) -> bool:
    with sentinel.client() as client:
        flat = client.execute_command("SENTINEL", "MASTER", "main")
        told = dict(zip(flat[::2], flat[1::2], strict=True)) if isinstance(flat, list) else flat
        return int(told["num-slaves"]) == 1 and int(told["num-other-sentinels"]) == 2
