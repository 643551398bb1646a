"""The providers behind the reference Core: whole answers and streams over httpx."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import httpx
import orjson

from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.keys import UpstreamRequest
from cachepolicy_runtime.secrets import WatchedFile, required_file

#: Seconds: a model may think for minutes before its first byte, a connection may not.
_TIMEOUT = httpx.Timeout(300.0, connect=5.0, pool=5.0)
_LIMITS = httpx.Limits(max_connections=1000, max_keepalive_connections=100)
#: Headers that belong to the content, or name the call for a question to the provider; the others belong to the
#: connection that the answer came by.
_KEPT = ("content-type", "retry-after", "request-id", "x-request-id")
#: Anthropic refuses a request without one.
ANTHROPIC_VERSION = "2023-06-01"

#: The headers that log in with a key.
Login = Callable[[str], Mapping[str, str]]


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
    def headers(self) -> Mapping[str, str]:
        return {"content-type": "text/event-stream", **_kept(self._response)}

    async def chunks(self) -> AsyncIterator[bytes]:
        """Raises :class:`UpstreamError` where the provider breaks off."""
        try:
            async for chunk in self._response.aiter_bytes():
                yield chunk
        except httpx.HTTPError as error:
            raise _told(error) from None

    async def aclose(self) -> None:
        await self._response.aclose()


class Upstream:
    """One provider. An asynchronous context: leaving it closes its connections.

    Attributes:
        provider: its name in the policy.
    """

    def __init__(
        self,
        provider: str,
        base: str,
        key: WatchedFile | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        login: Login | None = None,
    ) -> None:
        """``base`` is the provider's URL without ``/v1``; ``transport`` is for tests."""
        self.provider = provider
        self._base = base
        self._key = key
        self._login = login or _bearer
        self._client = httpx.AsyncClient(
            transport=transport,
            timeout=_TIMEOUT,
            limits=_LIMITS,
            headers={"accept-encoding": "identity", "user-agent": "cachepolicy-gateway"},
        )

    def url(self, path: str) -> str:
        """Where ``path`` (such as ``/v1/embeddings``) goes."""
        return self._base + path

    async def send(self, request: UpstreamRequest) -> Answer | Stream:
        """A stream where one is asked for and the provider agrees, else one whole answer, whatever its status.

        Raises :class:`UpstreamError`.
        """
        return await (self._stream(request) if request.streaming else self.post(request))

    async def post(self, request: UpstreamRequest) -> Answer:
        """One whole answer, whatever its status; raises :class:`UpstreamError`."""
        return _answer(await self._send(self._post_request(request), stream=False))

    async def get(self, path: str, headers: Mapping[str, str]) -> Answer:
        """As :meth:`post`, for what is only read."""
        asked = self._client.build_request("GET", self.url(path), headers=self._headers(headers))
        return _answer(await self._send(asked, stream=False))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def _stream(self, request: UpstreamRequest) -> Answer | Stream:
        response = await self._send(self._post_request(request), stream=True)
        if response.status_code == httpx.codes.OK:
            return Stream(response)
        try:
            await response.aread()
            return _answer(response)
        except httpx.HTTPError as error:
            raise _told(error) from None
        finally:
            await response.aclose()

    def _post_request(self, request: UpstreamRequest) -> httpx.Request:
        headers = {"content-type": "application/json", **self._headers(request.headers)}
        return self._client.build_request(
            "POST", request.url, content=orjson.dumps(request.body), headers=headers
        )

    async def _send(self, request: httpx.Request, *, stream: bool) -> httpx.Response:
        try:
            response = await self._client.send(request, stream=stream)
        except httpx.HTTPError as error:
            raise _told(error) from None
        if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            await response.aclose()
            raise UpstreamError(502, "the provider refused this service's credential")
        return response

    def _headers(self, forwarded: Mapping[str, str]) -> dict[str, str]:
        key = self._key.read() if self._key is not None else None
        return {**forwarded, **(self._login(key.decode("latin-1")) if key else {})}


def openai_from_env(
    environ: Mapping[str, str], transport: httpx.AsyncBaseTransport | None = None
) -> Upstream | None:
    """CACHEPOLICY_UPSTREAM_URL, CACHEPOLICY_UPSTREAM_API_KEY_FILE and CACHEPOLICY_PROVIDER; None without the first.

    Raises ``ValueError`` naming the variable that is wrong.
    """
    url = environ.get("CACHEPOLICY_UPSTREAM_URL")
    if not url:
        return None
    key = _key_file("CACHEPOLICY_UPSTREAM_API_KEY_FILE", environ)
    base = _base(
        "CACHEPOLICY_UPSTREAM_URL", url, "an OpenAI-compatible provider", "https://api.openai.com/v1"
    )
    return Upstream(environ.get("CACHEPOLICY_PROVIDER") or "openai", base, key, transport)


def anthropic_from_env(
    environ: Mapping[str, str], transport: httpx.AsyncBaseTransport | None = None
) -> Upstream | None:
    """CACHEPOLICY_ANTHROPIC_URL and CACHEPOLICY_ANTHROPIC_API_KEY_FILE; None without the first.

    Raises ``ValueError`` naming the variable that is wrong.
    """
    url = environ.get("CACHEPOLICY_ANTHROPIC_URL")
    if not url:
        return None
    key = _key_file("CACHEPOLICY_ANTHROPIC_API_KEY_FILE", environ)
    base = _base(
        "CACHEPOLICY_ANTHROPIC_URL", url, "a provider of Anthropic's API", "https://api.anthropic.com"
    )
    return Upstream("anthropic", base, key, transport, login=_x_api_key)


def _bearer(key: str) -> Mapping[str, str]:
    return {"authorization": f"Bearer {key}"}


def _x_api_key(key: str) -> Mapping[str, str]:
    return {"x-api-key": key}


def _key_file(variable: str, environ: Mapping[str, str]) -> WatchedFile | None:
    path = environ.get(variable)
    return required_file(variable, path) if path else None


def _base(variable: str, url: str, what: str, example: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or "@" in parts.netloc:
        raise ValueError(
            f"{variable} must be the base URL of {what}, such as {example} "
            "(http or https, without a user, a password or a query)"
        )
    return url.rstrip("/").removesuffix("/v1")


def _answer(response: httpx.Response) -> Answer:
    return Answer(response.status_code, response.content, _kept(response))


def _kept(response: httpx.Response) -> dict[str, str]:
    return {name: response.headers[name] for name in _KEPT if name in response.headers}


def _told(error: httpx.HTTPError) -> UpstreamError:
    if isinstance(error, httpx.TimeoutException):
        return UpstreamError(504, "the provider did not answer in time")
    if isinstance(error, httpx.ReadError | httpx.RemoteProtocolError):
        return UpstreamError(502, "the provider broke the connection off")
    return UpstreamError(502, "the provider cannot be reached")
