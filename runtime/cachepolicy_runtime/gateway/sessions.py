"""``/v1/session``, a JSON object of the caller's own, and ``/v1/sessions``, where it sees and ends all of its sessions."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import Request, Response

from cachepolicy.identity import Identity
from cachepolicy_runtime.gateway.asking import caller, json_object
from cachepolicy_runtime.gateway.errors import RefusedError
from cachepolicy_runtime.gateway.responding import json_response
from cachepolicy_runtime.runtime import CacheRuntime
from cachepolicy_runtime.session import Session
from cachepolicy_runtime.sessions import SessionInfo

SESSION, SESSIONS, ONE_OF_SESSIONS = "/v1/session", "/v1/sessions", "/v1/sessions/{handle}"
_OWNER, _DATA = "owner", "data"


class SessionRoutes:
    def __init__(self, runtime: CacheRuntime) -> None:
        self._runtime = runtime

    # --- the session of this request

    async def read(self, request: Request) -> Response:
        session = _session(request)
        who = await caller(self._runtime, request)
        return json_response(session[_DATA] if _belongs(session, who) else {})

    async def write(self, request: Request) -> Response:
        session = _session(request)
        who, content = await caller(self._runtime, request), await json_object(request)
        allowed = self._runtime.session_policy
        size = len(orjson.dumps(content))
        if allowed is not None and size > allowed.max_bytes:
            raise RefusedError(
                413,
                f"{size} bytes are too many: a session holds {allowed.rules.max_bytes} (sessions.maxBytes)",
            )
        if not _belongs(session, who):
            session.clear()
            session.bind(who, label=request.headers.get("user-agent"))
            session[_OWNER] = [who.tenant, who.user]
        session[_DATA] = content
        return json_response(content)

    async def end(self, request: Request) -> Response:
        session = _session(request)
        if _belongs(session, await caller(self._runtime, request)):
            session.destroy()
        return Response(status_code=204)

    # --- all sessions of the caller

    async def list_all(self, request: Request) -> Response:
        session, who = _session(request), await self._user(request)
        found = await self._runtime.sessions.list(who)
        return json_response(
            {"sessions": [_shown(info, session) for info in found]}, headers={"Cache-Control": "no-store"}
        )

    async def end_one(self, request: Request) -> Response:
        session, who = _session(request), await self._user(request)
        handle = request.path_params["handle"]
        if not await self._runtime.sessions.revoke(who, handle):
            raise RefusedError(404, "you have no session with this handle", "session_not_found")
        if handle == session.handle:
            session.destroy()  # takes the cookie away as well
        return Response(status_code=204)

    async def end_all(self, request: Request) -> Response:
        """With ``?except=current`` all but the session of this request."""
        session, who = _session(request), await self._user(request)
        asked = request.query_params.get("except")
        if asked not in (None, "current"):
            raise RefusedError(400, "except can only be current")
        stays = asked is not None and _belongs(session, who)
        ended = await self._runtime.sessions.revoke_all(who, except_current=session if stays else None)
        if not stays and _belongs(session, who):
            session.destroy()
        return json_response({"ended": ended})

    async def _user(self, request: Request) -> Identity:
        who = await caller(self._runtime, request)
        if who.user is None:
            raise RefusedError(403, "this API key belongs to no user: sessions are listed for a user")
        return who


def _session(request: Request) -> Session:
    session = request.scope.get("session")
    if not isinstance(session, Session):
        raise RefusedError(404, "the policy has no sessions")
    return session


def _belongs(session: Session, who: Identity) -> bool:
    """Whether this caller wrote the session: a cookie alone does not open somebody else's."""
    return bool(session.get(_OWNER) == [who.tenant, who.user])


def _shown(info: SessionInfo, current: Session) -> dict[str, Any]:
    times = {"created": info.created, "lastUsed": info.last_used, "ends": info.ends}
    return {
        "handle": info.handle,
        **{name: moment.isoformat(timespec="seconds") for name, moment in times.items()},
        "label": info.label,
        "current": info.handle == current.handle,
    }
