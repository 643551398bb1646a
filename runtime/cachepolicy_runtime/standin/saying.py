"""What the stand-in says to a request, whichever API it came by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from cachepolicy_runtime.standin.knobs import BadRequestError, Knobs

#: Every answer has this time in it: the same request gives the same bytes.
CREATED = 1_767_225_600

_REPLY = "This is a stand-in for a language model. It read {words} words and would say something helpful about {topic} now."
_BOUNDS = ("max_completion_tokens", "max_tokens", "max_output_tokens")


@dataclass(frozen=True, slots=True)
class Said:
    """An answer before it has the shape of an API.

    Attributes:
        model: as asked for.
        digest: the same for the same request.
        words: the text, one word each; a word is a token.
        cut: ended by the bound of the request.
        tool: the tool that is called instead of an answer, with ``arguments`` as JSON.
        read: input tokens, of which ``cached`` came from the prompt cache.
        told: whether the usage is told.
    """

    model: str
    digest: str
    words: tuple[str, ...]
    cut: bool
    tool: str | None
    read: int
    cached: int
    told: bool

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def pieces(self) -> Iterator[str]:
        """The text as a stream brings it: each word with the space before it."""
        return (f" {word}" if number else word for number, word in enumerate(self.words))

    @property
    def arguments(self) -> str:
        return '{"place": "here"}'


def say(body: Mapping[str, Any], texts: Sequence[str], knobs: Knobs) -> Said:
    """The answer to a request whose messages are ``texts``; it depends on nothing else."""
    if not texts:
        raise BadRequestError("there is nothing to answer: give at least one message")
    topic = " ".join(texts[-1].split()[:6])
    words = _REPLY.format(words=sum(len(text.split()) for text in texts), topic=repr(topic)).split(" ")
    bound = next((body[name] for name in _BOUNDS if isinstance(body.get(name), int)), len(words))
    read = sum(len(text.split()) for text in texts) + len(texts)
    return Said(
        model=str(body["model"]),
        digest=hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()[:24],
        words=tuple(words[:bound]),
        cut=bound < len(words),
        tool=knobs.tool,
        read=read,
        cached=min(knobs.cached, read),
        told=knobs.usage,
    )


def texts_of(messages: Any, field: str) -> list[str]:
    """The texts of a list of messages; ``field`` names it where it is none."""
    if not isinstance(messages, list) or not messages:
        raise BadRequestError(f"{field} must be a list with at least one message")
    return [text_of(message.get("content")) for message in messages if isinstance(message, dict)]


def text_of(content: Any) -> str:
    """A message's text: as it is, or out of the parts of all APIs."""
    if isinstance(content, list):
        return " ".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return str(content or "")
