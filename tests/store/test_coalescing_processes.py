"""Identical requests over four processes: one call, also when the one that asks is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.replicas import Site
from tests.servers import Server

REPLICAS = 4
TASKS = 25
CALLS, GO, READY = "calls", "go", "ready"

#: A replica: waits for the others, asks, and prints what its callers got.
REPLICA = """
import asyncio, json, sys
import redis.asyncio
from cachepolicy_runtime import Answer, CacheRuntime, Identity, UpstreamRequest

url, tasks, slow_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
WHO = Identity("acme", "ann")
BODY = b'{"choices": [{"finish_reason": "stop", "message": {"content": "Hello %d."}}],' \\
       b'"usage": {"prompt_tokens": 1, "completion_tokens": 2}}'

async def main():
    client = redis.asyncio.Redis.from_url(url)
    runtime = CacheRuntime.from_env(identify=lambda scope: WHO)

    async def call():
        number = await client.incr("calls")
        await asyncio.sleep(slow_s)
        return Answer(200, BODY % number, {"content-type": "application/json"})

    async with runtime.lifespan():
        responses = runtime.responses
        request = UpstreamRequest("https://api.openai.com/v1/chat/completions", {"model": "m", "messages": []})
        await client.incr("ready")
        while not await client.exists("go"):
            await asyncio.sleep(0.005)
        got = await asyncio.gather(
            *(responses.get_or_call(request, call, provider="openai", identity=WHO) for _ in range(tasks))
        )
        print(json.dumps([[item.hit, item.answer.body.decode(), item.cache_status] for item in got]))
    await client.aclose()

asyncio.run(main())
"""


@pytest.fixture
def site(tmp_path: Path, real_server: Server) -> Site:
    found = Site(tmp_path / "site", real_server.url)
    found.apply({"responseCache": {"coalesce": {"waitMax": "30s"}}})
    return found


@contextmanager
def replica(site: Site, slow_s: float) -> Iterator[subprocess.Popen[bytes]]:
    environ = {**os.environ, **site.environ, "POD_NAME": "core"}
    process = subprocess.Popen(
        [sys.executable, "-c", REPLICA, site.url, str(TASKS), str(slow_s)],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def until(condition: Callable[[], bool], seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def answers(process: subprocess.Popen[bytes]) -> list[list[Any]]:
    output, _ = process.communicate(timeout=40)
    assert process.returncode == 0
    return list(json.loads(output))


def number(server: Server, key: str) -> int:
    with server.sync_client() as client:
        return int(client.get(key) or 0)


def test_a_hundred_requests_over_four_processes_are_one_call(site: Site, real_server: Server) -> None:
    with ExitStack() as stack:
        started = [stack.enter_context(replica(site, 0.5)) for _ in range(REPLICAS)]
        until(lambda: number(real_server, READY) == REPLICAS)
        with real_server.sync_client() as client:
            client.set(GO, 1)
        got = [answer for process in started for answer in answers(process)]
    assert number(real_server, CALLS) == 1
    assert len(got) == REPLICAS * TASKS
    assert len({body for _, body, _ in got}) == 1
    assert sum(hit for hit, _, _ in got) == REPLICAS * TASKS - 1


def test_when_the_asking_process_is_killed_one_other_asks(site: Site, real_server: Server) -> None:
    """Its lease ends by itself, and exactly one of the waiting processes takes it."""
    with ExitStack() as stack:
        leader = stack.enter_context(replica(site, 600))
        until(lambda: number(real_server, READY) == 1)
        with real_server.sync_client() as client:
            client.set(GO, 1)
        until(lambda: number(real_server, CALLS) == 1)
        others = [stack.enter_context(replica(site, 0.5)) for _ in range(REPLICAS - 1)]
        until(lambda: number(real_server, READY) == REPLICAS)
        assert number(real_server, CALLS) == 1
        leader.send_signal(signal.SIGKILL)
        got = [answer for process in others for answer in answers(process)]
    assert number(real_server, CALLS) == 2
    assert {body for _, body, _ in got} == {got[0][1]}
    assert sum(hit for hit, _, _ in got) == len(got) - 1
