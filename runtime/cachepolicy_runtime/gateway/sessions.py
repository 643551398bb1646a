"""``/v1/session``: a JSON object of the caller's own."""

from __future__ import annotations

import orjson
from fastapi import Request, Response

from cachepolicy.identity import Identity
from cachepolicy_runtime.gateway.asking import caller, json_object
from cachepolicy_runtime.gateway.errors import RefusedError
from cachepolicy_runtime.gateway.responding import json_response
from cachepolicy_runtime.runtime import CacheRuntime
from cachepolicy_runtime.session import Session

SESSION = "/v1/session"
_OWNER, _DATA = "owner", "data"


class SessionRoutes:
    def __init__(self, runtime: CacheRuntime) -> None:
        self._runtime = runtime

    async def read(self, request: Request) -> Response:
        session = _session(request)
        who = await caller(self._runtime, request)
        return json_response(session[_DATA] if _belongs(session, who) else {})

    async def write(self, request: Request) -> Response:
        session = _session(request)
        who, content = await caller(self._runtime, request), await json_object(request)
        allowed = self._runtime.session_policy
        if allowed is not None and len(orjson.dumps(content)) > allowed.rules.max_bytes.bytes:
            raise RefusedError(413, f"a session holds at most {allowed.rules.max_bytes} (sessions.maxBytes)")
        if not _belongs(session, who):
            session.clear()
            session.bind(who)
            session[_OWNER] = [who.tenant, who.user]
        session[_DATA] = content
        return json_response(content)

    async def end(self, request: Request) -> Response:
        session = _session(request)
        if _belongs(session, await caller(self._runtime, request)):
            session.destroy()
        return Response(status_code=204)


def _session(request: Request) -> Session:
    session = request.scope.get("session")
    if not isinstance(session, Session):
        raise RefusedError(404, "the policy has no sessions")
    return session


def _belongs(session: Session, who: Identity) -> bool:
    """Whether this caller wrote the session: a cookie alone does not open somebody else's."""
    return bool(session.get(_OWNER) == [who.tenant, who.user])
