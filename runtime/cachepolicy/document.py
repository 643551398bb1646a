"""The policy document: the whole of what a Core process must know to enforce a CachePolicy.

The operator writes it as ``policy.json``; the runtime reads it. It holds effective values (every default filled
in) and never a secret. ``revision`` is a hash of the content, ``sequence`` the millisecond at which the content
last changed, strictly rising, so that of two copies the newer one is known.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from cachepolicy import capabilities
from cachepolicy.caches import EmbeddingCache
from cachepolicy.keys import KeyLayout
from cachepolicy.limits import RateLimit
from cachepolicy.names import Role
from cachepolicy.proxies import TrustedProxies
from cachepolicy.purge import Purge
from cachepolicy.response_cache import ResponseCache
from cachepolicy.schema import ApiModel, field_errors, strip_unknown
from cachepolicy.sessions import Sessions
from cachepolicy.spec import CachePolicySpec

CONTRACT_MAJOR = 1
CONTRACT_MINOR = 1
CONTRACT = f"{CONTRACT_MAJOR}.{CONTRACT_MINOR}"

_SCHEMES = ("redis://", "rediss://", "unix:///", "redis+sentinel://", "rediss+sentinel://")
_CLUSTER_SCHEMES = ("redis+cluster://", "rediss+cluster://")


class DocumentError(ValueError):
    """The document cannot be enforced; the message says what to change. The reader keeps its last good one."""


class UnsupportedDocumentError(DocumentError):
    """The document is sound, and a runtime of another version is needed to enforce it."""


class Endpoint(ApiModel):
    """Where one Redis server is: ``redis://host:port``, ``rediss://host:port`` (TLS) or ``unix:///path``; or whom to
    ask for it: ``redis+sentinel://host:port,host:port/name``, ``redis+cluster://host:port,host:port``."""

    url: str

    @field_validator("url")
    @classmethod
    def _known_scheme_no_secret(cls, value: str) -> str:
        if not value.startswith(_SCHEMES + _CLUSTER_SCHEMES):
            raise ValueError(f"must start with one of {', '.join(_SCHEMES + _CLUSTER_SCHEMES)}")
        if "@" in value:
            raise ValueError("must not hold a user or a password: they come from mounted files")
        return value


class DocumentRedis(ApiModel):
    """The servers that exist, and the prefix of all keys."""

    key_prefix: str
    state: Endpoint | None = None
    cache: Endpoint | None = None

    @field_validator("key_prefix")
    @classmethod
    def _prefix(cls, value: str) -> str:
        return KeyLayout(value).prefix

    @field_validator("state")
    @classmethod
    def _no_cluster(cls, value: Endpoint | None) -> Endpoint | None:
        if value is not None and value.url.startswith(_CLUSTER_SCHEMES):
            raise ValueError("must not be a Redis Cluster: sessions and limits have keys in several slots")
        return value

    def endpoint(self, role: Role) -> Endpoint | None:
        return self.state if role is Role.STATE else self.cache


class PolicyDocument(ApiModel):
    """One version of one policy, as the runtime enforces it."""

    contract: str
    policy: str = Field(description="namespace/name of the CachePolicy.")
    uid: str
    revision: str
    sequence: int = Field(ge=0)
    requires: tuple[str, ...] = ()
    redis: DocumentRedis
    trusted_proxies: TrustedProxies = ()
    sessions: Sessions | None = None
    rate_limits: dict[str, RateLimit] | None = None
    response_cache: ResponseCache | None = None
    embedding_cache: EmbeddingCache | None = None
    purge: Purge | None = None

    @model_validator(mode="after")
    def _has_a_section(self) -> Self:
        if not self.sections:
            raise ValueError(
                "at least one of sessions, rateLimits, responseCache and embeddingCache is required"
            )
        return self

    @property
    def sections(self) -> tuple[str, ...]:
        """The active sections, in the order of the spec."""
        present = {
            "sessions": self.sessions,
            "rateLimits": self.rate_limits,
            "responseCache": self.response_cache,
            "embeddingCache": self.embedding_cache,
        }
        return tuple(name for name, section in present.items() if section is not None)

    @property
    def keys(self) -> KeyLayout:
        return KeyLayout(self.redis.key_prefix)

    @property
    def control_role(self) -> Role:
        """The server of the control keys: state, else cache."""
        return Role.STATE if self.redis.state is not None else Role.CACHE

    def to_json(self) -> str:
        """The document as it is written: readable, stable, one line at the end."""
        return json.dumps(self.model_dump(mode="json", by_alias=True, exclude_none=True), indent=2) + "\n"


@dataclass(frozen=True)
class Reading:
    """A document that this reader can enforce, and the paths of optional fields that it does not know."""

    document: PolicyDocument
    ignored: tuple[str, ...]


def revision_of(content: Mapping[str, Any]) -> str:
    """First 16 hex digits of SHA-256 over the canonical JSON of everything but revision and sequence."""
    relevant = {key: value for key, value in content.items() if key not in ("revision", "sequence")}
    canonical = json.dumps(relevant, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def build_document(
    *,
    namespace: str,
    name: str,
    uid: str,
    spec: CachePolicySpec,
    endpoints: Mapping[Role, str],
    previous: PolicyDocument | None,
    now_ms: int,
) -> PolicyDocument:
    """The document of ``spec``. Its sequence stays while the content does and rises strictly when it changes.

    ``endpoints`` are URLs without credentials, one for each of ``spec.roles``. ``previous`` is the document
    that is out there now.
    """
    urls = {role: Endpoint(url=endpoints[role]) for role in spec.roles}
    draft = PolicyDocument(
        contract=CONTRACT,
        policy=f"{namespace}/{name}",
        uid=uid,
        revision="",
        sequence=0,
        requires=_requires(spec),
        redis=DocumentRedis(
            key_prefix=KeyLayout.of_policy(namespace, name).prefix,
            state=urls.get(Role.STATE),
            cache=urls.get(Role.CACHE),
        ),
        trusted_proxies=spec.core.trusted_proxies,
        sessions=spec.sessions,
        rate_limits=spec.rate_limits,
        response_cache=spec.response_cache,
        embedding_cache=spec.embedding_cache,
        purge=spec.purge,
    )
    revision = revision_of(draft.model_dump(mode="json", by_alias=True, exclude_none=True))
    return draft.model_copy(
        update={"revision": revision, "sequence": _next_sequence(revision, previous, now_ms)}
    )


def read_document(data: bytes, *, known: frozenset[str] = capabilities.ALL) -> Reading:
    """Read ``policy.json``; raises :class:`DocumentError` with what is wrong and what to do.

    Unknown optional fields are left out and named; another major contract, an unknown required capability and
    a document that is cut off or invalid are refused.
    """
    content = _json_object(data)
    _check_contract(content.get("contract"))
    _check_requires(content.get("requires", []), known)
    kept, ignored = strip_unknown(PolicyDocument, content)
    try:
        return Reading(PolicyDocument.model_validate(kept), ignored)
    except ValidationError as error:
        problems = "; ".join(str(problem) for problem in field_errors(error, root=""))
        raise DocumentError(f"policy.json is not valid: {problems}") from error


def _requires(spec: CachePolicySpec) -> tuple[str, ...]:
    """What each section asks of its reader; every section says it itself, in ``requires``."""
    limits = (spec.rate_limits or {}).values()
    sections = (spec.core, spec.sessions, *limits, spec.response_cache, spec.embedding_cache, spec.purge)
    needed = [name for section in sections if section is not None for name in section.requires]
    return tuple(dict.fromkeys(needed))


def _next_sequence(revision: str, previous: PolicyDocument | None, now_ms: int) -> int:
    if previous is None:
        return now_ms
    return previous.sequence if previous.revision == revision else max(now_ms, previous.sequence + 1)


def _json_object(data: bytes) -> dict[str, Any]:
    if not data.strip():
        raise DocumentError("policy.json is empty: it must hold a whole policy document")
    try:
        content = json.loads(data)
    except ValueError as error:
        raise DocumentError(
            f"policy.json is cut off or not JSON ({error}): write the whole document"
        ) from error
    if not isinstance(content, dict):
        raise DocumentError("policy.json must hold one JSON object")
    return content


def _check_contract(contract: Any) -> None:
    if contract is None:
        raise DocumentError("policy.json has no field contract: it is not a policy document")
    major = str(contract).partition(".")[0]
    if major != str(CONTRACT_MAJOR):
        raise UnsupportedDocumentError(
            f"policy.json follows contract {str(contract)[:20]!r} and this runtime reads {CONTRACT_MAJOR}.x: "
            "update the runtime in Core, or the operator, so that both follow one major contract"
        )


def _check_requires(required: Any, known: frozenset[str]) -> None:
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise DocumentError("policy.json: requires must be a list of names")
    lacking = capabilities.missing(required, known)
    if lacking:
        raise UnsupportedDocumentError(
            f"policy.json requires {', '.join(lacking)}, which this runtime lacks: update the runtime in Core"
        )
