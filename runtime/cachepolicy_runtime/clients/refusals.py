"""Answers that come from here instead of the provider, in a form that the SDKs turn into their own errors. Pure."""

from __future__ import annotations

from http import HTTPStatus

import orjson

from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.ratelimit import Decision, Outcome
from cachepolicy_runtime.ratelimit_answer import PROBLEM_JSON, headers, problem, retry_after, status_of

#: SDKs sleep as long as ``Retry-After`` says, up to a minute or two, before they try again. A request that waits
#: here holds its caller's connection, so beyond this many seconds the error is raised at once.
RETRY_WITHIN_S = 5
NO_RETRY = {"x-should-retry": "false"}


def refusal(decision: Decision) -> Answer:
    """429 or 503 with the headers and the problem document (RFC 9457) that the middleware would answer.

    One more member holds the error where SDKs look for it. ``x-should-retry`` is what the SDKs of OpenAI and
    Anthropic obey before anything else.
    """
    told = {name.decode("ascii"): value.decode("latin-1") for name, value in headers(decision)}
    wait_s = retry_after(decision) or 0
    body = orjson.loads(problem(decision))
    kind = "rate_limit_error" if decision.outcome is Outcome.LIMITED else "api_error"
    code = "rate_limit_exceeded" if decision.outcome is Outcome.LIMITED else "limits_unavailable"
    body["error"] = {"type": kind, "code": code, "message": body["detail"]}
    told |= {"content-type": PROBLEM_JSON, "x-should-retry": "true" if wait_s <= RETRY_WITHIN_S else "false"}
    return Answer(status_of(decision), orjson.dumps(body), told)


def unusable(message: str) -> Answer:
    """502: the provider answered something that cannot be right."""
    status = HTTPStatus.BAD_GATEWAY
    body = {
        "type": "about:blank",
        "title": status.phrase,
        "status": int(status),
        "detail": message,
        "error": {"type": "api_error", "code": "provider_answer", "message": message},
    }
    return Answer(int(status), orjson.dumps(body), {"content-type": PROBLEM_JSON})
