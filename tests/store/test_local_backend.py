"""The same policy on this machine: files as the operator renders them, real servers with its configuration."""

from __future__ import annotations

import json
import os
import signal
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import redis.asyncio

from cachepolicy.acknowledgement import Acknowledgement, Member
from cachepolicy.document import read_document
from cachepolicy.names import Role
from cachepolicy_operator.errors import Stalled
from cachepolicy_operator.local import LocalBackend
from cachepolicy_operator.local_files import LocalFiles, LocalFilesError
from cachepolicy_operator.policyfile import PolicyManifest, read_policies
from cachepolicy_operator.resources.redis_conf import redis_conf

TEXT = """\
apiVersion: cache.masterclaw.io/v1alpha1
kind: CachePolicy
metadata: {name: core, namespace: shop}
spec:
  redis:
    managed:
      state: {storage: {size: 1Gi}, config: {CONFIG}}
  sessions: {}
  responseCache: {ttl: 5m}
"""


def manifest(text: str = TEXT, config: str = "") -> PolicyManifest:
    found = read_policies(text.replace("CONFIG", config))
    assert found.problems == ()
    return found.policies[0]


@pytest.fixture
def root() -> Iterator[Path]:
    """A data folder with a path that is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="cp-", dir="/tmp") as folder:
        yield Path(folder).resolve() / "data"


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
async def backend(root: Path, told: list[str]) -> AsyncIterator[LocalBackend]:
    clock = iter(range(1000, 2000))
    backend = LocalBackend(root, told.append, lambda: next(clock))
    yield backend
    await backend.close()


def core_client(backend: LocalBackend, role: Role) -> redis.asyncio.Redis:
    """A client as Core makes one: by the document's address and the mounted credentials."""
    document = read_document((backend.files.policy_directory / "policy.json").read_bytes()).document
    endpoint = document.redis.endpoint(role)
    assert endpoint is not None
    folder = backend.files.policy_directory
    return redis.asyncio.Redis(
        unix_socket_path=unquote(urlsplit(endpoint.url).path),
        username=(folder / "username").read_text(),
        password=(folder / "password").read_text(),
        decode_responses=True,
    )


async def admin_get(backend: LocalBackend, role: Role, key: str) -> str:
    endpoint = urlsplit(backend.servers[role].url)
    async with redis.asyncio.Redis(
        unix_socket_path=unquote(endpoint.path),
        username="operator",
        password=backend.files.identity().credentials.operator_password,
        decode_responses=True,
    ) as client:
        return str((await client.config_get(key))[key])


async def foreign_set(backend: LocalBackend, role: Role, key: str, value: str) -> None:
    async with redis.asyncio.Redis(
        unix_socket_path=unquote(urlsplit(backend.servers[role].url).path),
        username="operator",
        password=backend.files.identity().credentials.operator_password,
    ) as client:
        await client.config_set(key, value)


async def test_core_finds_servers_credentials_and_document_in_the_policy_directory(
    backend: LocalBackend,
) -> None:
    await backend.apply(manifest())
    assert sorted(path.name for path in backend.files.policy_directory.iterdir()) == [
        "admin-token",
        "cache-hmac-key",
        "password",
        "policy.json",
        "username",
    ]
    for role in Role:
        async with core_client(backend, role) as core:
            assert await core.set("shop/core:c:{t}:r:openai:1", "x")
            with pytest.raises(redis.exceptions.NoPermissionError):
                await core.config_get("maxmemory")


async def test_the_configuration_is_what_the_operator_renders(backend: LocalBackend) -> None:
    policy = manifest()
    await backend.apply(policy)
    for role in Role:
        text = (backend.files.server_folder(role) / "redis.conf").read_text()
        assert text == redis_conf(policy.spec, role, backend.files.server_config(role))
    assert await admin_get(backend, Role.STATE, "appendonly") == "yes"
    assert await admin_get(backend, Role.STATE, "maxmemory-policy") == "noeviction"
    assert await admin_get(backend, Role.CACHE, "maxmemory-policy") == "allkeys-lfu"


async def test_only_this_user_can_read_secrets(backend: LocalBackend) -> None:
    await backend.apply(manifest())
    root = backend.files.root
    for path in (root / "credentials.json", root / "policy" / "password", root / "state" / "users.acl"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    password = (root / "policy" / "password").read_text()
    assert password not in (root / "policy" / "policy.json").read_text()


async def test_the_document_is_also_where_core_looks_without_waiting_for_its_folder(
    backend: LocalBackend,
) -> None:
    document = await backend.apply(manifest())
    async with core_client(backend, Role.STATE) as core:
        assert await core.get(document.keys.document) == document.to_json()
        with pytest.raises(redis.exceptions.NoPermissionError):
            await core.set(document.keys.document, "forged")


async def test_an_edit_gives_a_new_revision_with_a_higher_sequence_and_restarts_nothing(
    backend: LocalBackend,
) -> None:
    first = await backend.apply(manifest())
    pids = {role: server.pid for role, server in backend.servers.items()}
    second = await backend.apply(manifest(TEXT.replace("5m", "6m")))
    assert second.revision != first.revision
    assert second.sequence > first.sequence
    assert second.uid == first.uid
    assert {role: server.pid for role, server in backend.servers.items()} == pids


async def test_the_same_file_again_changes_nothing(backend: LocalBackend) -> None:
    first = await backend.apply(manifest())
    assert await backend.apply(manifest()) == first


async def test_uid_sequence_and_credentials_survive_a_restart_of_everything(
    root: Path, told: list[str], backend: LocalBackend
) -> None:
    first = await backend.apply(manifest())
    password = (root / "policy" / "password").read_text()
    async with core_client(backend, Role.STATE) as core:
        await core.set("shop/core:s:kept", "yes")
    await backend.close()
    again = LocalBackend(root, told.append)
    assert await again.apply(manifest()) == first
    assert (root / "policy" / "password").read_text() == password
    async with core_client(again, Role.STATE) as core:
        assert await core.get("shop/core:s:kept") == "yes"
    await again.close()


async def test_a_directive_is_applied_live_read_back_and_then_written(backend: LocalBackend) -> None:
    await backend.apply(manifest())
    pid = backend.servers[Role.STATE].pid
    await backend.apply(manifest(config='slowlog-max-len: "99", repl-backlog-size: 2mb'))
    assert await admin_get(backend, Role.STATE, "slowlog-max-len") == "99"
    assert backend.servers[Role.STATE].pid == pid
    folder = backend.files.server_folder(Role.STATE)
    assert "slowlog-max-len 99\n" in (folder / "redis.conf").read_text()
    assert "repl-backlog-size 2097152\n" in (folder / "redis.conf").read_text()
    assert json.loads((folder / "live.json").read_text())["repl-backlog-size"]["requested"] == "2mb"


async def test_a_removed_directive_goes_back_to_what_it_was(backend: LocalBackend) -> None:
    await backend.apply(manifest())
    before = await admin_get(backend, Role.STATE, "slowlog-max-len")
    await backend.apply(manifest(config='slowlog-max-len: "99"'))
    await backend.apply(manifest())
    assert await admin_get(backend, Role.STATE, "slowlog-max-len") == before
    assert "slowlog-max-len" not in (backend.files.server_folder(Role.STATE) / "redis.conf").read_text()


async def test_a_directive_that_redis_refuses_is_told_with_its_words_and_the_server_stays(
    backend: LocalBackend, told: list[str]
) -> None:
    await backend.apply(manifest(config='maxmemory-samples: "lots"'))
    assert any("spec.redis.managed.state.config.maxmemory-samples: Redis refuses it" in line for line in told)
    assert backend.servers[Role.STATE].running
    assert "lots" not in (backend.files.server_folder(Role.STATE) / "redis.conf").read_text()


async def test_a_directive_that_needs_a_restart_gets_exactly_one(
    backend: LocalBackend, told: list[str]
) -> None:
    await backend.apply(manifest())
    first = backend.servers[Role.STATE].pid
    policy = manifest(config='databases: "5"')
    await backend.apply(policy)
    second = backend.servers[Role.STATE].pid
    assert second != first
    assert await admin_get(backend, Role.STATE, "databases") == "5"
    await backend.apply(policy)
    await backend.repair()
    assert backend.servers[Role.STATE].pid == second
    assert sum("restarts once for databases" in line for line in told) == 1


async def test_what_somebody_sets_in_a_server_is_taken_back(backend: LocalBackend) -> None:
    await backend.apply(manifest())
    await foreign_set(backend, Role.CACHE, "maxmemory-policy", "noeviction")
    await backend.repair()
    assert await admin_get(backend, Role.CACHE, "maxmemory-policy") == "allkeys-lfu"


async def test_a_server_that_ended_is_started_again_and_has_the_document_again(
    backend: LocalBackend, told: list[str]
) -> None:
    document = await backend.apply(manifest())
    pid = backend.servers[Role.STATE].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    while backend.servers[Role.STATE].running:
        pass
    await backend.repair()
    assert "state server ended: starting it again" in told
    async with core_client(backend, Role.STATE) as core:
        assert await core.get(document.keys.document) == document.to_json()


async def test_a_server_that_no_section_needs_is_stopped_and_its_data_stays(
    backend: LocalBackend, told: list[str]
) -> None:
    await backend.apply(manifest())
    document = await backend.apply(manifest(TEXT.replace("  responseCache: {ttl: 5m}\n", "")))
    assert document.redis.cache is None
    assert list(backend.servers) == [Role.STATE]
    assert any("cache server stopped" in line for line in told)
    assert backend.files.server_folder(Role.CACHE).exists()


async def test_a_spec_that_does_not_work_out_changes_nothing(backend: LocalBackend) -> None:
    first = await backend.apply(manifest())
    small = TEXT.replace("{storage: {size: 1Gi}, config: {CONFIG}}", "{resources: {limits: {memory: 8Mi}}}")
    with pytest.raises(Stalled, match=r"spec\.redis\.managed\.state\.resources\.limits\.memory"):
        await backend.apply(manifest(small))
    assert backend.files.document() == first
    assert backend.document == first


async def test_a_data_folder_has_one_user_at_a_time(backend: LocalBackend, root: Path) -> None:
    await backend.apply(manifest())
    with pytest.raises(LocalFilesError, match="another process runs a policy in"):
        await LocalBackend(root, print).apply(manifest())


def test_a_damaged_file_of_credentials_is_named_without_its_content(root: Path) -> None:
    root.mkdir()
    (root / "credentials.json").write_text('{"uid": "u", "core_password": "topsecret"')
    with pytest.raises(LocalFilesError, match=r"credentials\.json cannot be read") as raised:
        LocalFiles(root).identity()
    assert "topsecret" not in str(raised.value)


async def test_enforcement_is_read_from_what_processes_report(backend: LocalBackend) -> None:
    document = await backend.apply(manifest())
    assert str(await backend.reported(["core-0"])) == "0/1"
    member = Member("core-0", 1, "n")
    acknowledgement = Acknowledgement(
        document.revision, document.sequence, document.contract, document.sections
    )
    async with core_client(backend, Role.STATE) as core:
        seconds, microseconds = await core.time()
        score = seconds * 1000 + microseconds // 1000
        await core.set(document.keys.acknowledgement(str(member)), acknowledgement.to_json(), px=10_000)
        await core.zadd(document.keys.acknowledgements, {str(member): score})
    reported = await backend.reported(["core-0"])
    assert reported.complete
    assert reported.members == (member,)
