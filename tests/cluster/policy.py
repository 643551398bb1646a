"""One CachePolicy in the cluster, and everything that was made for it."""

from __future__ import annotations

import base64
import json
import subprocess
from dataclasses import dataclass
from typing import Any, Final

from tests.cluster.kube import Cluster, KubectlError, Object, wait_for
from tests.policies import Spec

from cachepolicy import names
from cachepolicy.names import Role

OWNED_KINDS: Final = ("StatefulSet", "Service", "ConfigMap", "NetworkPolicy", "Secret")

#: Seconds for two Redis pods to start, load and be configured on a busy machine.
START_SECONDS: Final = 90.0

# The password comes by standard input: an argument would be seen in the process list.
_REDIS_CLI: Final = (
    'IFS= read -r REDISCLI_AUTH; export REDISCLI_AUTH; user="$1"; shift; '
    'exec "$(command -v redis-cli || command -v valkey-cli)" --no-auth-warning --user "$user" "$@"'
)


@dataclass(frozen=True)
class Policy:
    """A CachePolicy by its name; every method looks anew."""

    cluster: Cluster
    namespace: str
    name: str = "core"

    # ---------------------------------------------------------------------------------------- the object itself

    def apply(self, spec: Spec) -> None:
        """As a person applies it: what ``spec`` no longer says goes."""
        metadata = {"name": self.name, "namespace": self.namespace}
        self.cluster.apply(
            {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": metadata, "spec": spec}
        )

    def delete(self) -> None:
        """Ask for deletion and do not wait."""
        self.cluster.delete("CachePolicy", self.namespace, self.name)

    @property
    def object(self) -> Object:
        return self.cluster.need("CachePolicy", self.namespace, self.name)

    @property
    def status(self) -> Object:
        return dict(self.object.get("status") or {})

    def conditions(self) -> dict[str, Object]:
        """By type. Raises AssertionError while they are not about the newest generation."""
        found = self.object
        status, generation = found.get("status") or {}, found["metadata"]["generation"]
        assert status.get("observedGeneration") == generation, f"generation {generation} is not observed yet"
        return {item["type"]: item for item in status.get("conditions", ())}

    def condition(self, kind: str) -> tuple[str, str]:
        """Status and reason of one condition of the newest generation; empty texts where it is absent."""
        found = self.conditions().get(kind, {})
        return str(found.get("status", "")), str(found.get("reason", ""))

    def wait_until(self, kind: str, status: str, reason: str = "", *, timeout: float = 20.0) -> str:
        """Wait for a condition of the newest generation; its message."""

        def there() -> tuple[str]:
            found = self.conditions()
            said = found.get(kind, {})
            assert said.get("status") == status, f"{kind} is {said}, all: {found}"
            assert reason in ("", said.get("reason")), f"{kind} is {said}"
            return (str(said["message"]),)

        return wait_for(f"{self.name}: {kind}={status} {reason}", there, timeout=timeout)[0]

    def wait_ready(self, timeout: float = START_SECONDS) -> None:
        """Wait until it is Ready and nothing is in progress or stuck."""
        self.wait_until("Ready", "True", timeout=timeout)
        wait_for(
            f"{self.name} to come to rest",
            lambda: not {"Reconciling", "Stalled"} & set(self.conditions()),
            timeout=20,
        )

    def wait_enforced(self, replicas: int = 2, timeout: float = 30.0) -> None:
        """Wait until all pods of Core enforce the newest generation."""

        def there() -> bool:
            found, core = self.condition("Enforced"), self.status.get("core", {})
            assert found == ("True", "Enforced"), f"Enforced is {found}: {core}"
            assert core["enforced"] == f"{replicas}/{replicas}", str(core)
            return bool(core["revision"] == self.document["revision"])

        wait_for(f"{self.name} to be enforced by {replicas} pods", there, timeout=timeout)

    # ------------------------------------------------------------------------------------- what was made for it

    def owned(self) -> list[Object]:
        """Everything that carries the operator's labels for this policy, claims and pods left out."""
        selector = f"{names.LABEL_OWNER}={self.name}"
        return [
            item | {"kind": kind}
            for kind in OWNED_KINDS
            for item in self.cluster.list(kind, self.namespace, selector)
        ]

    def versions(self) -> dict[str, str]:
        """``Kind/name`` to resourceVersion, of the policy and everything owned, pods too."""
        pods = [item | {"kind": "Pod"} for item in self.redis_pods()]
        found = [self.object | {"kind": "CachePolicy"}, *self.owned(), *pods]
        return {
            f"{item['kind']}/{item['metadata']['name']}": str(item["metadata"]["resourceVersion"])
            for item in found
        }

    @property
    def document(self) -> dict[str, Any]:
        """The policy document as Core finds it in its ConfigMap."""
        config_map = self.cluster.need("ConfigMap", self.namespace, names.core_config_map(self.name))
        return dict(json.loads(config_map["data"][names.FILE_POLICY]))

    def secret(self, name: str) -> dict[str, str]:
        """The values of a Secret."""
        found = self.cluster.need("Secret", self.namespace, name)
        return {key: base64.b64decode(value).decode() for key, value in found["data"].items()}

    def secrets(self) -> dict[str, dict[str, str]]:
        """The Secrets that credentials are read back from, by name."""
        wanted = (names.redis_auth_secret, names.core_secret, names.core_keys_secret)
        return {name(self.name): self.secret(name(self.name)) for name in wanted}

    # ------------------------------------------------------------------------------------------------- Redis

    def redis_pods(self) -> list[Object]:
        servers = f"{names.LABEL_COMPONENT} in ({', '.join(Role)})"
        return list(self.cluster.list("Pod", self.namespace, f"{names.LABEL_OWNER}={self.name},{servers}"))

    def pod_name(self, role: Role) -> str:
        return f"{names.server(self.name, role)}-0"

    def lives(self) -> dict[str, tuple[str, int]]:
        """Redis pods by name: uid, and how often the container was started again."""
        return {pod["metadata"]["name"]: life_of(pod) for pod in self.redis_pods()}

    def password(self, user: str) -> str:
        if user == names.USER_PROBE:
            return "probe"
        if user == names.USER_OPERATOR:
            return self.secret(names.redis_auth_secret(self.name))[names.FILE_OPERATOR_PASSWORD]
        return self.secret(names.core_secret(self.name))[names.FILE_PASSWORD]

    def redis(
        self, role: Role, *arguments: str, user: str = names.USER_OPERATOR, password: str | None = None
    ) -> str:
        """What redis-cli prints in the server's pod: Redis's answer, an error included.

        ``password`` instead of the one in the Secret.
        """
        return self.cluster.execute(
            self.namespace,
            self.pod_name(role),
            *("sh", "-c", _REDIS_CLI, "sh", user, *arguments),
            data=(password or self.password(user)) + "\n",
        ).strip()

    def directive(self, role: Role, key: str) -> str:
        """The value that the running server has. Raises AssertionError while it cannot be asked."""
        try:
            answer = self.redis(role, "CONFIG", "GET", key).split("\n", maxsplit=1)
        except (KubectlError, subprocess.TimeoutExpired) as error:
            raise AssertionError(str(error)) from error
        return answer[1] if len(answer) == 2 else answer[0]


def life_of(pod: Object) -> tuple[str, int]:
    """A pod's uid and the restarts of its containers: what changes when it does not simply go on."""
    statuses = pod.get("status", {}).get("containerStatuses", ())
    return str(pod["metadata"]["uid"]), sum(int(item["restartCount"]) for item in statuses)
