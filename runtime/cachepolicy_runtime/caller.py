"""Whose work the running code does: the request that a middleware of ours serves, or an identity given by hand.

A context variable follows the request into everything that is called for it, tasks and worker threads that are
started with its context included, and never from one request to another: every request runs in a task or in a
context of its own, and whoever enters leaves.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from cachepolicy.identity import Identity
from cachepolicy_runtime.asgi.types import App, Receive, Scope, Send

#: The scope of a request, an identity, or None for nobody.
Caller = Scope | Identity | None

_caller: ContextVar[Caller] = ContextVar("cachepolicy.caller", default=None)


async def serve(app: App, scope: Scope, receive: Receive, send: Send) -> None:
    """Run ``app`` on this request, as its work."""
    if scope["type"] == "lifespan":
        await app(scope, receive, send)
        return
    token = _caller.set(scope)
    try:
        await app(scope, receive, send)
    finally:
        _caller.reset(token)


@contextmanager
def acting_as(identity: Identity | None) -> Iterator[None]:
    """Within this block the work is done for ``identity``, whoever the request is from; None is nobody.

    For what no request asks for: jobs, queue workers, scripts.
    """
    token = _caller.set(identity)
    try:
        yield
    finally:
        _caller.reset(token)


def current() -> Caller:
    """Whose work this is."""
    return _caller.get()


def current_scope() -> Scope | None:
    """The request that is being served; None outside of one and within :func:`acting_as`."""
    caller = _caller.get()
    return None if isinstance(caller, Identity) else caller
