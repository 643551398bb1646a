"""Every failure of what stands behind Core, really made, and what a caller sees of it over HTTP.

Two replicas run as processes. In each failure a caller gets an answer within seconds, nobody gets what belongs to
somebody else, and when it is over everything works again without anybody's doing.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx
import pytest
from tests.fleets import wait_until
from tests.replicas import CACHES, limit
from tests.stacks import DEADLINE_S, Core, Stack, eventually, running

pytestmark = pytest.mark.timeout(180)

#: Plain HTTP is spoken here.
SESSIONS: Mapping[str, Any] = {"sessions": {"cookie": {"name": "session", "secure": False}}}
POLICY: tuple[Mapping[str, Any], ...] = (CACHES, SESSIONS, limit(100_000))
#: Questions that nobody has asked before.
_NEW = (f"question {number}" for number in count())


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("stack")) as made:
        made.apply(*POLICY)
        yield made
        for core in made.cores:
            assert "Traceback" not in core.log.read_text()


# --- the failures -----------------------------------------------------------------------------------------


@contextmanager
def killed(stack: Stack) -> Iterator[None]:
    """Connections are refused; it comes back without anything that it held."""
    stack.node.kill()
    try:
        yield
    finally:
        stack.node.start()
        wait_until(lambda: stack.node.answers)


@contextmanager
def stopped(stack: Stack) -> Iterator[None]:
    """The process hangs: connections are taken and never answered."""
    stack.node.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        stack.node.signal(signal.SIGCONT)


@contextmanager
def full(stack: Stack) -> Iterator[None]:
    """Out of memory, and nothing may be evicted."""
    with _configured(stack, "maxmemory", "1mb", "0"):
        yield


@contextmanager
def replica(stack: Stack) -> Iterator[None]:
    """It follows a primary that it does not reach: reads are answered, writes are refused."""
    stack.node.ask("REPLICAOF", "127.0.0.1", 1)
    try:
        yield
    finally:
        stack.node.ask("REPLICAOF", "NO", "ONE")


@contextmanager
def loading(stack: Stack) -> Iterator[None]:
    """It was restarted and reads its data: every command is answered LOADING."""
    stack.node.ask("DEBUG", "POPULATE", 2_000, "filler")
    stack.node.ask("SAVE")
    stack.node.kill()
    stack.node.start("--key-load-delay", "1500", "--loading-process-events-interval-bytes", "1024")
    try:
        yield
    finally:
        wait_until(lambda: stack.node.answers)
        stack.node.ask("CONFIG", "SET", "key-load-delay", 0)
        stack.node.ask("EVAL", "for i = 0, 1999 do redis.call('DEL', 'filler:' .. i) end", 0)


@contextmanager
def locked(stack: Stack) -> Iterator[None]:
    """Its password was changed, and Core has not got the new one yet; then the file of the policy has it."""
    with stack.node.client() as admin:
        admin.config_set("requirepass", "rotated")
        try:
            admin.client_kill_filter(_type="normal", skipme=True)
            yield
            stack.site.write("password", "rotated")
            stack.whole()
        finally:
            admin.config_set("requirepass", "")
            stack.site.write("password", "")


@contextmanager
def slow(stack: Stack) -> Iterator[None]:
    """Every answer takes longer than Core waits for it."""
    with _through_front(stack):
        stack.front.delay_s = 2 * DEADLINE_S
        yield


@contextmanager
def cut(stack: Stack) -> Iterator[None]:
    """Every connection ends in the middle of an answer."""
    with _through_front(stack):
        stack.front.cut_after, stack.front.keeps_cutting = 3, True
        yield


@contextmanager
def _through_front(stack: Stack) -> Iterator[None]:
    stack.apply(url=stack.front.url)
    for core in stack.cores:
        assert core.read().status_code == 200
    try:
        yield
    finally:
        stack.front.delay_s, stack.front.cut_after, stack.front.keeps_cutting = 0.0, None, False
        stack.whole()
        stack.apply()


@contextmanager
def _configured(stack: Stack, name: str, value: str, before: str) -> Iterator[None]:
    stack.node.ask("CONFIG", "SET", name, value)
    try:
        yield
    finally:
        stack.node.ask("CONFIG", "SET", name, before)


@dataclass(frozen=True)
class Failure:
    """What is different from one failure to the next.

    Attributes:
        noticed: the store is known to be away; else single commands are refused, and Redis counts as up.
        lists: the sessions of a user can be listed meanwhile.
        keeps: what Redis held is still there afterwards.
    """

    make: Callable[[Stack], AbstractContextManager[None]]
    noticed: bool = True
    lists: bool = False
    keeps: bool = True

    def __str__(self) -> str:
        return self.make.__name__


FAILURES = (
    Failure(killed, keeps=False),
    Failure(stopped),
    Failure(full, noticed=False, lists=True),
    Failure(replica, noticed=False, lists=True),
    Failure(loading),
    Failure(locked),
    Failure(slow),
    Failure(cut),
)


# --- the walk ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", FAILURES, ids=str)
def test_callers_are_answered_through_a_failure_and_all_is_well_after_it(
    stack: Stack, failure: Failure
) -> None:
    """Chat and embeddings go on, sessions are read and not changed, and nobody gets anything of another tenant."""
    here, there = stack.cores
    known, secret = next(_NEW), {"secret": next(_NEW)}
    for core in stack.cores:
        core.jars.clear()
    assert here.write(secret).status_code == 200
    assert here.ask("DELETE", "/v1/sessions?except=current").status_code == 200
    there.jars["alice"] = here.jars["alice"]
    assert [core.read().json() for core in stack.cores] == [secret, secret]
    eventually(lambda: shared(stack, known))

    with failure.make(stack):
        during(stack, failure, known, secret)

    stack.whole()
    after(stack, failure, known, secret)


def during(stack: Stack, failure: Failure, known: str, secret: dict[str, str]) -> None:
    for core in stack.cores:
        for text in (known, next(_NEW)):
            assert core.chat(text).status_code == 200
        assert core.embed(next(_NEW)).status_code == 200
        # The copy of this process, or Redis's own where it still reads.
        read = core.read()
        assert (read.status_code, read.json()) == (200, secret)
        changed = core.write({"lost": True})
        assert (changed.status_code, changed.headers["retry-after"]) == (503, "1")
        assert "onStoreFailure: ReadOnly" in changed.json()["detail"]
        listed = core.ask("GET", "/v1/sessions")
        assert listed.status_code == (200 if failure.lists else 503)
    if failure.noticed:
        eventually(lambda: all(core.health["status"] == "degraded" for core in stack.cores))
    nobody_elses(stack, known)


def after(stack: Stack, failure: Failure, known: str, secret: dict[str, str]) -> None:
    here, there = stack.cores
    # Kept, or written again by the replica that knew it; what was refused is not there.
    assert [core.read().json() for core in stack.cores] == [secret, secret]
    assert here.write({"n": 2}).status_code == 200
    assert there.read().json() == {"n": 2}
    assert [one["current"] for one in there.ask("GET", "/v1/sessions").json()["sessions"]] == [True]
    # The purge stamps are known again within a second; those of a server that came back empty are new.
    eventually(lambda: shared(stack, next(_NEW)))
    if failure.keeps:
        eventually(lambda: "hit" in here.chat(known).headers["cache-status"])
    nobody_elses(stack, known)
    assert here.ask("DELETE", "/v1/session").status_code == 204
    assert there.read().json() == {}


def shared(stack: Stack, text: str) -> bool:
    """Whether what one replica stores is a hit on the other."""
    here, there = stack.cores
    here.chat(text)
    return "hit" in there.chat(text).headers["cache-status"]


def nobody_elses(stack: Stack, known: str) -> None:
    """With the cookie of another tenant, and with the question that another tenant has asked."""
    for core in stack.cores:
        core.jars["eve"] = core.jars["alice"]
        assert core.read("eve").json() == {}
        core.jars.pop("eve")
    asked = stack.cores[0].chat(f"{known} of eve's", "eve"), stack.cores[1].chat(known, "eve")
    for answer in asked:
        assert answer.status_code == 200
    assert "hit" not in asked[0].headers["cache-status"]
    if known not in _EVE_ASKED:
        _EVE_ASKED.add(known)
        assert "hit" not in asked[1].headers["cache-status"]


_EVE_ASKED: set[str] = set()


# --- and what is not Redis's doing ------------------------------------------------------------------------


def test_a_policy_that_changes_under_load_fails_no_request(stack: Stack) -> None:
    """Limits, times and sections change while requests come in; the last one is enforced in the end."""
    codes: set[int] = set()
    ended = threading.Event()

    def load(core: Core) -> None:
        while not ended.is_set():
            codes.add(core.chat(next_text()).status_code)
            codes.add(core.read().status_code)
            ended.wait(0.02)

    lock = threading.Lock()

    def next_text() -> str:
        with lock:
            return next(_NEW)

    callers = [threading.Thread(target=load, args=(core,)) for core in stack.cores]
    for caller in callers:
        caller.start()
    try:
        for number in range(3):
            other = {
                "responseCache": {"ttl": f"{number + 1}m"},
                "sessions": {"idleTimeout": f"{number + 10}m"},
            }
            stack.apply(other, limit(100_000 + number))
    finally:
        ended.set()
        for caller in callers:
            caller.join()
        stack.apply(*POLICY)
    assert codes == {200}


def test_a_replica_that_is_killed_takes_no_session_and_no_limit_along(stack: Stack) -> None:
    """The other one goes on at once, and a new one in its place finds everything."""
    here, there = stack.cores
    here.jars.clear()
    assert here.write({"n": 1}).status_code == 200
    before = int(here.chat(next(_NEW)).headers["ratelimit"].split("r=")[1].split(";")[0])
    here.kill()
    there.jars["alice"] = here.jars["alice"]
    assert there.read().json() == {"n": 1}
    left = int(there.chat(next(_NEW)).headers["ratelimit"].split("r=")[1].split(";")[0])
    assert left < before
    here.start()
    stack.whole()
    assert here.read().json() == {"n": 1}


def test_who_waits_for_the_call_of_a_replica_that_is_killed_makes_it(stack: Stack) -> None:
    """Two replicas are asked the same at once, so that one of them calls the provider: it dies in the middle."""
    stack.apply({"responseCache": {"coalesce": {"waitMax": "30s"}}}, SESSIONS)
    here, there = stack.cores
    text, answers = next(_NEW), []

    def ask(core: Core) -> None:
        answers.append(core.chat(text, seconds=20, metadata={"standin": "delay=1s"}))

    calls = stack.counts()["chat"]
    lost = threading.Thread(target=_ignoring_errors, args=(ask, here))
    lost.start()
    eventually(lambda: stack.counts()["chat"] == calls + 1)
    waiting = threading.Thread(target=_ignoring_errors, args=(ask, there))
    waiting.start()
    time.sleep(0.2)
    assert stack.counts()["chat"] == calls + 1
    here.kill()
    waiting.join()
    lost.join()
    here.start()
    stack.apply(*POLICY)
    (answer,) = answers
    assert answer.status_code == 200
    assert stack.counts()["chat"] == calls + 2


def _ignoring_errors(call: Callable[[Core], None], core: Core) -> None:
    with suppress(httpx.HTTPError):  # its replica was killed
        call(core)
