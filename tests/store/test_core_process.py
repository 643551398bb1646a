"""The reference Core and the stand-in as programs: they start, stream, and stop as a pod has to."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.programs import GATEWAY, STANDIN, Program
from tests.replicas import CACHES, SESSIONS, Site, bearer, chat, limit
from tests.servers import Server


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Program]:
    program = Program(STANDIN, tmp_path / "standin.log", {"STANDIN_DELAY": "1s"})
    try:
        program.listens()
        yield program
    finally:
        program.process.kill()
        program.process.wait()


@pytest.fixture
def core(tmp_path: Path, valkey: Server, provider: Program) -> Iterator[Program]:
    site = Site(tmp_path / "site", valkey.url)
    site.apply(CACHES, SESSIONS, limit(100))
    environ = {**site.environ, "CACHEPOLICY_UPSTREAM_URL": f"{provider.url}/v1", "POD_NAME": "core-0"}
    program = Program(GATEWAY, tmp_path / "core.log", environ)
    try:
        program.listens()
        yield program
    finally:
        program.process.kill()
        program.process.wait()


def test_a_stream_arrives_word_by_word_and_sigterm_lets_it_finish(core: Program, provider: Program) -> None:
    """Nothing collects the events; a pod that is told to go answers what it has begun, and then exits with 0."""
    body = chat(stream=True)
    with (
        httpx.Client(base_url=core.url, headers=bearer("alice")) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as answer,
    ):
        arrivals: list[float] = []
        text = ""
        for chunk in answer.iter_text():
            if not arrivals:
                core.process.send_signal(signal.SIGTERM)
            arrivals.append(time.monotonic())
            text += chunk
    assert answer.headers["x-served-by"] == "core-0"
    assert text.endswith("data: [DONE]\n\n")
    assert len(arrivals) > 5
    assert arrivals[-1] - arrivals[0] > 0.5
    assert core.process.wait(timeout=30) == 0


def test_a_caller_that_goes_ends_the_providers_work_too(core: Program, provider: Program) -> None:
    """Nobody pays for an answer that nobody reads; the next call is served."""
    with httpx.Client(base_url=core.url, headers=bearer("alice")) as client:
        with client.stream("POST", "/v1/chat/completions", json=chat(stream=True)) as answer:
            next(answer.iter_raw())
        # This takes as long as the stream would have taken.
        assert client.post("/v1/chat/completions", json=chat()).status_code == 200
    counts = httpx.get(f"{provider.url}/counts").json()
    assert (counts["streams"], counts["streamsFinished"], counts["chat"]) == (1, 0, 1)
    assert core.stop() == 0
    assert "Traceback" not in core.log.read_text()


def test_what_it_logs_holds_no_secret_and_no_prompt(core: Program, valkey: Server) -> None:
    """Keys, tokens, prompts, addresses of sockets with credentials."""
    with httpx.Client(base_url=core.url) as client:
        client.post("/v1/chat/completions", json=chat("a very private prompt"), headers=bearer("alice"))
        client.post("/cache/clear", json={"tenant": "acme"}, headers=bearer("wrong-token"))
        client.get("/v1/session?token=in-a-query", headers=bearer("alice"))
    assert core.stop() == 0
    log = core.log.read_text()
    assert "policy shop/core, revision" in log
    for secret in ("private", "alice", "wrong-token", "in-a-query", "an-hmac-key", "an-admin-token", "acme"):
        assert secret not in log


@pytest.mark.parametrize(
    ("module", "environ", "arguments", "what"),
    [
        (GATEWAY, {}, (), "CACHEPOLICY_UPSTREAM_URL"),
        (STANDIN, {"STANDIN_DELAY": "1 day"}, (), "90s, 1h30m"),
    ],
)
def test_a_start_that_cannot_work_ends_with_what_to_change(
    tmp_path: Path, module: str, environ: dict[str, str], arguments: tuple[str, ...], what: str
) -> None:
    """One sentence and an exit code, no traceback."""
    program = Program(module, tmp_path / "log", environ, *arguments)
    assert program.process.wait(timeout=30) != 0
    log = program.log.read_text()
    assert what in log
    assert "Traceback" not in log
