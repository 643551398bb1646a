"""What was asked lately and not found, as digests: enough to tell in what a request differs from its like.

Of a request only paths of its fields and keyed digests of their values are kept, in this process alone and under a
key that ends with it. No text of a prompt can be read from them, nor guesses of one tested by anybody else.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from cachepolicy_runtime.keys import (
    IGNORED_FIELDS,
    LISTED_HEADERS,
    NotCanonicalError,
    UpstreamRequest,
    canonical_json,
    upstream_place,
)

#: Requests remembered for one tenant and provider, and in all.
PER_OWNER, IN_ALL = 32, 512
#: Fields of one request; a longer conversation is compared by its first messages.
MAX_FIELDS = 128
_MAX_NAME = 64
_MAX_TOLD = 32


@dataclass(frozen=True, slots=True)
class Seen:
    """One request: path of a field → digest of its value, and when it was asked (monotonic seconds)."""

    fields: Mapping[str, bytes]
    at_s: float


@dataclass(frozen=True, slots=True)
class Nearest:
    """The most similar request that was seen.

    Attributes:
        same: fields that are alike.
        differs: path → ``changed``, ``added`` (only the new request has it) or ``missing``.
    """

    age_s: float
    same: int
    differs: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        told = dict(islice(self.differs.items(), _MAX_TOLD))
        return {
            "ageSeconds": round(self.age_s),
            "same": self.same,
            "different": len(self.differs),
            "differs": told,
        }


class RecentKeys:
    """Bounded in requests and fields; the tenant asked for longest ago is forgotten first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._owners: OrderedDict[tuple[str, str], deque[Seen]] = OrderedDict()
        self._count = 0

    def remember(self, tenant: str, provider: str, request: UpstreamRequest) -> None:
        """A look that found nothing. Costs some 50 µs, beside a call to a provider."""
        owner = self._owners.setdefault((tenant, provider), deque(maxlen=PER_OWNER))
        self._owners.move_to_end((tenant, provider))
        self._count += len(owner) < PER_OWNER
        owner.append(Seen(self.fields(request), self._clock()))
        while self._count > IN_ALL:
            _, forgotten = self._owners.popitem(last=False)
            self._count -= len(forgotten)

    def nearest(self, tenant: str, provider: str, request: UpstreamRequest) -> Nearest | None:
        """The request of this tenant to this provider that has most fields in common, of equals the latest."""
        asked = self.fields(request)
        best: Nearest | None = None
        for seen in self._owners.get((tenant, provider), ()):
            found = _compare(asked, seen, self._clock())
            if best is None or found.same - len(found.differs) >= best.same - len(best.differs):
                best = found
        return best

    def fields(self, request: UpstreamRequest) -> dict[str, bytes]:
        """The parts of a request that its key is made of."""
        return {path: self._digest(value) for path, value in islice(_parts(request), MAX_FIELDS)}

    def _digest(self, value: Any) -> bytes:
        try:
            text = canonical_json(value)
        except NotCanonicalError:
            text = b"not canonical"
        return hashlib.blake2b(text, key=self._key, digest_size=8).digest()


def _parts(request: UpstreamRequest) -> Iterator[tuple[str, Any]]:
    yield "url", upstream_place(request.url)
    headers = {name.lower(): value.strip() for name, value in request.headers.items()}
    for name in LISTED_HEADERS:
        if name in headers:
            yield f"headers.{name}", headers[name]
    for key, value in request.body.items():
        if key not in IGNORED_FIELDS and not (key == "stream" and not value):
            yield from _below(str(key)[:_MAX_NAME], value, depth=2)


def _below(path: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """``messages[0].content`` for what is nested so; deeper values are one."""
    if depth and value and isinstance(value, list):
        for index, item in enumerate(value):
            yield from _below(f"{path}[{index}]", item, depth - 1)
    elif depth < 2 and value and isinstance(value, Mapping):
        for key, item in value.items():
            yield f"{path}.{str(key)[:_MAX_NAME]}", item
    else:
        yield path, value


def _compare(asked: Mapping[str, bytes], seen: Seen, now_s: float) -> Nearest:
    differs = {
        path: "changed" if path in asked and path in seen.fields else "added" if path in asked else "missing"
        for path in (*asked, *(path for path in seen.fields if path not in asked))
        if asked.get(path) != seen.fields.get(path)
    }
    same = sum(1 for path in asked if path not in differs)
    return Nearest(now_s - seen.at_s, same, differs)
