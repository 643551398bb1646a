"""Logging of the operator: lines for people or JSON for machines, each with the CachePolicy that it is about."""

from __future__ import annotations

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime

from cachepolicy_operator.settings import LogFormat

#: The CachePolicy that the current task works on, as namespace/name.
current_policy: ContextVar[str] = ContextVar("current_policy", default="")


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        record.policy = f"[{policy}] " if (policy := current_policy.get()) else ""
        return super().format(record)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if policy := current_policy.get():
            line["policy"] = policy
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure(form: LogFormat) -> None:
    """Everything at INFO to standard error; libraries at WARNING."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        _Json() if form is LogFormat.JSON else _Text("%(asctime)s %(levelname)-7s %(policy)s%(message)s")
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for library in ("kopf", "aiohttp", "kubernetes", "asyncio"):
        logging.getLogger(library).setLevel(logging.WARNING)
    # kopf warns that signals do not reach its thread: they are ours.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
