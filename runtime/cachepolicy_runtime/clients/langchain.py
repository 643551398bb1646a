"""LangChain: a cache for its models, and its embeddings through the embedding cache.

::

    set_llm_cache(RuntimeCache(runtime))
    embeddings = CachedEmbeddings(runtime, OpenAIEmbeddings(model="text-embedding-3-small"), model="text-embedding-3-small")

Both work for whoever the running code works for, or always for ``identity``; for nobody nothing is cached. Their
synchronous methods are for threads: the event loop of the runtime's lifespan does the work.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from cachepolicy.identity import Identity
from cachepolicy.response_cache import Cacheable, ToolCalls
from cachepolicy.stamps import Scope
from cachepolicy_runtime.clients.langchain_json import decoded, encoded
from cachepolicy_runtime.clients.missing import needs
from cachepolicy_runtime.embeddings import IndexedVector
from cachepolicy_runtime.response_lookup import Trip
from cachepolicy_runtime.response_places import KIND
from cachepolicy_runtime.values import MAX_NAME, ValueName

with needs("langchain_core", "cachepolicy[langchain]"):
    from langchain_core.caches import BaseCache
    from langchain_core.embeddings import Embeddings
    from langchain_core.outputs import ChatGeneration, Generation

if TYPE_CHECKING:
    from cachepolicy_runtime.runtime import CacheRuntime

#: What a policy and a purge call these entries by.
PROVIDER = "langchain"
#: Lookups that missed and whose model has not answered yet.
_MAX_OPEN = 4096

_MODEL = re.compile(r'"model(?:_name|_id)?": "([^"]+)"|\(\'model(?:_name)?\', \'([^\']+)\'\)')


class RuntimeCache(BaseCache):
    """Answers of LangChain's models in the response cache, under the provider ``langchain``.

    What the policy says of answers holds for them: complete ones only, no credentials, tool calls where it allows
    them. :meth:`clear` empties the caller's tenant, and without a caller all of LangChain's entries.
    """

    def __init__(self, runtime: CacheRuntime, *, identity: Identity | None = None) -> None:
        self._runtime = runtime
        self._identity = identity
        self._values = runtime.responses.values
        self._open: OrderedDict[str, Trip] = OrderedDict()

    async def alookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        trip = self._values.trip(_name(prompt, llm_string), await self._caller())
        if trip is None:
            return None
        payload = await self._values.look(trip)
        found = decoded(payload) if payload is not None else None
        if found is None:
            self._remember(trip)
        return found

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        trip = self._values.trip(_name(prompt, llm_string), await self._caller())
        if trip is None:
            return
        # What was purged since the model was asked must not come back with its answer.
        trip = self._open.pop(trip.place.name, trip)
        payload = encoded(return_val)
        if payload is not None and _complete(return_val, trip.place.rules.cacheable):
            await self._values.keep(trip, payload)

    async def aclear(self, **kwargs: Any) -> None:
        """Raises :class:`~cachepolicy_runtime.store.errors.StoreUnavailable`; nothing was cleared then."""
        who = await self._caller()
        await self._runtime.clear(Scope(KIND, who.tenant if who is not None else None, PROVIDER))

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        return self._runtime.bridge.run(lambda: self.alookup(prompt, llm_string))

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        self._runtime.bridge.run(lambda: self.aupdate(prompt, llm_string, return_val))

    def clear(self, **kwargs: Any) -> None:
        self._runtime.bridge.run(lambda: self.aclear(**kwargs))

    async def _caller(self) -> Identity | None:
        return self._identity or await self._runtime.caller()

    def _remember(self, trip: Trip) -> None:
        self._open.setdefault(trip.place.name, trip)
        if len(self._open) > _MAX_OPEN:
            self._open.popitem(last=False)


class CachedEmbeddings(Embeddings):
    """``inner`` behind the embedding cache: each text is embedded once, and a batch only by what is missing.

    ``model``, and ``provider`` where two have a model of one name, are what the policy and the key know it by;
    ``dimensions`` where the model is asked for a number of them. Documents and queries are kept apart, for many
    models embed them differently.
    """

    def __init__(
        self,
        runtime: CacheRuntime,
        inner: Embeddings,
        *,
        model: str,
        provider: str | None = None,
        dimensions: int | None = None,
        identity: Identity | None = None,
    ) -> None:
        self._runtime = runtime
        self._inner = inner
        self._embeddings = runtime.embeddings
        self._identity = identity
        self._model, self._provider, self._dimensions = model, provider, dimensions

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        return await self._embedded(texts, self._inner.aembed_documents, "document")

    async def aembed_query(self, text: str) -> list[float]:
        async def embed(texts: list[str]) -> list[list[float]]:
            return [await self._inner.aembed_query(text) for text in texts]

        return (await self._embedded([text], embed, "query"))[0]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._runtime.bridge.run_with(
            lambda embed: self._embedded(texts, embed, "document"), self._inner.embed_documents
        )

    def embed_query(self, text: str) -> list[float]:
        def embed_all(texts: list[str]) -> list[list[float]]:
            return [self._inner.embed_query(text) for text in texts]

        found = self._runtime.bridge.run_with(lambda embed: self._embedded([text], embed, "query"), embed_all)
        return found[0]

    async def _embedded(
        self, texts: list[str], embed: Callable[[list[str]], Awaitable[list[list[float]]]], input_type: str
    ) -> list[list[float]]:
        async def numbered(missing: list[Any]) -> list[IndexedVector]:
            return [IndexedVector(index, values) for index, values in enumerate(await embed(missing))]

        who = self._identity or await self._runtime.caller()
        embedded = await self._embeddings.get_or_embed(
            texts,
            numbered,
            model=self._model,
            identity=who,
            provider=self._provider,
            dimensions=self._dimensions,
            input_type=f"{PROVIDER}:{input_type}",
        )
        return embedded.vectors


def _name(prompt: str, llm_string: str) -> ValueName:
    """The model's name is looked for in LangChain's description of it, so that a policy can name it."""
    found = _MODEL.search(llm_string)
    model = (found[1] or found[2])[:MAX_NAME] if found else "unnamed"
    return ValueName(PROVIDER, model, [prompt, llm_string])


def _complete(generations: Sequence[Generation], rules: Cacheable) -> bool:
    """Whether answers may be kept, as far as LangChain tells: a reason that it does not give counts as good."""
    return bool(generations) and all(_whole(generation, rules) for generation in generations)


def _whole(generation: Generation, rules: Cacheable) -> bool:
    told = dict(generation.generation_info or {})
    tools: Sequence[Any] = ()
    if isinstance(generation, ChatGeneration):
        told |= generation.message.response_metadata
        tools = getattr(generation.message, "tool_calls", ())
    reason = told.get("finish_reason") or told.get("stop_reason")
    if tools:
        return rules.tool_calls is ToolCalls.ALLOW
    return bool(generation.text.strip()) and (reason is None or reason in rules.finish_reasons)
