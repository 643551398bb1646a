"""``status`` of a CachePolicy: what is true now. No timestamps but those of conditions, no counters."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from cachepolicy.schema import ApiModel

READY = "Ready"
REDIS_AVAILABLE = "RedisAvailable"
CONFIG_APPLIED = "ConfigApplied"
ENFORCED = "Enforced"
RECONCILING = "Reconciling"
STALLED = "Stalled"


class Condition(ApiModel):
    """A condition as in meta/v1."""

    type: str = Field(max_length=316)
    status: str = Field(pattern="^(True|False|Unknown)$")
    observed_generation: int | None = Field(default=None, ge=0)
    last_transition_time: str
    reason: str = Field(max_length=1024, min_length=1)
    message: str = Field(max_length=32768)


class ServerStatus(ApiModel):
    """One Redis server."""

    endpoint: str | None = Field(default=None, description="host:port for clients in the cluster.")
    topology: str | None = None
    replicas: int | None = None
    ready_replicas: int | None = None
    ready: str | None = Field(default=None, description="ready/wanted pods, such as 1/1.")
    version: str | None = Field(default=None, description="What the server says it is, such as redis 8.2.0.")
    maxmemory: str | None = Field(default=None, description="maxmemory in bytes as the server has it.")


class RedisStatus(ApiModel):
    state: ServerStatus | None = None
    cache: ServerStatus | None = None


class PendingRestart(ApiModel):
    instance: str
    key: str


class RejectedDirective(ApiModel):
    """A directive that Redis refused; the last good value is kept."""

    instance: str
    key: str
    reason: str = Field(description="Redis's own words.")


class ConfigStatus(ApiModel):
    pending_restart: tuple[PendingRestart, ...] = ()
    rejected: tuple[RejectedDirective, ...] = ()


class CoreStatus(ApiModel):
    """The service and what it says that it enforces."""

    config_map: str | None = None
    secret: str | None = None
    revision: str | None = Field(default=None, description="Revision of the policy document.")
    replicas: int | None = Field(default=None, description="Pods of Core.")
    enforced_replicas: int | None = Field(
        default=None, description="Pods of which all processes enforce all of the revision."
    )
    enforced: str | None = Field(default=None, description="enforced/all pods, such as 2/2.")
    processes: int | None = None
    rotating: str | None = Field(
        default=None, description="What the replacement of Core's password waits for, while it is under way."
    )
    lagging: tuple[str, ...] = Field(default=(), description="Pods that do not enforce the revision yet.")


class Binding(ApiModel):
    """A Provisioned Service of Service Binding for Kubernetes 1.1."""

    name: str = Field(description="Secret with type, provider, host, port, username, password and uri.")


class Effect(StrEnum):
    """What a change does, from the worst to the least."""

    REJECTED = "Rejected"
    RECREATE = "Recreate"
    DELETE = "Delete"
    RESTART = "Restart"
    CREATE = "Create"
    LIVE = "Live"


class PlannedChange(ApiModel):
    """One change that the operator would make."""

    object: str = Field(description="Kind and name of the object, or the server.")
    field: str | None = Field(default=None, description="Path of what differs; absent for the whole object.")
    effect: Effect = Field(description="Rejected, Recreate, Delete, Restart, Create or Live.")


class CachePolicyStatus(ApiModel):
    observed_generation: int | None = None
    conditions: tuple[Condition, ...] = ()
    sections: str | None = Field(default=None, description="The active sections, comma separated.")
    redis: RedisStatus | None = None
    config: ConfigStatus | None = None
    core: CoreStatus | None = None
    binding: Binding | None = None
    plan: tuple[PlannedChange, ...] = Field(
        default=(), max_length=50, description="While paused: what the operator would change."
    )
