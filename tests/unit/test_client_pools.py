"""The connections below a client: through the proxies that the environment names, as without us."""

from __future__ import annotations

from typing import Any

import httpx
import httpx2
import pytest

from cachepolicy_runtime.clients.pools import ProxiedPool, pool


class Named(httpx2.AsyncBaseTransport):
    """Answers with its name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.closed = False

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, text=self._name)

    async def aclose(self) -> None:
        self.closed = True


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("url", "way"),
    [
        ("https://api.openai.com/v1/models", "for https"),
        ("http://api.openai.com/v1/models", "for all"),
        ("https://vllm.internal/v1/models", "direct"),
        ("http://a.vllm.internal/v1/models", "direct"),
        ("https://10.1.2.3/v1/models", "direct"),
    ],
)
async def test_each_request_takes_the_proxy_of_its_scheme_unless_its_host_is_excepted(
    environment: pytest.MonkeyPatch, url: str, way: str
) -> None:
    environment.setenv("NO_PROXY", "localhost,vllm.internal,10.1.2.3")
    ways = {"https": Named("for https"), "all": Named("for all")}
    direct = Named("direct")
    chosen = ProxiedPool(direct, ways)
    response = await chosen.handle_async_request(httpx2.Request("GET", url))
    assert response.text == way
    await chosen.aclose()
    assert all(transport.closed for transport in (direct, *ways.values()))


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_the_environments_proxies_are_taken_where_nothing_else_is_said(
    environment: pytest.MonkeyPatch, library: Any
) -> None:
    direct = pool(library, {})
    environment.setenv("HTTPS_PROXY", "proxy.internal:3128")
    proxied = pool(library, {})
    untrusting = {"trust_env": False, "timeout": 5}
    given = {"proxy": "http://other:3128", "verify": False}
    others = [pool(library, untrusting), pool(library, given)]
    assert isinstance(proxied, ProxiedPool)
    assert all(isinstance(found, library.AsyncHTTPTransport) for found in (direct, *others))
    assert untrusting == {"trust_env": False, "timeout": 5}
    assert given == {"trust_env": True}
    for found in (direct, proxied, *others):
        await found.aclose()
