"""How many tokens a request will cost, guessed before it is sent. Pure.

The guess is what a token limit sets aside until the answer tells the truth. It has to be cheap and rather high than
low: four bytes of UTF-8 are taken for a token (OpenAI's rule of thumb for English; code and other scripts need
fewer bytes of text for a token and are settled up), and the answer is taken to be as long as it may be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cachepolicy_runtime.usage import Usage

BYTES_PER_TOKEN = 4
#: Output of a request that sets no bound of its own. Most answers are shorter, and a longer one is settled up.
DEFAULT_OUTPUT = 1024
#: An image, a page or a sound that is sent inline: about what a large picture costs with OpenAI and Anthropic.
#: Its base64 would be taken for hundreds of times as much.
MEDIA_TOKENS = 1600

#: Fields of a request that the model reads.
_READ = (
    "messages",
    "system",
    "input",
    "instructions",
    "prompt",
    "suffix",
    "tools",
    "functions",
    "response_format",
    "text",
)
_BOUNDS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
#: JSON around one key or one element, and what providers add for each message.
_FRAME = 4
#: A base64 text of media is longer than this and has no space; nobody writes such words.
_MEDIA_BYTES = 1024


def estimate(body: Mapping[str, Any], *, generates: bool = True) -> Usage:
    """Tokens that the request in ``body`` will cost: all input as if nothing of it were cached, all output as
    far as its bound allows; ``generates`` is False for embeddings, which have no output."""
    read = sum(_size(body[name]) for name in _READ if name in body)
    return Usage(input=max(1, tokens_in(read)), output=_output(body) if generates else 0)


def tokens_in(size: int) -> int:
    """Tokens in ``size`` bytes of text, rounded up."""
    return -(-size // BYTES_PER_TOKEN)


def text_size(text: str) -> int:
    """Bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _output(body: Mapping[str, Any]) -> int:
    bound = next((body[name] for name in _BOUNDS if _positive(body.get(name))), DEFAULT_OUTPUT)
    choices = max(body[name] if _positive(body.get(name)) else 1 for name in ("n", "best_of"))
    return int(bound * choices)


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _size(value: Any) -> int:
    """Bytes of text in a JSON value, as its model reads it. Without recursion: bodies may be nested deeply."""
    size, left = 0, [value]
    while left:
        item = left.pop()
        if isinstance(item, str):
            size += MEDIA_TOKENS * BYTES_PER_TOKEN if _is_media(item) else text_size(item)
        elif isinstance(item, Mapping):
            size += sum(_FRAME + len(key) for key in item)
            left += item.values()
        elif isinstance(item, list):
            left += item
        else:
            size += BYTES_PER_TOKEN  # a number: in a list of tokens it is one
    return size


def _is_media(text: str) -> bool:
    """A data URL or bare base64, as image, document and audio parts hold it."""
    if len(text) <= _MEDIA_BYTES:
        return False
    head = text[:_MEDIA_BYTES]
    return head.isascii() and (head.startswith("data:") or not any(sign in head for sign in " \n\t"))
