"""The layout of everything in Redis.

``P`` is the prefix, ``<namespace>/<name>`` of the policy. Every part that comes from outside is
percent-encoded (RFC 3986, only unreserved characters stay), so that no tenant can break out of a hash tag,
a pattern of an ACL or another tenant's keys; an empty part is refused.

====================================  ======  =========================================================
key                                   type    content
====================================  ======  =========================================================
``P:s:<id hash>``                     hash    one session
``P:su:<tenant>/<user>``              zset    keys of a user's sessions, scored by their last end
``P:w:<limit>:<window ms>:<by>``      string  the sub-buckets of one window of one limit
``P:g:<limit>:<window ms>:<by>``      list    the log of one window of one limit
``P:p:<limit>:<by>``                  zset    the requests under way that one limit knows
``P:c:{<scope>}:r:<provider>:<d>``    string  one cached response
``P:c:{<scope>}:r:…:<d>:<stamp>``     string  lease: which replica asks the provider for that response, for seconds
``P:c:{<scope>}:e:<model>:<d>``       string  one cached embedding
``P:c:{<scope>}:i:<provider>:<name>``  set     names of values that can be listed
``P:released``                        channel name of a lease that was given back, on the cache server
``P:ack``                             zset    member → server time (ms) of its last acknowledgement
``P:ack:<member>``                    string  its acknowledgement, JSON, for 10 s
``P:stamps``                          hash    purge stamps
``P:epoch``                           string  made once by whoever finds it missing: tells a lost store
``cpctl:P:policy``                    string  the policy document; Core reads and cannot write it
``P:wake``                            channel empty message: look at the document and the stamps now
====================================  ======  =========================================================

The last six are control keys: on the state server, else on the cache server. Only they have no TTL
(acknowledgements expire).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote

from cachepolicy.identity import Identity

PREFIX_PATTERN = r"^[a-z0-9][a-z0-9./:-]{0,127}$"
#: The scope tag of what all tenants share. ``@`` is never left in an encoded part.
GLOBAL_SCOPE = "@"
SLOTS = 16384


@lru_cache(maxsize=4096)
def encode(part: str) -> str:
    """``part`` as one unambiguous piece of a key; raises ``ValueError`` when it is empty."""
    if not part:
        raise ValueError("a part of a Redis key must not be empty")
    return quote(part, safe="", errors="surrogatepass")


def tenant_scope(tenant: str) -> str:
    """The hash tag of everything cached for one tenant."""
    return encode(tenant)


def user_scope(tenant: str, user: str) -> str:
    """The hash tag of what is cached for one user alone. ``/`` is never left in an encoded part."""
    return f"{encode(tenant)}/{encode(user)}"


def by_value(kind: str, value: str) -> str:
    """One pair of a limit's key, such as ``tenant=acme``."""
    return f"{kind.lower()}={encode(value)}"


@dataclass(frozen=True)
class KeyLayout:
    """Key names below one prefix."""

    prefix: str

    def __post_init__(self) -> None:
        if not re.fullmatch(PREFIX_PATTERN, self.prefix):
            raise ValueError(
                f"key prefix {self.prefix!r} must start with a lower-case letter or digit and hold only "
                "lower-case letters, digits and . / : -"
            )

    @classmethod
    def of_policy(cls, namespace: str, name: str) -> KeyLayout:
        return cls(f"{namespace}/{name}")

    def session(self, id_hash: str) -> str:
        return f"{self.prefix}:s:{encode(id_hash)}"

    def user_sessions(self, identity: Identity) -> str:
        """The index of a user's sessions; raises ``ValueError`` where the identity has no user."""
        return f"{self.prefix}:su:{encode(identity.tenant)}/{encode(identity.user or '')}"

    def limit(self, name: str, window_ms: int, by: Iterable[str]) -> str:
        """One window of one limit; ``by`` are pairs made by :func:`by_value`, in the limit's order."""
        return f"{self.prefix}:w:{encode(name)}:{window_ms}:{'&'.join(by)}"

    def limit_log(self, name: str, window_ms: int, by: Iterable[str]) -> str:
        """The same for a window that remembers every request."""
        return f"{self.prefix}:g:{encode(name)}:{window_ms}:{'&'.join(by)}"

    def limit_leases(self, name: str, by: Iterable[str]) -> str:
        """The requests that are under way, of a limit of concurrency."""
        return f"{self.prefix}:p:{encode(name)}:{'&'.join(by)}"

    def response(self, scope: str, provider: str, digest: str) -> str:
        return f"{self.prefix}:c:{{{scope}}}:r:{encode(provider)}:{digest}"

    def embedding(self, scope: str, model: str, digest: str) -> str:
        return f"{self.prefix}:c:{{{scope}}}:e:{encode(model)}:{digest}"

    def index(self, scope: str, provider: str, name: str) -> str:
        """The names of values that were stored under one name, for listing them."""
        return f"{self.prefix}:c:{{{scope}}}:i:{encode(provider)}:{encode(name)}"

    @property
    def acknowledgements(self) -> str:
        return f"{self.prefix}:ack"

    def acknowledgement(self, member: str) -> str:
        return f"{self.prefix}:ack:{member}"

    @property
    def stamps(self) -> str:
        return f"{self.prefix}:stamps"

    @property
    def epoch(self) -> str:
        return f"{self.prefix}:epoch"

    @property
    def document(self) -> str:
        return f"cpctl:{self.prefix}:policy"

    @property
    def wake_channel(self) -> str:
        return f"{self.prefix}:wake"

    @property
    def released_channel(self) -> str:
        return f"{self.prefix}:released"


def slot(key: str) -> int:
    """The Redis Cluster slot of ``key`` (CRC16-XMODEM of its hash tag, Redis Cluster specification)."""
    start = key.find("{")
    if start >= 0:
        end = key.find("}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    crc = 0
    for byte in key.encode():
        crc ^= byte << 8
        for _ in range(8):
            crc = ((crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc % SLOTS
