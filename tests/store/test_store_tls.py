"""TLS: who is believed, who we are, what is said when it does not fit, and certificates that change.

Over a proxy that encrypts before the embedded server, and over ``redis-server`` where it can do TLS itself.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trustme
from tests.fleets import free_port
from tests.fronts import front
from tests.servers import Server

from cachepolicy_runtime.store.endpoint import Credentials as Login
from cachepolicy_runtime.store.endpoint import fixed, parse_url
from cachepolicy_runtime.store.errors import StoreUnavailable
from cachepolicy_runtime.store.redis import RedisTransport
from cachepolicy_runtime.store.tls import TlsFiles
from cachepolicy_runtime.store.transport import TransportSettings

HOST = "127.0.0.1"
#: A handshake of a busy machine.
UNHURRIED = TransportSettings(deadline_s=20.0, connect_deadline_s=20.0)
UNTRUSTED = "the server's certificate is not trusted: no known authority signed it"
#: A server says which of them, and asyncio does not always hand it on.
WANTS_ANOTHER = {
    "the server asks for a client certificate",
    "the server does not trust the client certificate",
    "the server ended the TLS connection at once: it may ask for a client certificate, or another one",
}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(tmp_path: Path, authority: trustme.CA) -> TlsFiles:
    """The authority alone, where a directory would have it."""
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    return TlsFiles.beside(tmp_path)


def server_side(authority: trustme.CA, name: str = HOST, clients: trustme.CA | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    if clients is not None:
        clients.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def show(files: TlsFiles, by: trustme.CA) -> None:
    """Put a client certificate of this authority into the directory."""
    assert files.cert is not None
    assert files.key is not None
    made = by.issue_cert("core.masterclaw")
    files.cert.write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
    made.private_key_pem.write_to_path(files.key)


@asynccontextmanager
async def transport_over(
    port: int, files: TlsFiles, host: str = HOST, settings: TransportSettings = UNHURRIED
) -> AsyncIterator[RedisTransport]:
    address = parse_url(f"rediss://{host}:{port}")[0]
    transport = RedisTransport("state", address, fixed(Login()), settings, tls=files)
    try:
        yield transport
    finally:
        await transport.aclose()


async def reason(
    port: int, files: TlsFiles, host: str = HOST, settings: TransportSettings = UNHURRIED
) -> str:
    async with transport_over(port, files, host, settings) as transport:
        with pytest.raises(StoreUnavailable) as caught:
            await transport.call("PING")
    return caught.value.reason


async def test_a_server_of_a_known_authority_is_believed(
    valkey: Server, authority: trustme.CA, files: TlsFiles
) -> None:
    async with (
        front(valkey.url, server_side(authority)) as server,
        transport_over(server.port, files) as transport,
    ):
        value = b"x" * 3_000_000
        await transport.call("SET", "a", value)
        assert await transport.call("GET", "a") == value


async def test_any_other_is_not_and_the_reason_says_why(
    valkey: Server, authority: trustme.CA, files: TlsFiles
) -> None:
    async with front(valkey.url, server_side(trustme.CA())) as server:
        assert await reason(server.port, files) == UNTRUSTED
        assert await reason(server.port, TlsFiles()) == UNTRUSTED
    async with front(valkey.url, server_side(authority, "redis.example")) as server:
        assert await reason(server.port, files) == "the server's certificate is for another host name"
        assert await reason(server.port, files, "localhost") == (
            "the server's certificate is for another host name"
        )
    async with front(valkey.url) as plain:
        assert await reason(plain.port, files, settings=TransportSettings(deadline_s=5.0)) == (
            "the TLS handshake got no answer: the server may not speak TLS"
        )


async def test_a_client_certificate_is_shown_and_its_lack_is_told(
    valkey: Server, authority: trustme.CA, files: TlsFiles
) -> None:
    clients = trustme.CA()
    async with front(valkey.url, server_side(authority, clients=clients)) as server:
        assert await reason(server.port, files) in WANTS_ANOTHER
        show(files, trustme.CA())
        assert await reason(server.port, files) in WANTS_ANOTHER
        show(files, clients)
        async with transport_over(server.port, files) as transport:
            assert await transport.call("PING") == b"PONG"


async def test_certificates_are_read_again_at_each_connect(
    valkey: Server, authority: trustme.CA, files: TlsFiles
) -> None:
    clients, later = trustme.CA(), trustme.CA()
    show(files, clients)
    context = server_side(authority, clients=clients)
    async with front(valkey.url, context) as server, transport_over(server.port, files) as transport:
        assert await transport.call("PING") == b"PONG"
        assert files.ca is not None
    context = server_side(later, clients=later)
    async with front(valkey.url, context) as server, transport_over(server.port, files) as transport:
        with pytest.raises(StoreUnavailable):
            await transport.call("PING")
        later.cert_pem.write_to_path(files.ca)
        show(files, later)
        while not transport.available:  # noqa: ASYNC110 - the transport looks for itself
            await asyncio.sleep(0.02)
        assert await transport.call("PING") == b"PONG"


async def test_files_that_cannot_be_used_are_told_without_their_content(
    tmp_path: Path, authority: trustme.CA, valkey: Server
) -> None:
    async with front(valkey.url, server_side(authority)) as server:
        (tmp_path / "empty").write_text("")
        missing = TlsFiles(ca=tmp_path / "missing")
        for files in (missing, TlsFiles(ca=tmp_path / "empty")):
            assert await reason(server.port, files) == (
                "the file of the TLS authorities cannot be read or holds none"
            )
        authority.cert_pem.write_to_path(tmp_path / "ca")
        for cert in ("missing", "empty"):
            files = TlsFiles(tmp_path / "ca", tmp_path / cert, tmp_path / cert)
            assert await reason(server.port, files) == (
                "the client certificate or its key cannot be read or is encrypted"
            )
        mine, other = authority.issue_cert("a"), authority.issue_cert("b")
        mine.cert_chain_pems[0].write_to_path(tmp_path / "cert")
        other.private_key_pem.write_to_path(tmp_path / "key")
        assert await reason(server.port, TlsFiles(tmp_path / "ca", tmp_path / "cert", tmp_path / "key")) == (
            "the client certificate and its key do not belong together"
        )


def test_half_a_client_certificate_in_a_directory_counts_as_none(
    files: TlsFiles, authority: trustme.CA
) -> None:
    show(files, authority)
    assert files.present() == TlsFiles(files.ca, files.cert, files.key)
    assert files.key is not None
    files.key.unlink()
    assert files.present() == TlsFiles(files.ca)


# --- a server that does it itself


@pytest.fixture
def encrypted(tmp_path: Path, authority: trustme.CA) -> Iterator[int]:
    """The port of a redis-server that asks every client for a certificate."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("redis-server is not on PATH")
    made = authority.issue_cert(HOST)
    made.cert_chain_pems[0].write_to_path(tmp_path / "server.crt")
    made.private_key_pem.write_to_path(tmp_path / "server.key")
    authority.cert_pem.write_to_path(tmp_path / "clients.crt")
    with _running(binary, tmp_path) as port:
        yield port


@contextmanager
def _running(binary: str, certificates: Path) -> Iterator[int]:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="cp-") as folder:
        options = {
            "--port": "0",
            "--tls-port": str(port),
            "--bind": HOST,
            "--tls-cert-file": str(certificates / "server.crt"),
            "--tls-key-file": str(certificates / "server.key"),
            "--tls-ca-cert-file": str(certificates / "clients.crt"),
            "--save": "",
            "--dir": folder,
        }
        process = subprocess.Popen(
            [binary, *(word for pair in options.items() for word in pair)], stdout=subprocess.DEVNULL
        )
        try:
            if not _listens(process, port):
                pytest.skip("this redis-server cannot do TLS")
            yield port
        finally:
            process.kill()
            process.wait()


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return True
        time.sleep(0.02)
    return False


async def test_a_real_server_with_mutual_tls(encrypted: int, authority: trustme.CA, files: TlsFiles) -> None:
    assert await reason(encrypted, files) in WANTS_ANOTHER
    show(files, authority)
    async with transport_over(encrypted, files) as transport:
        value = b"x" * 3_000_000
        assert await transport.call("SET", "a", value) == b"OK"
        assert await transport.call("GET", "a") == value
        messages = transport.listen("channel")
        await anext(messages)
        await transport.call("PUBLISH", "channel", "")
        await anext(messages)
        await messages.aclose()
