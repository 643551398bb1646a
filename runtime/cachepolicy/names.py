"""Every name that two programs must agree on: API group, labels, object names, mounted files."""

from __future__ import annotations

from enum import StrEnum

GROUP = "cache.masterclaw.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "CachePolicy"
PLURAL = "cachepolicies"
SINGULAR = "cachepolicy"
SHORT_NAME = "cpol"
CATEGORY = "cache"

FIELD_MANAGER = "cachepolicy-operator"

#: Marks the pods of a consumer: their acknowledgements count. Never on Redis pods.
LABEL_POLICY = f"{GROUP}/policy"
#: Marks every object that the operator made for a policy.
LABEL_OWNER = f"{GROUP}/owner"
LABEL_NAME = "app.kubernetes.io/name"
LABEL_INSTANCE = "app.kubernetes.io/instance"
LABEL_COMPONENT = "app.kubernetes.io/component"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"

#: Pod-template annotation: changes only when credentials were made anew, and so rolls the pods once.
ANNOTATION_CREDENTIALS = f"{GROUP}/credentials"

#: Annotation of a CachePolicy: another value than before replaces Core's password once.
ANNOTATION_ROTATE = f"{GROUP}/rotate"

#: An object name plus the longest suffix stays a DNS-1035 label, and so does a pod's name behind it.
MAX_NAME_LENGTH = 40
NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"


class Role(StrEnum):
    """What a Redis server is for."""

    STATE = "state"
    CACHE = "cache"


def server(policy: str, role: Role) -> str:
    """StatefulSet and client Service."""
    return f"{policy}-{role}"


def headless_service(policy: str, role: Role) -> str:
    return f"{policy}-{role}-headless"


def redis_config_map(policy: str, role: Role) -> str:
    return f"{policy}-{role}-config"


def restart_config_map(policy: str, role: Role, digest: str) -> str:
    """Immutable; ``digest`` is a hash of its content."""
    return f"{policy}-{role}-restart-{digest}"


def core_config_map(policy: str) -> str:
    return f"{policy}-core"


def core_secret(policy: str) -> str:
    """The core user's username, password and URIs."""
    return f"{policy}-core"


def core_keys_secret(policy: str) -> str:
    """The cache's HMAC key and the admin token."""
    return f"{policy}-core-keys"


def network_policy(policy: str) -> str:
    return f"{policy}-redis"


def binding_secret(policy: str) -> str:
    """What tools of Service Binding for Kubernetes project into a workload."""
    return f"{policy}-binding"


def redis_auth_secret(policy: str) -> str:
    """The ACL file and the operator's password; mounted in Redis pods only."""
    return f"{policy}-redis-auth"


# Files in the policy directory, which are also the keys of the ConfigMap and the Secrets behind it.
FILE_POLICY = "policy.json"
FILE_USERNAME = "username"
FILE_PASSWORD = "password"  # noqa: S105 - a file's name
FILE_STATE_URI = "state-uri"
FILE_CACHE_URI = "cache-uri"
FILE_HMAC_KEY = "cache-hmac-key"
FILE_ADMIN_TOKEN = "admin-token"  # noqa: S105 - a file's name

# Entries of the Secret that only Redis pods and the operator see, and of the configuration of a server.
FILE_ACL = "users.acl"
FILE_OPERATOR_PASSWORD = "operator-password"  # noqa: S105 - a file's name
FILE_GENERATION = "generation"
FILE_NEXT_CORE = "next-core-password"
FILE_RETIRING_CORE = "retiring-core-hash"
FILE_ROTATION = "rotation"
FILE_REDIS_CONF = "redis.conf"
FILE_LIVE = "live.json"
FILE_RESTART_CONF = "restart.conf"

USER_CORE = "core"
USER_OPERATOR = "operator"
USER_PROBE = "probe"

REDIS_PORT = 6379
