"""A CachePolicy without Kubernetes: what the operator would apply to a cluster, applied to a folder of this machine.

The files come out of the same builders, the servers are real and get the same configuration, the document has the
same uid, revision and sequence rules, and the same acknowledgements say who enforces it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cachepolicy.acknowledgement import Member
from cachepolicy.document import PolicyDocument, build_document
from cachepolicy.names import Role
from cachepolicy_operator import errors
from cachepolicy_operator.enforcement import Enforcement, enforcement
from cachepolicy_operator.local_files import LocalFiles
from cachepolicy_operator.local_server import LocalServer, Settled
from cachepolicy_operator.policyfile import PolicyManifest
from cachepolicy_operator.redis_admin import RedisDownError
from cachepolicy_operator.redis_look import Look
from cachepolicy_operator.resources import RenderInputs, ServerConfig, build_objects
from cachepolicy_operator.settings import DEFAULT_REDIS_IMAGE


@dataclass(frozen=True)
class Reported:
    """What the processes of Core said last: who they are, and which pods enforce ``revision``."""

    revision: str
    found: Enforcement
    members: tuple[Member, ...]

    @property
    def complete(self) -> bool:
        return self.found.enforced == self.found.replicas

    def __str__(self) -> str:
        return f"{self.found.enforced}/{self.found.replicas}"


class LocalBackend:
    """One policy in one data folder. Not safe for two tasks at once."""

    def __init__(
        self,
        root: Path,
        tell: Callable[[str], None],
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.files = LocalFiles(root)
        self.servers: dict[Role, LocalServer] = {}
        self.document: PolicyDocument | None = None
        self._manifest: PolicyManifest | None = None
        self._rejected: dict[Role, Mapping[str, str]] = {}
        self._tell = tell
        self._now_ms = now_ms

    async def apply(self, manifest: PolicyManifest) -> PolicyDocument:
        """Make everything follow ``manifest``, and return its document.

        Raises :class:`cachepolicy_operator.errors.Stalled` before anything is changed, when the spec does not work
        out; :class:`cachepolicy_operator.local_files.LocalFilesError` when the folder is somebody else's; and
        :class:`cachepolicy_operator.embedded.EmbeddedError` when a server does not start.
        """
        if manifest.spec.redis.managed.hibernated:
            raise errors.Stalled(
                "there is nothing to run: set it to false, or leave it out",
                reason="Hibernated",
                field="spec.redis.managed.hibernated",
            )
        self.files.claim()
        roles = manifest.spec.roles
        servers = {role: self.servers.get(role) or self._server(role) for role in roles}
        document = self._document(manifest, servers)
        configs = {role: self.files.server_config(role) for role in roles}
        self._write_servers(manifest, document, configs)
        for role in self.servers.keys() - servers.keys():
            await self.servers[role].stop()
            self._tell(
                f"{role} server stopped: no section of the policy needs it; its data stays in {self.files.server_folder(role)}"
            )
        self.servers, self._manifest = servers, manifest
        await self.start_servers()
        await self._configure(manifest, document, configs)
        self.files.write_policy(manifest.name, self._objects(manifest, document, configs))
        self.document = document
        await self._publish(document)
        return document

    async def start_servers(self) -> None:
        """Start those that do not run."""
        for role, server in self.servers.items():
            if await server.start():
                self._tell(f"{role} server runs (pid {server.pid}) at {server.url}")

    async def kill_servers(self) -> None:
        """SIGKILL for all, as when the node of Redis dies."""
        for server in self.servers.values():
            await server.kill()

    async def repair(self) -> None:
        """Start what ended by itself, and take back what somebody changed in a server or in its copy of the document."""
        if self._manifest is None or self.document is None:
            return
        for role, server in self.servers.items():
            if not server.running:
                self._tell(f"{role} server ended: starting it again")
        await self.start_servers()
        configs = {role: self.files.server_config(role) for role in self.servers}
        await self._configure(self._manifest, self.document, configs)
        seen = await self._look_at_control()
        if seen is not None and seen.document != self.document.to_json().encode():
            await self._publish(self.document)

    async def reported(self, pods: Sequence[str]) -> Reported:
        """Who of ``pods`` enforces the document, by what their processes last said."""
        if self.document is None:
            raise RuntimeError("no policy was applied")
        seen = await self._look_at_control()
        reports = seen.acknowledgements if seen is not None else ()
        found = enforcement(pods, reports, self.document)
        return Reported(self.document.revision, found, tuple(member for member, _ in reports))

    async def close(self) -> None:
        """Stop the servers; their data stays."""
        for server in self.servers.values():
            await server.stop()
        self.files.release()

    # ---------------------------------------------------------------------------------------------- inside

    def _server(self, role: Role) -> LocalServer:
        return LocalServer(role, self.files, self.files.identity().credentials.operator_password)

    def _document(self, manifest: PolicyManifest, servers: Mapping[Role, LocalServer]) -> PolicyDocument:
        return build_document(
            namespace=manifest.namespace,
            name=manifest.name,
            uid=self.files.identity().uid,
            spec=manifest.spec,
            endpoints={role: server.url for role, server in servers.items()},
            previous=self.files.document(),
            now_ms=self._now_ms(),
        )

    def _objects(
        self, manifest: PolicyManifest, document: PolicyDocument, configs: Mapping[Role, ServerConfig]
    ) -> list[dict[str, Any]]:
        identity = self.files.identity()
        return build_objects(
            RenderInputs(
                namespace=manifest.namespace,
                name=manifest.name,
                uid=identity.uid,
                spec=manifest.spec,
                default_image=DEFAULT_REDIS_IMAGE,
                credentials=identity.credentials,
                document=document,
                servers=configs,
            )
        )

    def _write_servers(
        self, manifest: PolicyManifest, document: PolicyDocument, configs: Mapping[Role, ServerConfig]
    ) -> None:
        objects = self._objects(manifest, document, configs)
        self.files.write_servers(manifest.name, manifest.spec.roles, objects)

    async def _configure(
        self, manifest: PolicyManifest, document: PolicyDocument, configs: dict[Role, ServerConfig]
    ) -> None:
        """Live first, then the file; a directive that needs a restart gets one. ``configs`` is brought up to date."""
        for role, server in self.servers.items():
            try:
                settled = await server.settle(manifest.spec)
            except RedisDownError as error:
                self._tell(f"{role} server: {error}; its configuration is looked at again")
                continue
            restart = settled.config.restart != configs[role].restart
            configs[role] = settled.config
            self._write_servers(manifest, document, configs)
            self._tell_rejected(role, settled)
            if restart:
                keys = ", ".join(sorted(settled.config.restart)) or "directives that were removed"
                self._tell(f"{role} server restarts once for {keys}")
                await server.stop()
                await server.start()

    def _tell_rejected(self, role: Role, settled: Settled) -> None:
        if settled.rejected != self._rejected.get(role, {}):
            for key, reason in settled.rejected.items():
                self._tell(
                    f"spec.redis.managed.{role}.config.{key}: Redis refuses it ({reason}); the last good value is kept"
                )
            self._rejected[role] = dict(settled.rejected)

    async def _look_at_control(self) -> Look | None:
        if self._manifest is None or self.document is None:
            return None
        try:
            return await self.servers[self.document.control_role].look(
                self._manifest.spec, self.document.keys
            )
        except RedisDownError:
            return None

    async def _publish(self, document: PolicyDocument) -> None:
        """The fast path. Without it every process finds the document in its folder, a moment later."""
        try:
            if await self._look_at_control() is not None:
                await self.servers[document.control_role].publish(document.to_json())
        except RedisDownError as error:
            self._tell(f"the document was not published: {error}")
