"""A policy and everything around it on this machine: Redis, replicas of Core, a provider.

Everything listens on loopback or on unix sockets, and ends with the process that started it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cachepolicy_operator.local import LocalBackend
from cachepolicy_operator.local_files import write_file
from cachepolicy_operator.policyfile import PolicyManifest
from cachepolicy_operator.processes import Process, ProcessError, Program, free_port

GATEWAY: Final = "cachepolicy_runtime.gateway"
STANDIN: Final = "cachepolicy_runtime.standin"
# Of the extra [gateway]: Core is a process of its own, and would only end with an ImportError.
_NEEDED: Final = ("fastapi", "uvicorn", "httpx")
#: A laptop runs everything at once: a server that is slow for a moment is not away.
DEADLINE_MS: Final = 1000
_LOOPBACK: Final = "127.0.0.1"
_START_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.02


@dataclass(frozen=True)
class Person:
    """Whom an API key of the stack stands for."""

    tenant: str
    user: str


@dataclass(frozen=True)
class Upstream:
    """A provider that somebody else runs; ``api_key_file`` holds the key to it."""

    url: str
    api_key_file: Path | None = None


@dataclass(frozen=True)
class StackOptions:
    """What to run around the policy.

    ``first_port``: port of the first replica, the others follow; None takes free ones. ``people``: API key →
    person. ``upstream``: None runs the stand-in provider, with ``standin_arguments``.
    """

    replicas: int = 2
    first_port: int | None = None
    people: Mapping[str, Person] = field(default_factory=dict)
    upstream: Upstream | None = None
    standin_arguments: tuple[str, ...] = ()

    def ports(self) -> list[int]:
        if self.first_port is None:
            return [free_port() for _ in range(self.replicas)]
        return [self.first_port + number for number in range(self.replicas)]


class Replica:
    """One process of Core."""

    def __init__(self, program: Program, port: int) -> None:
        self.program = program
        self.port = port
        self.process: Process | None = None

    @property
    def name(self) -> str:
        return self.program.name

    @property
    def url(self) -> str:
        return f"http://{_LOOPBACK}:{self.port}"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.running

    def last_words(self) -> str:
        return self.process.last_words() if self.process is not None else ""

    async def start(self) -> None:
        """Returns when it listens. Raises :class:`ProcessError`."""
        await self.stop()  # its guard, where the process ended by itself
        await _refuse_taken(self.name, self.port)
        self.process = Process(self.program)
        await _listens(self.process, self.port)

    async def stop(self) -> None:
        if self.process is not None:
            await asyncio.to_thread(self.process.stop)

    async def kill(self) -> None:
        """SIGKILL: no goodbye to anybody."""
        if self.process is not None:
            await asyncio.to_thread(self.process.kill)


class Stack:
    """An asynchronous context: entered it is empty, left it has stopped everything it started."""

    def __init__(self, backend: LocalBackend, options: StackOptions) -> None:
        self.backend = backend
        self.options = options
        self.replicas: list[Replica] = []
        self.standin: Replica | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Replicas first: they say goodbye to Redis.
        await asyncio.gather(*(replica.stop() for replica in self.replicas))
        if self.standin is not None:
            await self.standin.stop()
        await self.backend.close()

    async def start(self, manifest: PolicyManifest) -> None:
        """Bring everything up. Raises :class:`ProcessError` or what the back end raises."""
        if lacking := [name for name in _NEEDED if find_spec(name) is None]:
            raise ProcessError(f"Core needs {', '.join(lacking)}: pip install 'cachepolicy[gateway]'")
        await self.backend.apply(manifest)
        if self.options.upstream is None:
            self.standin = self._standin()
            await self.standin.start()
        self.replicas = [self._replica(number, port) for number, port in enumerate(self.options.ports())]
        await asyncio.gather(*(replica.start() for replica in self.replicas))

    @property
    def pods(self) -> tuple[str, ...]:
        """The replicas whose acknowledgements count."""
        return tuple(replica.name for replica in self.replicas)

    def _standin(self) -> Replica:
        port = free_port()
        return Replica(self._program("standin", STANDIN, port, {}, self.options.standin_arguments), port)

    def _replica(self, number: int, port: int) -> Replica:
        files = self.backend.files
        keys = files.root / "api-keys.json"
        write_file(keys, api_keys(self.options.people))
        upstream = self.options.upstream or Upstream(self.standin.url if self.standin else "")
        environment = {
            "CACHEPOLICY_DIR": str(files.policy_directory),
            "CACHEPOLICY_API_KEYS_FILE": str(keys),
            "CACHEPOLICY_UPSTREAM_URL": upstream.url,
            "POD_NAME": f"core-{number}",
            "CACHEPOLICY_DEADLINE_MS": str(DEADLINE_MS),
        }
        if self.standin is not None:  # it speaks both APIs
            environment["CACHEPOLICY_ANTHROPIC_URL"] = self.standin.url
        if upstream.api_key_file is not None:
            environment["CACHEPOLICY_UPSTREAM_API_KEY_FILE"] = str(upstream.api_key_file)
        return Replica(self._program(f"core-{number}", GATEWAY, port, environment), port)

    def _program(
        self,
        name: str,
        module: str,
        port: int,
        environment: Mapping[str, str],
        arguments: tuple[str, ...] = (),
    ) -> Program:
        places = ("--host", _LOOPBACK, "--port", str(port))
        return Program(
            name, module, (*places, *arguments), environment, self.backend.files.root / f"{name}.log"
        )


def api_keys(people: Mapping[str, Person]) -> str:
    """The file by which Core knows its callers: SHA-256 of each key, never the key."""
    rows = {
        hashlib.sha256(key.encode()).hexdigest(): {"tenant": person.tenant, "user": person.user}
        for key, person in people.items()
    }
    return json.dumps(rows, indent=2) + "\n"


async def _refuse_taken(name: str, port: int) -> None:
    if await _connects(port):
        raise ProcessError(
            f"{name} needs port {port}, and somebody listens there: choose another with --port"
        )


async def _listens(process: Process, port: int) -> None:
    program = process.program
    try:
        async with asyncio.timeout(_START_SECONDS):
            while not await _connects(port):
                if not process.running:
                    raise ProcessError(f"{program.name} ended at its start. It said:\n{process.last_words()}")
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise ProcessError(
            f"{program.name} does not listen on port {port} after {_START_SECONDS:g} s. It said:\n{process.last_words()}"
        ) from None


async def _connects(port: int) -> bool:
    with suppress(OSError):
        _, writer = await asyncio.open_connection(_LOOPBACK, port)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return True
    return False
