"""``POST /clear``: what to empty."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from cachepolicy import stamps
from cachepolicy_runtime.asgi.endpoints.answers import RefusedError, Reply, json_reply, parsed
from cachepolicy_runtime.asgi.endpoints.body import Body, described
from cachepolicy_runtime.store.errors import StoreUnavailable

if TYPE_CHECKING:
    from cachepolicy_runtime.runtime import CacheRuntime

_log = logging.getLogger("cachepolicy.endpoints")


class ClearRequest(Body):
    """Everything, or whatever all given parts have in common."""

    model_config = described(
        oneOf=[
            {"required": ["all"], "maxProperties": 1},
            {"minProperties": 1, "not": {"required": ["all"]}},
        ]
    )

    all: Literal[True] | None = None
    kind: Literal["responses", "embeddings"] | None = None
    tenant: str | None = Field(default=None, min_length=1, max_length=256)
    provider: str | None = Field(default=None, min_length=1, max_length=128)
    model: str | None = Field(default=None, min_length=1, max_length=256)
    tag: str | None = Field(default=None, min_length=1, max_length=stamps.MAX_TAG_LENGTH)

    @model_validator(mode="after")
    def _says_what(self) -> Self:
        named = any((self.kind, self.tenant, self.provider, self.model, self.tag))
        if named == bool(self.all):
            raise ValueError('say {"all": true}, or at least one of kind, tenant, provider, model and tag')
        return self

    @property
    def scope(self) -> stamps.Scope:
        tags = () if self.tag is None else (self.tag,)
        return stamps.Scope(self.kind, self.tenant, self.provider, self.model, tags)


class ClearHandler:
    def __init__(self, runtime: CacheRuntime) -> None:
        self._runtime = runtime

    async def __call__(self, body: bytes) -> Reply:
        wanted = parsed(ClearRequest, body)
        try:
            await self._runtime.clear(wanted.scope)
        except StoreUnavailable as error:
            raise RefusedError(
                503, f"Nothing was cleared: {error.reason}. Try again.", [(b"retry-after", b"1")]
            ) from error
        cleared = wanted.model_dump(exclude_none=True)
        _log.info("cleared the caches of %s", ", ".join(sorted(cleared)))
        return json_reply({"cleared": cleared})
