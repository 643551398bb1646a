"""What a client is told about limits: headers and the body of a refusal. Pure.

Headers follow draft-ietf-httpapi-ratelimit-headers (09 to 11), which are structured fields (RFC 9651); the body is
a problem document (RFC 9457) of the type that the draft registers. Limits of requests at once have the draft's unit
``concurrent-requests`` and neither a window nor a reset. For tokens its registry has no unit yet: ``tokens``.
"""

from __future__ import annotations

import json

from cachepolicy.limits import Unit
from cachepolicy_runtime.ratelimit.decision import Decision, Outcome, RateReport

PROBLEM_JSON = "application/problem+json"
_QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"
#: Seconds after which a client may look whether the store is back.
_STORE_RETRY_S = 1
_UNITS = {Unit.REQUESTS: "", Unit.TOKENS: ';qu="tokens"', Unit.CONCURRENCY: ';qu="concurrent-requests"'}
_STATUS = {Outcome.ADMITTED: 200, Outcome.LIMITED: 429, Outcome.UNAVAILABLE: 503}


def status_of(decision: Decision) -> int:
    """200, 429 or 503."""
    return _STATUS[decision.outcome]


def rate_limit(decision: Decision) -> str:
    """``RateLimit``: per window its name, units remaining and the seconds for which they have to do.

    That is until all of the limit is free again, or, where a window refuses, until it has room: ``Retry-After``
    must not name an earlier time (draft 11, 6).
    """
    rates = decision.rates
    return _remaining(rates[0]) if len(rates) == 1 else ", ".join([_remaining(rate) for rate in rates])


def rate_limit_policy(decision: Decision) -> str:
    """``RateLimit-Policy``: per window its name, units and length in seconds."""
    return ", ".join([_quota(rate.policy, rate.limit, rate.window_ms, rate.unit) for rate in decision.rates])


def retry_after(decision: Decision) -> int | None:
    """Seconds for ``Retry-After``; None when the request may pass."""
    match decision.outcome:
        case Outcome.ADMITTED:
            return None
        case Outcome.UNAVAILABLE:
            return _STORE_RETRY_S
        case Outcome.LIMITED:
            return max(1, _seconds(decision.retry_after_ms))


def headers(decision: Decision) -> list[tuple[bytes, bytes]]:
    """ASGI headers for the answer, whatever the outcome; none where no limit applied."""
    values: list[tuple[bytes, bytes]] = []
    if decision.rates:
        values = [_quota_header(decision), (b"ratelimit", rate_limit(decision).encode("ascii"))]
    if decision.outcome is not Outcome.ADMITTED:
        values.append((b"retry-after", str(retry_after(decision)).encode("ascii")))
    return values


def problem(decision: Decision) -> bytes:
    """The body of a refusal."""
    body = _limited(decision) if decision.outcome is Outcome.LIMITED else _UNAVAILABLE
    return json.dumps(body).encode()


def _quota_header(decision: Decision) -> tuple[bytes, bytes]:
    kept = decision.quota
    if kept:
        return kept[0]
    made = (b"ratelimit-policy", rate_limit_policy(decision).encode("ascii"))
    if kept is not None:
        kept.append(made)
    return made


def _quota(policy: str, limit: int, window_ms: int, unit: Unit) -> str:
    """The name is a label, which a structured field's string can hold as it is."""
    window = f";w={_seconds(window_ms)}" if window_ms else ""
    return f'"{policy}";q={limit}{_UNITS[unit]}{window}'


def _remaining(rate: RateReport) -> str:
    policy, _, window_ms, remaining, reset_ms, retry_ms, _ = rate
    if not window_ms:
        return f'"{policy}";r={remaining}'
    return f'"{policy}";r={remaining};t={((retry_ms or reset_ms) + 999) // 1000}'


def _limited(decision: Decision) -> dict[str, object]:
    violated = [rate.policy for rate in decision.refused_by]
    return {
        "type": _QUOTA_EXCEEDED,
        "title": "Request cannot be satisfied as assigned quota has been exceeded",
        "status": 429,
        "detail": f"No room in {', '.join(violated)}. Try again in {retry_after(decision)} s.",
        "violated-policies": violated,
    }


_UNAVAILABLE: dict[str, object] = {
    "type": "about:blank",
    "title": "Service Unavailable",
    "status": 503,
    "detail": "Rate limits cannot be checked at the moment. Try again shortly.",
}


def _seconds(milliseconds: int) -> int:
    """Rounded up: a client that waits this long has waited long enough."""
    return -(-milliseconds // 1000)
