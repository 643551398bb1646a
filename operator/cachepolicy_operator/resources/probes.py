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
    f'ping() {{ REDISCLI_AUTH={PROBE_PASSWORD} timeout 2 "$cli" --user {names.USER_PROBE} ping 2>&1; }}; '
)

# The kubelet asks at once when the container runs, and next a period later. A server opens its port within some 50 ms
# of its start, so while nobody listens yet the question is put again, for two seconds at most: the pod is Ready sooner
# by a whole period. A server that hangs, loads or refuses is an answer.
READY = _PING + (
    "for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do "
    'case "$(ping)" in PONG) exit 0;; *refused*) sleep 0.1;; *) exit 1;; esac; done; exit 1'
)
LIVE = _PING + 'case "$(ping)" in *PONG*|*LOADING*|*MASTERDOWN*) exit 0;; esac; exit 1'


def probes() -> dict[str, dict[str, Any]]:
    """The two probe fields of the container.

    Readiness is asked for every 3 s: the kubelet now and then misses its first chance, and then a period goes by.
    There is no startup probe: a server answers LOADING from its first moment, which liveness takes for a yes, and a
    startup probe would put off readiness to the kubelet's next whole second.
    """
    return {
        "livenessProbe": _probe(LIVE, delay=10, period=10, timeout=3, failures=6),
        "readinessProbe": _probe(READY, delay=0, period=3, timeout=5, failures=2),
    }


def _probe(script: str, *, delay: int, period: int, timeout: int, failures: int) -> dict[str, Any]:
    return {
        "exec": {"command": ["sh", "-c", script]},
        "initialDelaySeconds": delay,
        "periodSeconds": period,
        "timeoutSeconds": timeout,
        "successThreshold": 1,
        "failureThreshold": failures,
    }
