"""OpenAI's embeddings API, between a request, the provider and the embedding cache. No I/O of its own.

Azure, Mistral, Voyage, vLLM, Ollama and others speak the same: fields that only some of them know enter the key
as they are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from cachepolicy.identity import Identity
from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.embedding_keys import Inputs, NotCanonicalError, inputs_of
from cachepolicy_runtime.embeddings import Embedded, EmbeddingError, Embeddings, IndexedVector
from cachepolicy_runtime.keys import canonical_json

#: Fields that are in the key by themselves, or change no number.
_IN_KEY = frozenset({"input", "model", "dimensions", "encoding_format", "user"})
_ENCODINGS = ("float", "base64")

#: Sends a body to the provider and returns its whole answer.
Post = Callable[[Mapping[str, Any]], Awaitable[Answer]]


class ProviderRefusedError(Exception):
    """The provider answered a part of a batch with an error: that is the answer to the whole."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"status {answer.status}")
        self.answer = answer


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """A request whose embeddings may be cached.

    Attributes:
        inputs: texts, or lists of tokens.
        other: whatever else the provider is asked for, as canonical JSON; empty where it is nothing.
        encoded: the caller wants base64 instead of numbers.
    """

    body: Mapping[str, Any]
    model: str
    inputs: Inputs
    dimensions: int | None
    other: str
    encoded: bool

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> EmbeddingRequest | None:
        """None for what the cache cannot keep; such a request goes to the provider as it is."""
        model, dimensions = body.get("model"), body.get("dimensions")
        encoding = body.get("encoding_format") or "float"
        if not isinstance(model, str) or encoding not in _ENCODINGS or not _plain_floats(body):
            return None
        if dimensions is not None and (not isinstance(dimensions, int) or isinstance(dimensions, bool)):
            return None
        other = {name: value for name, value in body.items() if name not in _IN_KEY}
        given = body.get("input") or None  # nothing is for the provider to judge
        try:
            inputs, text = inputs_of(given), canonical_json(other).decode() if other else ""
        except (ValueError, NotCanonicalError):
            return None
        return cls(body, model, inputs, dimensions, text, encoding == "base64")

    async def answered(
        self, embeddings: Embeddings, post: Post, *, provider: str, identity: Identity | None
    ) -> tuple[Embedded, dict[str, Any]]:
        """The embeddings, and the body of the answer to the caller.

        Raises :class:`ProviderRefusedError` with the provider's own answer, and
        :class:`~cachepolicy_runtime.embeddings.EmbeddingError` where its vectors cannot be right.
        """
        call = _Call(self, post)
        embedded = await embeddings.get_or_embed(
            self.inputs,
            call,
            model=self.model,
            identity=identity,
            provider=provider,
            dimensions=self.dimensions,
            input_type=self.other or None,
        )
        return embedded, self._listing(embedded, call.prompt_tokens)

    def asking(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> dict[str, Any]:
        """The body that asks for these inputs alone. base64 is a quarter of the text to parse, but a provider
        that does not know the field would refuse it, so it is sent where the caller sent it.
        """
        encoding = {"encoding_format": "base64"} if "encoding_format" in self.body else {}
        return {**self.body, "input": list(inputs), **encoding}

    def _listing(self, embedded: Embedded, tokens: int) -> dict[str, Any]:
        """OpenAI's shape; the usage counts what the provider computed for this answer."""
        values: Sequence[Any] = embedded.base64 if self.encoded else embedded.vectors
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": value}
                for index, value in enumerate(values)
            ],
            "model": self.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }


class _Call:
    """Asks the provider for what the cache does not know, and counts what that cost."""

    def __init__(self, request: EmbeddingRequest, post: Post) -> None:
        self._request = request
        self._post = post
        self.prompt_tokens = 0

    async def __call__(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> Sequence[IndexedVector]:
        answer = await self._post(self._request.asking(inputs))
        if answer.status != 200:
            raise ProviderRefusedError(answer)
        try:
            body = orjson.loads(answer.body)
            vectors = [IndexedVector(int(item["index"]), item["embedding"]) for item in body["data"]]
            self.prompt_tokens += int((body.get("usage") or {}).get("prompt_tokens") or 0)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise EmbeddingError("the provider's answer is not a list of embeddings") from None
        return vectors


def _plain_floats(body: Mapping[str, Any]) -> bool:
    """Voyage and others also quantise; the cache keeps float vectors only."""
    return body.get("output_dtype") in (None, "float")
