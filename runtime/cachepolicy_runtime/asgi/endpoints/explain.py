"""``POST /explain``: would this request be a hit, and why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from cachepolicy.identity import Identity
from cachepolicy_runtime.asgi.endpoints.answers import RefusedError, Reply, json_reply, parsed
from cachepolicy_runtime.asgi.endpoints.body import Body, described
from cachepolicy_runtime.keys import UpstreamRequest

if TYPE_CHECKING:
    from cachepolicy_runtime.runtime import CacheRuntime

#: From a path of the application and a caller's headers (lower case): the provider's name, and the URL and headers
#: that such a request is sent with. KeyError: nothing is cached there.
Resolve = Callable[[str, Mapping[str, str]], tuple[str, str, Mapping[str, str]]]

#: An origin and a path, without a user or a password.
_URL = r"^https?://[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?(:[0-9]{1,4})?(/[!-~]*)?$"
_NEEDS = "say path (of this application), or url and provider (of the request to the provider)"


class ExplainRequest(Body):
    """A request and who would send it."""

    model_config = described(
        oneOf=[
            {"required": ["path"], "not": {"anyOf": [{"required": ["url"]}, {"required": ["provider"]}]}},
            {"required": ["url", "provider"], "not": {"required": ["path"]}},
        ]
    )

    tenant: str = Field(min_length=1, max_length=256)
    user: str | None = Field(default=None, min_length=1, max_length=256)
    path: str | None = Field(default=None, pattern="^/", max_length=256)
    url: str | None = Field(default=None, pattern=_URL, max_length=1024)
    provider: str | None = Field(default=None, min_length=1, max_length=128)
    headers: dict[str, str] = Field(default={}, max_length=64)
    body: dict[str, Any] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        if (self.path is None) == (self.url is None) or (self.url is None) != (self.provider is None):
            raise ValueError(_NEEDS)
        return self

    @property
    def identity(self) -> Identity:
        return Identity(tenant=self.tenant, user=self.user)


class ExplainHandler:
    def __init__(self, runtime: CacheRuntime, resolve: Resolve | None) -> None:
        self._runtime = runtime
        self._resolve = resolve

    async def __call__(self, body: bytes) -> Reply:
        asked = parsed(ExplainRequest, body)
        given = {name.lower(): value for name, value in asked.headers.items()}
        provider, url, headers = self._place(asked, given)
        request = UpstreamRequest(
            url, asked.body, headers=headers, cache_control=given.get("cache-control", "")
        )
        return json_reply(await self._runtime.explain(request, provider=provider, identity=asked.identity))

    def _place(self, asked: ExplainRequest, given: Mapping[str, str]) -> tuple[str, str, Mapping[str, str]]:
        if asked.url is not None and asked.provider is not None:
            return asked.provider, asked.url, given
        if self._resolve is None:
            raise RefusedError(
                501,
                "This application does not say where it sends what: give url and provider, or runtime.endpoints(resolve=…).",
            )
        try:
            return self._resolve(asked.path or "", given)
        except KeyError:
            raise RefusedError(
                404, "This application caches no whole answers at that path; embeddings are kept one by one."
            ) from None
