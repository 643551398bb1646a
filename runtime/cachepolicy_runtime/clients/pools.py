"""The connections below a caching transport: direct, or through the proxies that the environment names.

A client of httpx that is given a transport no longer looks at ``HTTPS_PROXY`` and its like, so it is done here, by
the rules of Python's own ``urllib``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.request import getproxies, proxy_bypass

#: What the SDKs of OpenAI and Anthropic set for themselves.
_MAX_CONNECTIONS, _MAX_IDLE = 1000, 100
#: Options of a client that are about its connections.
_OPTIONS = ("verify", "cert", "http1", "http2", "limits", "trust_env")


def pool(library: Any, options: dict[str, Any]) -> Any:
    """A transport of ``library`` (httpx or httpx2) for a client with these options, which it takes out of them."""
    own = {name: options.pop(name) for name in _OPTIONS if name in options}
    options["trust_env"] = trusted = own.get("trust_env", True)
    own.setdefault(
        "limits", library.Limits(max_connections=_MAX_CONNECTIONS, max_keepalive_connections=_MAX_IDLE)
    )
    proxy = options.pop("proxy", None)
    if proxy is not None or not trusted:
        return library.AsyncHTTPTransport(proxy=proxy, **own)
    proxies = {scheme: url for scheme, url in getproxies().items() if scheme in ("http", "https", "all")}
    direct = library.AsyncHTTPTransport(**own)
    if not proxies:
        return direct
    return ProxiedPool(
        direct,
        {scheme: library.AsyncHTTPTransport(proxy=_url(url), **own) for scheme, url in proxies.items()},
    )


class ProxiedPool:
    """Sends each request through the proxy of its scheme, unless ``NO_PROXY`` names its host."""

    def __init__(self, direct: Any, proxied: Mapping[str, Any]) -> None:
        self._direct = direct
        self._proxied = proxied
        self._bypassed: dict[str, bool] = {}

    async def handle_async_request(self, request: Any) -> Any:
        return await self._chosen(request.url.scheme, request.url.host).handle_async_request(request)

    async def aclose(self) -> None:
        await asyncio.gather(*(pool.aclose() for pool in (self._direct, *self._proxied.values())))

    def _chosen(self, scheme: str, host: str) -> Any:
        """The hosts are those of providers: few, and chosen by the application."""
        if host not in self._bypassed:
            self._bypassed[host] = bool(proxy_bypass(host))
        if self._bypassed[host]:
            return self._direct
        return self._proxied.get(scheme) or self._proxied.get("all") or self._direct


def _url(proxy: str) -> str:
    return proxy if "://" in proxy else f"http://{proxy}"
