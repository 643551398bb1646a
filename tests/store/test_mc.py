"""``mc`` as a program against the reference Core as a program, over a real server."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.programs import GATEWAY, STANDIN, Program
from tests.replicas import ADMIN_TOKEN, CACHES, Site, bearer, chat
from tests.servers import running

#: The first test starts two programs, and each use of mc is one.
pytestmark = pytest.mark.timeout(150)
MC = (sys.executable, "-m", "cachepolicy_cli")


@dataclass
class World:
    """Core, its provider, and files with what opens it."""

    core: Program
    provider: Program
    site: Site
    folder: Path

    @property
    def environ(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "MC_URL": self.core.url,
            "MC_TOKEN_FILE": str(self.folder / "token"),
            "MC_API_KEY_FILE": str(self.folder / "alice"),
        }

    def mc(self, *arguments: str, code: int = 0, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run it in a pipe; fails where it ends with another code."""
        ended = subprocess.run(
            [*MC, *arguments],
            env={**self.environ, **environ},
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=50,
        )
        assert ended.returncode == code, ended.stdout + ended.stderr
        assert "Traceback" not in ended.stderr
        return ended

    def json(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        (line,) = self.mc("--json", *arguments, code=code).stdout.splitlines()
        return dict(json.loads(line))

    def chat(self, text: str, who: str = "alice") -> httpx.Response:
        return httpx.post(f"{self.core.url}/v1/chat/completions", json=chat(text), headers=bearer(who))

    def hit(self, text: str, who: str = "alice") -> bool:
        return "; hit" in self.chat(text, who).headers["cache-status"]

    def asked(self) -> int:
        """How often the provider was asked for a chat completion."""
        return int(httpx.get(f"{self.provider.url}/counts").json()["chat"])

    def lines(self, *items: Any) -> str:
        """A file of JSON lines."""
        file = self.folder / "requests.jsonl"
        file.write_text("".join(f"{item if isinstance(item, str) else json.dumps(item)}\n" for item in items))
        return str(file)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("mc")
    with running("valkey") as server:
        site = Site(folder / "site", server.url)
        site.apply(CACHES)
        (folder / "token").write_text(f"{ADMIN_TOKEN}\n")
        (folder / "alice").write_text("alice\n")
        provider = Program(STANDIN, folder / "standin.log", {"STANDIN_DELAY": "20ms"})
        environ = {**site.environ, "CACHEPOLICY_UPSTREAM_URL": f"{provider.url}/v1", "POD_NAME": "core-0"}
        core = Program(GATEWAY, folder / "core.log", environ)
        try:
            provider.listens()
            core.listens()
            yield World(core, provider, site, folder)
        finally:
            for program in (core, provider):
                program.process.kill()
                program.process.wait()


# --- stats, health ----------------------------------------------------------------------------------------


def test_stats_are_columns_in_a_pipe_and_json_where_asked_for(world: World) -> None:
    """The same figures, without a colour or a frame."""
    world.chat("stats")
    world.chat("stats")
    stats = world.json("cache", "stats")
    assert stats["responses"]["hits"] >= 1
    assert stats["cacheServer"]["keys"] >= 1
    plain = world.mc("cache", "stats").stdout
    assert "shop/core" in plain
    assert f"{stats['responses']['hits']}" in plain
    assert not any(sign in plain for sign in "\x1b│─━")


def test_watching_goes_on_until_it_is_interrupted(world: World) -> None:
    """One line of JSON each time, and exit code 0."""
    command = [*MC, "cache", "stats", "--watch", "0.05", "--json"]
    with subprocess.Popen(command, env=world.environ, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        seen = [json.loads(watching.stdout.readline()) for _ in range(3)]
        watching.send_signal(signal.SIGINT)
        assert watching.wait(timeout=30) == 0
    assert all(stats["policy"] == "shop/core" for stats in seen)


def test_health_is_up_and_says_which_policy(world: World) -> None:
    told = world.mc("cache", "health").stdout
    assert told.startswith("up: policy shop/core, revision ")
    assert "responseCache" in told


def test_a_core_that_does_less_than_its_policy_asks_for_is_degraded(tmp_path: Path) -> None:
    """Exit code 3, with the reason: here no Redis answers."""
    site = Site(tmp_path / "site", "redis://127.0.0.1:1")
    site.apply(CACHES)
    core = Program(
        GATEWAY, tmp_path / "log", {**site.environ, "CACHEPOLICY_UPSTREAM_URL": "http://127.0.0.1:1/v1"}
    )
    try:
        core.listens()
        command = [*MC, "cache", "health", "--url", core.url]
        deadline = time.monotonic() + 20
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        while ended.returncode == 0 and time.monotonic() < deadline:
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        core.process.kill()
        core.process.wait()
    assert ended.returncode == 3
    assert ended.stdout.startswith("degraded: policy shop/core")
    assert "the cache store is unavailable" in ended.stdout


# --- clear ------------------------------------------------------------------------------------------------


def test_clearing_needs_a_yes_where_nobody_can_be_asked(world: World) -> None:
    world.chat("kept")
    refused = world.mc("cache", "clear", "--all", code=2)
    assert refused.stderr == "mc: Nobody can be asked here: say --yes.\n"
    assert world.hit("kept")


@pytest.mark.parametrize(
    ("scope", "emptied"),
    [
        (("--tenant", "globex"), False),
        (("--kind", "embeddings"), False),
        (("--model", "gpt-x", "--tag", "faq"), False),
        (("--provider", "openai", "--model", "gpt-x"), True),
        (("--all",), True),
    ],
)
def test_a_scope_is_emptied_and_another_is_not(world: World, scope: tuple[str, ...], emptied: bool) -> None:
    world.chat("scoped")
    assert world.hit("scoped")
    told = world.mc("cache", "clear", *scope, "--yes").stdout
    assert told.startswith("Cleared: ")
    assert world.hit("scoped") != emptied


@pytest.mark.parametrize(("answer", "emptied"), [("y\n", True), ("\n", False)])
def test_on_a_terminal_it_asks_first(world: World, answer: str, emptied: bool) -> None:
    """With what it is about to empty and where; anything but a yes is a no."""
    world.chat("asked")
    said, code = on_a_terminal([*MC, "cache", "clear", "--tenant", "acme"], world.environ, answer)
    assert f"Clear tenant acme at {world.core.url}? [y/N]" in said
    assert code == (0 if emptied else 1)
    assert world.hit("asked") != emptied


def on_a_terminal(command: list[str], environ: dict[str, str], answer: str) -> tuple[str, int]:
    """What it says to a person who answers at the first question mark, and its exit code."""
    ours, its = pty.openpty()
    with subprocess.Popen(command, env=environ, stdin=its, stdout=its, stderr=its) as process:
        os.close(its)
        said, answered = "", False
        while True:
            select.select([ours], [], [], 30)
            try:
                said += os.read(ours, 4096).decode()
            except OSError:  # the other side is closed
                break
            if "?" in said and not answered:
                os.write(ours, answer.encode())
                answered = True
        code = process.wait(timeout=30)
    os.close(ours)
    return said, code


# --- warm -------------------------------------------------------------------------------------------------


def test_a_file_is_warmed_once_and_costs_nothing_the_second_time(world: World) -> None:
    """Bodies, lines of the Batch API, an empty line, one that is twice in the file."""
    world.mc("cache", "clear", "--all", "--yes")
    batch = {
        "custom_id": "1",
        "method": "POST",
        "url": "/v1/embeddings",
        "body": {"model": "e", "input": "a"},
    }
    file = world.lines(chat("w1"), "", chat("w2"), batch, chat("w1"))
    before = world.asked()
    first = world.json("cache", "warm", file)
    assert (first["sent"], first["stored"], first["skipped"], first["failed"]) == (3, 3, 1, 0)
    assert first["tokens"] > 0
    second = world.json("cache", "warm", file)
    assert (second["sent"], second["cached"], second["tokens"]) == (3, 3, 0)
    assert world.asked() - before == 2
    assert not Path(f"{file}.mc-state").exists()
    assert world.hit("w1")


def test_a_run_stops_at_its_cap_and_the_next_one_goes_on(world: World) -> None:
    """Exit code 4 until the file is done; what is done is not sent again."""
    world.mc("cache", "clear", "--all", "--yes")
    file = world.lines(*(chat(f"capped {number}") for number in range(5)))
    before = world.asked()
    first = world.json("cache", "warm", file, "--max-requests", "2", code=4)
    assert (first["sent"], first["stoppedAt"]) == (2, "2 requests")
    assert "capped" not in Path(f"{file}.mc-state").read_text()
    second = world.json("cache", "warm", file, "--max-tokens", "1", "--concurrency", "1", code=4)
    assert (second["skipped"], second["sent"], second["stoppedAt"]) == (2, 1, "1 tokens")
    third = world.json("cache", "warm", file)
    assert (third["skipped"], third["sent"], third["stored"]) == (3, 2, 2)
    assert world.asked() - before == 5


def test_a_run_that_is_interrupted_goes_on_where_it_was(world: World) -> None:
    """Ctrl-C tells what was done."""
    world.mc("cache", "clear", "--all", "--yes")
    file = world.lines(*(chat(f"long {number}") for number in range(40)))
    command = [*MC, "cache", "warm", file, "--concurrency", "1", "--json"]
    before = world.asked()
    with subprocess.Popen(command, env=world.environ, stdout=subprocess.PIPE, text=True) as warming:
        while world.asked() - before < 3:
            assert warming.poll() is None
        warming.send_signal(signal.SIGINT)
        told = json.loads(warming.communicate(timeout=30)[0])
        assert warming.returncode == 130
    assert 0 < told["stored"] < 40
    rest = world.json("cache", "warm", file)
    assert rest["skipped"] == told["stored"]
    assert rest["skipped"] + rest["sent"] == 40


def test_what_is_not_stored_or_fails_is_told(world: World) -> None:
    """An answer that was cut off is not kept; a path that is not there fails. The state is kept for the rest."""
    file = world.lines(chat("cut", max_tokens=2), {"url": "/v1/nothing", "body": {"model": "m"}})
    told = world.json("cache", "warm", file, code=1)
    assert told["notStored"] == {"finish-reason": 1}
    assert told["failed"] == 1
    assert told["failures"][0].startswith("line 2: ")
    assert Path(f"{file}.mc-state").exists()
    Path(f"{file}.mc-state").unlink()


def test_a_limit_makes_it_wait_and_not_fail(world: World) -> None:
    """A 429 is for all that are under way."""
    world.mc("cache", "clear", "--all", "--yes")
    document = world.site.document
    try:
        by = [{"type": "Tenant"}]
        slow = {"rateLimits": {"few": {"by": by, "rates": [{"limit": 3, "window": "1s"}]}}}
        revision = world.site.apply(CACHES, slow).revision
        wait_for(lambda: world.json("cache", "health")["revision"] == revision)
        file = world.lines(*(chat(f"limited {number}") for number in range(8)))
        told = world.json("cache", "warm", file, "--concurrency", "8")
        assert (told["stored"], told["failed"]) == (8, 0)
    finally:
        assert document is not None
        revision = world.site.apply(CACHES).revision
        wait_for(lambda: world.json("cache", "health")["revision"] == revision)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "line 2 is not a JSON object."),
        ("[]", "line 2 is not a JSON object."),
        (json.dumps(chat(stream=True)), "line 2 asks for a stream, which is never cached."),
        (json.dumps({"url": "http://x", "body": chat()}), "line 2: url must be a path"),
    ],
)
def test_a_file_with_a_wrong_line_sends_nothing(world: World, line: str, sentence: str) -> None:
    before = world.asked()
    refused = world.mc("cache", "warm", world.lines(chat("before the mistake"), line), code=2)
    assert sentence in refused.stderr
    assert world.asked() == before


# --- explain ----------------------------------------------------------------------------------------------


def test_a_miss_is_explained_by_the_fields_that_differ(world: World) -> None:
    """A body alone, with the tenant on the command line; nothing is sent to the provider."""
    world.mc("cache", "clear", "--all", "--yes")
    world.chat("explained")
    before = world.asked()
    file = world.folder / "request.json"
    file.write_text(json.dumps(chat("explained")))
    assert world.mc("cache", "explain", str(file), "--tenant", "acme").stdout.startswith("hit: ")
    file.write_text(json.dumps({"tenant": "acme", "body": chat("explained", temperature=1)}))
    told = world.mc("cache", "explain", str(file)).stdout
    assert told.startswith("miss: ")
    assert "temperature" in told
    assert world.json("cache", "explain", str(file))["nearest"]["differs"] == {"temperature": "added"}
    embeddings = world.mc("cache", "explain", str(file), "--path", "/v1/embeddings", code=1)
    assert "embeddings are kept one by one" in embeddings.stderr
    assert world.asked() == before


# --- mistakes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "environ", "code", "sentence"),
    [
        (("cache", "stats", "--url", "http://127.0.0.1:1"), {}, 1, "cannot be reached: Connection refused."),
        (("cache", "stats", "--cache-path", "/nowhere"), {}, 1, "answered 404"),
        (("cache", "clear", "--yes"), {}, 2, "Say --all, or at least one of"),
        (("cache", "clear", "--all", "--tag", "x", "--yes"), {}, 2, "Say --all, or at least one of"),
        (("cache", "clear", "--all", "--yes"), {"MC_TOKEN_FILE": ""}, 2, "name its file by --token-file"),
        (("cache", "clear", "--all", "--yes"), {"MC_TOKEN_FILE": "/none"}, 2, "No such file"),
        (("cache", "warm", "/none.jsonl"), {}, 2, "/none.jsonl: No such file"),
        (("cache", "explain", "/none.json"), {}, 2, "/none.json: No such file"),
        (("cache", "stats", "--url", "http://u:p@x"), {}, 2, "must not hold a user or a password"),
        (("cache", "stats", "--timeout", "soon"), {}, 2, "must be a number of seconds"),
    ],
)
def test_a_mistake_is_one_sentence(
    world: World, arguments: tuple[str, ...], environ: dict[str, str], code: int, sentence: str
) -> None:
    assert sentence in world.mc(*arguments, code=code, **environ).stderr


def test_a_wrong_token_is_refused_in_cores_words(world: World) -> None:
    """And it is not shown."""
    (world.folder / "wrong").write_text("a-wrong-token")
    refused = world.mc(
        "cache", "clear", "--all", "--yes", "--token-file", str(world.folder / "wrong"), code=1
    )
    assert "answered 403: This is not the admin token." in refused.stderr
    assert "a-wrong-token" not in refused.stderr


def test_a_wrong_api_key_ends_the_run_at_once(world: World) -> None:
    (world.folder / "nobody").write_text("nobody")
    file = world.lines(*(chat(f"nobody {number}") for number in range(20)))
    refused = world.mc("cache", "warm", file, "--api-key-file", str(world.folder / "nobody"), code=1)
    assert "answered 401" in refused.stderr
    assert "--api-key-file" in refused.stderr


def test_completion_knows_every_verb_and_option(world: World) -> None:
    """By what bash itself offers."""
    script = world.mc("completion", "bash").stdout
    program = (
        f"{script}\nCOMP_WORDS=(mc cache clear --t); COMP_CWORD=3; _mc; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    offered = subprocess.run(
        ["bash", "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert offered == ["--tenant", "--tag", "--token-file", "--timeout"]
