"""Who a request belongs to, as authentication found it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Identity:
    """The owner of a request. Only authentication makes one; no header, query or body chooses a tenant.

    ``tenant`` must not be empty. ``user`` and ``api_key_id`` are None where authentication knows none.
    ``api_key_id`` names a key (for instance a prefix of its hash); it is never the key itself.
    """

    tenant: str
    user: str | None = None
    api_key_id: str | None = None

    def __post_init__(self) -> None:
        for name in ("tenant", "user", "api_key_id"):
            value = getattr(self, name)
            if value == "" or (name == "tenant" and value is None):
                raise ValueError(f"Identity.{name} must not be empty")
