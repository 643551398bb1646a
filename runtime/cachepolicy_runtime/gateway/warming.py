"""What the endpoints ``/cache/warm`` and ``/cache/explain`` need to know of the gateway's routes."""

from __future__ import annotations

from collections.abc import Mapping

from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.asgi.endpoints import WarmRefusedError, WarmRequest
from cachepolicy_runtime.caller import acting_as
from cachepolicy_runtime.gateway.asking import Asked, forwarded
from cachepolicy_runtime.gateway.embeddings import EmbeddingRoute
from cachepolicy_runtime.gateway.generation import Generation
from cachepolicy_runtime.responses import Outcome

#: What answers a path out of a cache.
CachedRoute = Generation | EmbeddingRoute


class Warming:
    """The cached routes by their paths."""

    def __init__(self, routes: Mapping[str, CachedRoute]) -> None:
        self._routes = routes

    async def warm(self, request: WarmRequest) -> str:
        """Ask as ``request.identity`` would; the value of ``Cache-Status``. It spends that identity's tokens.

        Raises :class:`WarmRefusedError` for what is not cached, and what the route raises.
        """
        route = self._routes.get(request.path)
        if route is None:
            raise WarmRefusedError(f"nothing is cached here but {', '.join(self._routes)}")
        if request.body.get("stream"):
            raise WarmRefusedError("a stream is not cached: leave stream out")
        if not isinstance(request.body.get("model"), str):
            raise WarmRefusedError("the body must name a model")
        with acting_as(request.identity):
            found = await route.outcome(Asked(request.identity, request.body))
        if not isinstance(found, Outcome):
            return found[1]
        if isinstance(found.answer, Answer) and found.answer.status != 200:
            raise WarmRefusedError(f"the provider answered with status {found.answer.status}")
        return found.cache_status

    def resolve(self, path: str, headers: Mapping[str, str]) -> tuple[str, str, Mapping[str, str]]:
        """The provider's name, and the URL and headers that a request to ``path`` goes out with; ``KeyError`` where
        no whole answer is cached: embeddings are kept one by one."""
        route = self._routes[path]
        if isinstance(route, EmbeddingRoute):
            raise KeyError(path)
        upstream = route.upstream
        return upstream.provider, upstream.url(path), forwarded(upstream, headers)
