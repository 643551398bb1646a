"""``/v1/embeddings``."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from fastapi import Request, Response

from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.caching import CACHE_NAME
from cachepolicy_runtime.embeddings import Embedded, EmbeddingError, IndexedVector
from cachepolicy_runtime.gateway.asking import caller, json_object, named_model
from cachepolicy_runtime.gateway.responding import json_response, outcome_response
from cachepolicy_runtime.keys import NotCanonicalError, UpstreamRequest, canonical_json
from cachepolicy_runtime.responses import Outcome
from cachepolicy_runtime.runtime import CacheRuntime
from cachepolicy_runtime.upstream import Upstream

EMBEDDINGS = "/v1/embeddings"

#: Fields of an embeddings request that are in the key by themselves, or change no number.
_IN_KEY = frozenset({"input", "model", "dimensions", "encoding_format", "user"})


class _ProviderRefusedError(Exception):
    """The provider answered a part of a batch with an error: that is the answer to the whole."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"status {answer.status}")
        self.answer = answer


class EmbeddingRoute:
    def __init__(self, runtime: CacheRuntime, upstream: Upstream) -> None:
        self._runtime = runtime
        self._embeddings = runtime.embeddings
        self._upstream = upstream

    async def answer(self, request: Request) -> Response:
        who, body = await caller(self._runtime, request), await json_object(request)
        model, texts = named_model(body), _texts(body.get("input"))
        other = _other_settings(body)
        if texts is None or other is None:
            answer = await self._upstream.post(UpstreamRequest(self._upstream.url(EMBEDDINGS), body))
            return outcome_response(Outcome(answer, False, f"{CACHE_NAME}; fwd=bypass; detail=input"))
        call = _EmbedCall(self._upstream, body)
        try:
            embedded = await self._embeddings.get_or_embed(
                texts,
                call,
                model=model,
                identity=who,
                provider=self._upstream.provider,
                dimensions=body.get("dimensions"),
                input_type=other or None,
            )
        except _ProviderRefusedError as error:
            return outcome_response(Outcome(error.answer, False, f"{CACHE_NAME}; fwd=miss"))
        content = _embedding_list(
            embedded, model, call.prompt_tokens, body.get("encoding_format") == "base64"
        )
        return json_response(content, headers={"Cache-Status": embedded.cache_status})


class _EmbedCall:
    """Asks the provider for the texts that the cache does not know, and counts what they cost."""

    def __init__(self, upstream: Upstream, body: Mapping[str, Any]) -> None:
        self._upstream = upstream
        self._body = body
        self.prompt_tokens = 0

    async def __call__(self, texts: list[str]) -> Sequence[IndexedVector]:
        body = {**self._body, "input": texts, "encoding_format": "float"}
        answer = await self._upstream.post(UpstreamRequest(self._upstream.url(EMBEDDINGS), body))
        if answer.status != 200:
            raise _ProviderRefusedError(answer)
        try:
            told = orjson.loads(answer.body)
            vectors = [IndexedVector(int(item["index"]), item["embedding"]) for item in told["data"]]
            self.prompt_tokens += int((told.get("usage") or {}).get("prompt_tokens") or 0)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise EmbeddingError("the provider's answer is not a list of embeddings") from None
        return vectors


def _texts(value: Any) -> list[str] | None:
    """The texts of an embeddings request; None for token lists, which are passed on as they are."""
    texts = [value] if isinstance(value, str) else value
    known = isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)
    return texts if known else None


def _other_settings(body: Mapping[str, Any]) -> str | None:
    """Whatever else the provider is asked for, as text for the key; None where it cannot be in a key."""
    dimensions = body.get("dimensions")
    if dimensions is not None and (not isinstance(dimensions, int) or isinstance(dimensions, bool)):
        return None
    other = {name: value for name, value in body.items() if name not in _IN_KEY}
    try:
        return canonical_json(other).decode() if other else ""
    except NotCanonicalError:
        return None


def _embedding_list(embedded: Embedded, model: str, tokens: int, encoded: bool) -> dict[str, Any]:
    """OpenAI's shape; the usage counts what the provider computed for this answer."""
    values: list[Any] = (
        [base64.b64encode(blob).decode() for blob in embedded.blobs] if encoded else embedded.vectors
    )
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": value} for index, value in enumerate(values)
        ],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
