"""``spec.purge``: emptying scopes of the caches by changing a value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, StringConstraints

from cachepolicy import capabilities
from cachepolicy.schema import ApiModel
from cachepolicy.stamps import Scope

Stamp = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Tag = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class PurgeKinds(ApiModel):
    """One value for each of the two caches."""

    responses: Stamp | None = Field(default=None, description="The response cache.")
    embeddings: Stamp | None = Field(default=None, description="The embedding cache.")


class Purge(ApiModel):
    """Opaque values: changing one empties that scope of the caches at once. Sessions and limits stay."""

    all: Stamp | None = Field(default=None, description="Everything cached under this policy.")
    kinds: PurgeKinds = Field(default=PurgeKinds(), description="By cache.")
    tenants: dict[Name, Stamp] = Field(default={}, max_length=64, description="By tenant.")
    providers: dict[Name, Stamp] = Field(default={}, max_length=16, description="By provider.")
    models: dict[Name, Stamp] = Field(default={}, max_length=64, description="By model, of any provider.")
    tags: dict[Tag, Stamp] = Field(default={}, max_length=64, description="By tag of an entry.")

    @property
    def requires(self) -> tuple[str, ...]:
        """The capabilities without which a reader would enforce this wrongly."""
        narrower = any(scope != Scope() and scope.provider is None for scope, _ in self.values())
        return (capabilities.PURGE, *((capabilities.PURGE_SCOPES,) if narrower else ()))

    def values(self) -> Iterator[tuple[Scope, str]]:
        """Every scope that has a value."""
        if self.all is not None:
            yield Scope(), self.all
        for kind, value in (("responses", self.kinds.responses), ("embeddings", self.kinds.embeddings)):
            if value is not None:
                yield Scope(kind=kind), value
        for tenant, value in self.tenants.items():
            yield Scope(tenant=tenant), value
        for provider, value in self.providers.items():
            yield Scope(provider=provider), value
        for model, value in self.models.items():
            yield Scope(model=model), value
        for tag, value in self.tags.items():
            yield Scope(tags=(tag,)), value


def declared(purge: Purge | None) -> dict[str, str]:
    """The values as stamps: the field of each scope and its value."""
    return {} if purge is None else {scope.stamp_field: value for scope, value in purge.values()}


def changed(before: Purge | None, after: Purge | None) -> tuple[str, ...]:
    """The fields of the scopes whose value differs, came or went.

    Their stamps in Redis are renewed as well. The values alone would not do: one that goes back to what it was
    before would bring back what was stored then.
    """
    old, new = declared(before), declared(after)
    return tuple(sorted(field for field in old.keys() | new.keys() if old.get(field) != new.get(field)))
