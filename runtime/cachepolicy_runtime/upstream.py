"""The provider behind the reference Core: whole answers and streams over httpx."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import orjson

from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.secrets import WatchedFile, required_file

#: Seconds: a model may think for minutes before its first byte, a connection may not.
_TIMEOUT = httpx.Timeout(300.0, connect=5.0, pool=5.0)
_LIMITS = httpx.Limits(max_connections=1000, max_keepalive_connections=100)


class UpstreamError(Exception):
    """The provider gave no answer; ``status`` is what the caller gets. The message holds no URL and no key."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Stream:
    """A streaming answer; its bytes are passed on as they come. Close it, whatever happens."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response

    @property
    def content_type(self) -> str:
        return str(self._response.headers.get("content-type", "text/event-stream"))

    async def chunks(self) -> AsyncIterator[bytes]:
        async for chunk in self._response.aiter_bytes():
            yield chunk

    async def aclose(self) -> None:
        await self._response.aclose()


class Upstream:
    """An OpenAI-compatible provider. An asynchronous context: leaving it closes its connections."""

    def __init__(
        self, url: str, key: WatchedFile | None = None, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        """``url`` is the provider's base, with or without ``/v1`` at its end; ``transport`` is for tests."""
        self._base = _base(url)
        self._key = key
        self._client = httpx.AsyncClient(
            transport=transport,
            timeout=_TIMEOUT,
            limits=_LIMITS,
            headers={"accept-encoding": "identity", "user-agent": "cachepolicy-gateway"},
        )

    @classmethod
    def from_env(cls, environ: Mapping[str, str], transport: httpx.AsyncBaseTransport | None = None) -> Self:
        """CACHEPOLICY_UPSTREAM_URL and CACHEPOLICY_UPSTREAM_API_KEY_FILE; raises ``ValueError`` naming them."""
        path = environ.get("CACHEPOLICY_UPSTREAM_API_KEY_FILE")
        key = required_file("CACHEPOLICY_UPSTREAM_API_KEY_FILE", path) if path else None
        return cls(environ.get("CACHEPOLICY_UPSTREAM_URL", ""), key, transport)

    def url(self, path: str) -> str:
        """Where ``path`` (such as ``/v1/embeddings``) goes."""
        return self._base + path

    async def post(self, path: str, body: Mapping[str, Any]) -> Answer:
        """One whole answer, whatever its status; raises :class:`UpstreamError`."""
        response = await self._send(path, body, stream=False)
        return Answer(response.status_code, response.content, _kept(response))

    async def stream(self, path: str, body: Mapping[str, Any]) -> Answer | Stream:
        """An open stream, or the whole answer where the provider refused; raises :class:`UpstreamError`."""
        response = await self._send(path, body, stream=True)
        if response.status_code == httpx.codes.OK:
            return Stream(response)
        try:
            return Answer(response.status_code, await response.aread(), _kept(response))
        except httpx.HTTPError as error:
            raise _told(error) from None
        finally:
            await response.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def _send(self, path: str, body: Mapping[str, Any], *, stream: bool) -> httpx.Response:
        request = self._client.build_request(
            "POST", self.url(path), content=orjson.dumps(body), headers=self._headers()
        )
        try:
            response = await self._client.send(request, stream=stream)
        except httpx.HTTPError as error:
            raise _told(error) from None
        if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            await response.aclose()
            raise UpstreamError(502, "the provider refused this service's credential")
        return response

    def _headers(self) -> dict[str, str]:
        key = self._key.read() if self._key is not None else None
        login = {"authorization": f"Bearer {key.decode('latin-1')}"} if key else {}
        return {"content-type": "application/json", **login}


def _base(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or "@" in parts.netloc:
        raise ValueError(
            "CACHEPOLICY_UPSTREAM_URL must be the base URL of an OpenAI-compatible provider, such as "
            "https://api.openai.com/v1 (http or https, without a user, a password or a query)"
        )
    return url.rstrip("/").removesuffix("/v1")


def _kept(response: httpx.Response) -> dict[str, str]:
    """Headers that belong to the content; the others belong to the connection that it came by."""
    names = ("content-type", "retry-after")
    return {name: response.headers[name] for name in names if name in response.headers}


def _told(error: httpx.HTTPError) -> UpstreamError:
    if isinstance(error, httpx.TimeoutException):
        return UpstreamError(504, "the provider did not answer in time")
    return UpstreamError(502, "the provider cannot be reached")
