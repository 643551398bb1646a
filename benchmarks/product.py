"""The runtime under measurement, set up as in a pod: a policy directory, and the servers that it names."""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from cachepolicy.document import build_document
from cachepolicy.names import FILE_HMAC_KEY, FILE_POLICY, Role
from cachepolicy.spec import CachePolicySpec
from cachepolicy_runtime import CacheRuntime, Identity

#: A deadline that a busy machine does not miss: an answer made without Redis would count as a fast one.
PATIENT_MS = 10_000
WHO = Identity(tenant="acme", user="alice")
LIMITS = {
    "per-user": {
        "by": [{"type": "Tenant"}, {"type": "User"}],
        "rates": [{"limit": 1_000_000_000, "window": "1m"}],
    }
}
SPEC = {
    "redis": {"managed": {}},
    "sessions": {},
    "rateLimits": LIMITS,
    "responseCache": {"ttl": "1h"},
    "embeddingCache": {"ttl": "1h"},
}


def write_policy(folder: Path, url: str | None, spec: Mapping[str, Any] = SPEC) -> None:
    """``policy.json`` and the cache's key. Without ``url`` the document names no server: all is in memory."""
    document = build_document(
        namespace="bench",
        name="core",
        uid="bench",
        spec=CachePolicySpec.model_validate({**SPEC, **spec}),
        endpoints=dict.fromkeys(Role, url or "redis://127.0.0.1"),
        previous=None,
        now_ms=1,
    )
    content: dict[str, Any] = json.loads(document.to_json())
    if url is None:
        content["redis"] = {"keyPrefix": content["redis"]["keyPrefix"]}
    (folder / FILE_HMAC_KEY).write_text("a key of a benchmark, long enough to be one")
    (folder / FILE_POLICY).write_text(json.dumps(content))


@contextmanager
def policy(url: str | None, spec: Mapping[str, Any] = SPEC) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cp-bench-") as folder:
        write_policy(Path(folder), url, spec)
        yield Path(folder)


def runtime_of(folder: Path, deadline_ms: int = PATIENT_MS) -> CacheRuntime:
    environ = {"CACHEPOLICY_DIR": str(folder), "CACHEPOLICY_DEADLINE_MS": str(deadline_ms)}
    return CacheRuntime.from_env(identify=lambda scope: WHO, environ=environ)


@asynccontextmanager
async def started(
    url: str | None, deadline_ms: int = PATIENT_MS, spec: Mapping[str, Any] = SPEC
) -> AsyncIterator[CacheRuntime]:
    with policy(url, spec) as folder:
        runtime = runtime_of(folder, deadline_ms)
        async with runtime.lifespan():
            yield runtime
