"""Settings of the operator: environment variables in, one frozen value out.

Every variable starts with `CACHEPOLICY_` and has a default. A wrong one ends the start with its name and what is
allowed; all wrong ones are named at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

from cachepolicy.durations import Duration

DEFAULT_REDIS_IMAGE: Final = "docker.io/library/redis:8.2"

_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_IMAGE = re.compile(r"[a-zA-Z0-9]\S{0,511}")

T = TypeVar("T")


class SettingsError(ValueError):
    """One or more variables cannot be used; the message has a line for each."""


class LogFormat(StrEnum):
    """Lines for people or for machines."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True)
class OperatorSettings:
    """How the operator runs. Times are in seconds.

    `watch_namespaces` is empty for all namespaces. `redis_poll` is the pause between two looks at a healthy server,
    `redis_poll_pending` the one while a revision or a live value is awaited.
    """

    redis_image: str = DEFAULT_REDIS_IMAGE
    watch_namespaces: tuple[str, ...] = ()
    resync_interval: float = 300.0
    workers: int = 8
    redis_poll: float = 3.0
    redis_poll_pending: float = 0.3
    request_timeout: float = 15.0
    metrics_port: int = 8080
    health_port: int = 8081
    pod_name: str = "cachepolicy-operator"
    pod_namespace: str | None = None
    log_format: LogFormat = LogFormat.TEXT

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> OperatorSettings:
        """Read `environ`. Raises SettingsError."""
        reader = _Reader(environ)
        settings = cls(
            redis_image=reader.read("CACHEPOLICY_REDIS_IMAGE", _image, cls.redis_image),
            watch_namespaces=reader.read("CACHEPOLICY_WATCH_NAMESPACES", _namespaces, ()),
            resync_interval=reader.read(
                "CACHEPOLICY_RESYNC_INTERVAL", _duration("10s", "24h"), cls.resync_interval
            ),
            workers=reader.read("CACHEPOLICY_WORKERS", _whole(1, 64), cls.workers),
            redis_poll=reader.read("CACHEPOLICY_REDIS_POLL", _duration("100ms", "5m"), cls.redis_poll),
            redis_poll_pending=reader.read(
                "CACHEPOLICY_REDIS_POLL_PENDING", _duration("50ms", "1m"), cls.redis_poll_pending
            ),
            request_timeout=reader.read(
                "CACHEPOLICY_REQUEST_TIMEOUT", _duration("1s", "5m"), cls.request_timeout
            ),
            metrics_port=reader.read("CACHEPOLICY_METRICS_PORT", _whole(1, 65535), cls.metrics_port),
            health_port=reader.read("CACHEPOLICY_HEALTH_PORT", _whole(1, 65535), cls.health_port),
            pod_name=reader.read("POD_NAME", str, cls.pod_name),
            pod_namespace=reader.read("POD_NAMESPACE", _namespace, cls.pod_namespace),
            log_format=reader.read("CACHEPOLICY_LOG_FORMAT", _log_format, cls.log_format),
        )
        if settings.metrics_port == settings.health_port:
            reader.problems.append(
                f"CACHEPOLICY_METRICS_PORT and CACHEPOLICY_HEALTH_PORT are both {settings.health_port}: "
                "they need a port each"
            )
        if reader.problems:
            raise SettingsError("\n".join(reader.problems))
        return settings


class _Reader:
    """Reads variables and gathers what is wrong with them; an empty one counts as absent."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []

    def read(self, name: str, parse: Callable[[str], T], default: T) -> T:
        text = self._environ.get(name, "").strip()
        if not text:
            return default
        try:
            return parse(text)
        except ValueError as error:
            self.problems.append(f"{name}={text[:80]!r}: {error}")
            return default


def _image(text: str) -> str:
    if not _IMAGE.fullmatch(text):
        raise ValueError(f"must be an image reference without spaces, such as {DEFAULT_REDIS_IMAGE}")
    return text


def _namespace(text: str) -> str:
    if not _NAMESPACE.fullmatch(text):
        raise ValueError("must be the name of a namespace: lower-case letters, digits and '-'")
    return text


def _namespaces(text: str) -> tuple[str, ...]:
    found = [part.strip() for part in text.split(",") if part.strip()]
    for name in found:
        if not _NAMESPACE.fullmatch(name):
            raise ValueError(f"must be namespaces separated by commas, or empty for all; {name!r} is none")
    return tuple(dict.fromkeys(found))


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        # ASCII digits only: str.isdigit alone also takes other scripts.
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise ValueError(f"must be a whole number from {least} to {most}")
        return int(text)

    return parse


def _duration(least: str, most: str) -> Callable[[str], float]:
    low, high = Duration.parse(least), Duration.parse(most)

    def parse(text: str) -> float:
        value = Duration.parse(text)
        if not low <= value <= high:
            raise ValueError(f"must be from {least} to {most}")
        return value.seconds

    return parse


def _log_format(text: str) -> LogFormat:
    try:
        return LogFormat(text)
    except ValueError:
        raise ValueError(f"must be one of {', '.join(LogFormat)}") from None
