"""What a client is told about limits: headers and the body of a refusal. Pure.

Headers follow draft-ietf-httpapi-ratelimit-headers (09 and later), which are structured fields (RFC 9651); the
body is a problem document (RFC 9457) of the type that the draft registers.
"""

from __future__ import annotations

import json

from cachepolicy_runtime.ratelimit import Decision, Outcome

PROBLEM_JSON = "application/problem+json"
_QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"
#: Seconds after which a client may look whether the store is back.
_STORE_RETRY_S = 1


def status_of(decision: Decision) -> int:
    """200, 429 or 503."""
    return {Outcome.ADMITTED: 200, Outcome.LIMITED: 429, Outcome.UNAVAILABLE: 503}[decision.outcome]


def rate_limit(decision: Decision) -> str:
    """``RateLimit``: per window its name, units remaining and seconds until all of it is free again."""
    return ", ".join(
        f'"{rate.policy}";r={rate.remaining};t={_seconds(rate.reset_ms)}' for rate in decision.rates
    )


def rate_limit_policy(decision: Decision) -> str:
    """``RateLimit-Policy``: per window its name, units and length in seconds."""
    return ", ".join(
        f'"{rate.policy}";q={rate.limit};w={_seconds(rate.window_ms)}' for rate in decision.rates
    )


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
        values += [
            (b"ratelimit-policy", rate_limit_policy(decision).encode("ascii")),
            (b"ratelimit", rate_limit(decision).encode("ascii")),
        ]
    if (seconds := retry_after(decision)) is not None:
        values.append((b"retry-after", str(seconds).encode("ascii")))
    return values


def problem(decision: Decision) -> bytes:
    """The body of a refusal."""
    body = _limited(decision) if decision.outcome is Outcome.LIMITED else _UNAVAILABLE
    return json.dumps(body).encode()


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
