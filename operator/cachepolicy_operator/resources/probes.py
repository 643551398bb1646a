"""Probes of a Redis container.

Two questions, never one script (rule 6): "is the process of any use alive" takes LOADING and MASTERDOWN for a yes, or
a server that loads much data is killed again and again; "may clients come" takes PONG only. The reply's text counts,
because `redis-cli ping` exits 0 on LOADING (rule 7). The image may hold redis-cli or valkey-cli.
"""

from __future__ import annotations

from typing import Any

from cachepolicy import names
from cachepolicy_operator.resources.acl import PROBE_PASSWORD

_PING = (
    'cli="$(command -v redis-cli || command -v valkey-cli)"; '
    f'ping() {{ REDISCLI_AUTH={PROBE_PASSWORD} timeout 2 "$cli" --user {names.USER_PROBE} ping 2>/dev/null; }}; '
)
_ALIVE = 'case "$(ping)" in *PONG*|*LOADING*|*MASTERDOWN*) exit 0;; esac; '

READY = _PING + 'test "$(ping)" = PONG'
LIVE = _PING + _ALIVE + "exit 1"
# A server answers within some 50 ms of its start: asking again at once makes the pod Ready a second earlier than the
# kubelet's next period would.
STARTED = _PING + f"for _ in 1 2 3 4 5 6 7 8 9 10; do {_ALIVE}sleep 0.1; done; exit 1"


def probes() -> dict[str, dict[str, Any]]:
    """The three probe fields of the container."""
    return {
        # 90 s for a server that does not even answer LOADING, such as one whose volume is slow.
        "startupProbe": _probe(STARTED, period=1, timeout=5, failures=90),
        "livenessProbe": _probe(LIVE, period=10, timeout=3, failures=6),
        "readinessProbe": _probe(READY, period=5, timeout=3, failures=2),
    }


def _probe(script: str, *, period: int, timeout: int, failures: int) -> dict[str, Any]:
    return {
        "exec": {"command": ["sh", "-c", script]},
        "initialDelaySeconds": 0,
        "periodSeconds": period,
        "timeoutSeconds": timeout,
        "successThreshold": 1,
        "failureThreshold": failures,
    }
