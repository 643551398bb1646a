"""The program around the reconciles: liveness, the wait for the CRD, and what a log line holds."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from cachepolicy_operator import __main__ as program
from cachepolicy_operator import errors, logs
from cachepolicy_operator.settings import LogFormat


class Queue:
    """As old as the test says."""

    def __init__(self, oldest: float) -> None:
        self.oldest_seconds = oldest

    def __len__(self) -> int:
        return 3


class Kube:
    """Refuses a list as often as the test says."""

    def __init__(self, *refusals: Exception) -> None:
        self.refusals = list(refusals)
        self.asked: list[str | None] = []

    async def list(self, kind: object, namespace: str | None) -> None:
        self.asked.append(namespace)
        if self.refusals:
            raise self.refusals.pop(0)


async def test_liveness_fails_only_when_the_queue_is_stuck() -> None:
    """An API server that is away is no reason to restart: failures wait in timers, not in the queue."""
    young: Any = Queue(program.STUCK_SECONDS)
    old: Any = Queue(program.STUCK_SECONDS + 1)
    assert await program._health(young) == "3 waiting"
    with pytest.raises(RuntimeError, match="stuck"):
        await program._health(old)


async def test_the_watch_begins_only_when_the_crd_is_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """kopf looks once, and then watches nothing for ever. Each reason to wait is said once."""
    monkeypatch.setattr(program, "INSTALLED_PACE", 0)
    missing, refused = errors.NotFound("list CachePolicy"), errors.Forbidden("list CachePolicy: no right")
    kube: Any = Kube(missing, missing, refused)
    await program._until_installed(kube, ("a", "b"))
    assert kube.asked == ["a"] * 4
    words = [record.getMessage() for record in caplog.records]
    assert len(words) == 2
    assert "kubectl apply -k crds" in words[0]
    assert "no right" in words[1]


@pytest.fixture
def line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Logs in a form, about a policy, and gives the line that came out."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", list(root.handlers))
    monkeypatch.setattr(root, "level", root.level)

    def made(form: LogFormat, policy: str) -> str:
        logs.configure(form)
        token = logs.current_policy.set(policy)
        logging.getLogger("cachepolicy_operator.x").info("apply %s", "ConfigMap a")
        logs.current_policy.reset(token)
        return capsys.readouterr().err

    return made


def test_a_line_names_the_policy_that_it_is_about(line: Any) -> None:
    assert "INFO    [ns/core] apply ConfigMap a" in line(LogFormat.TEXT, "ns/core")
    content = json.loads(line(LogFormat.JSON, "ns/core"))
    assert (content["policy"], content["level"], content["message"]) == (
        "ns/core",
        "info",
        "apply ConfigMap a",
    )


def test_a_line_about_no_policy_names_none(line: Any) -> None:
    assert "INFO    apply ConfigMap a" in line(LogFormat.TEXT, "")
    assert "policy" not in json.loads(line(LogFormat.JSON, ""))
