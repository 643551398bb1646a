"""Core's replicas, each reached by itself: that the *other* one knows something is what the tests show."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
from tests.cluster.kube import Cluster, Object, listening, wait_for
from tests.cluster.policy import life_of

# The sample keys of manifests/overlays/kind/core/api-keys.yaml.
ALICE: Final = "sample-key-alice"
CAROL: Final = "sample-key-carol"
BOB: Final = "sample-key-bob"

SELECTOR: Final = "app.kubernetes.io/name=core"
CHAT: Final = "/v1/chat/completions"
EMBEDDINGS: Final = "/v1/embeddings"
SESSION: Final = "/v1/session"


@dataclass(frozen=True)
class Replica:
    """One pod of Core."""

    pod: str
    http: httpx.Client

    def request(
        self,
        method: str,
        path: str,
        *,
        key: str | None = ALICE,
        json: Any = None,
        cookie: str = "",
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        sent = dict(headers or {})
        if key:
            sent["Authorization"] = f"Bearer {key}"
        if cookie:
            sent["Cookie"] = cookie
        return self.http.request(method, path, json=json, headers=sent)

    def ask(self, question: str, *, key: str = ALICE, **more: Any) -> httpx.Response:
        """A chat completion."""
        body = {"model": "demo", "messages": [{"role": "user", "content": question}], **more}
        return self.request("POST", CHAT, key=key, json=body)

    def embed(self, *texts: str, key: str = ALICE) -> httpx.Response:
        return self.request(
            "POST", EMBEDDINGS, key=key, json={"model": "demo-embedding", "input": list(texts)}
        )

    def health(self) -> dict[str, Any]:
        return dict(self.request("GET", "/cache/health", key=None).json())

    def stats(self) -> dict[str, Any]:
        return dict(self.request("GET", "/cache/stats", key=None).json())


@dataclass
class Core:
    """The Deployment ``core`` of a namespace."""

    cluster: Cluster
    namespace: str
    forwards: ExitStack
    _replicas: dict[str, Replica] = field(default_factory=dict)

    def pods(self) -> list[Object]:
        """Pods that serve, and are not on their way out."""
        return [
            pod
            for pod in self.cluster.list("Pod", self.namespace, SELECTOR)
            if not pod["metadata"].get("deletionTimestamp") and _ready(pod)
        ]

    def lives(self) -> dict[str, tuple[str, int]]:
        return {pod["metadata"]["name"]: life_of(pod) for pod in self.pods()}

    def pair(self) -> tuple[Replica, Replica]:
        """Both replicas; waits until there are two."""
        pods = wait_for("two ready pods of Core", self._two, timeout=60)
        first, second = (self.replica(pod["metadata"]["name"]) for pod in pods)
        return first, second

    def _two(self) -> list[Object]:
        pods = self.pods()
        assert len(pods) == 2, f"{len(pods)} pods are ready"
        return pods

    def replica(self, pod: str) -> Replica:
        if pod not in self._replicas:
            command = [*self.cluster.command, "port-forward", "-n", self.namespace, f"pod/{pod}", ":8080"]
            port = self.forwards.enter_context(
                listening([*command, "--address=127.0.0.1"], r"127\.0\.0\.1:(\d+) ->")
            )
            http = self.forwards.enter_context(
                httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10.0)
            )
            self._replicas[pod] = Replica(pod, http)
        return self._replicas[pod]


def _ready(pod: Object) -> bool:
    conditions = {item["type"]: item["status"] for item in pod.get("status", {}).get("conditions", ())}
    return conditions.get("Ready") == "True"


def cache_status(answer: httpx.Response) -> str:
    """``Cache-Status`` of an answer that must be a success."""
    assert answer.status_code == 200, f"{answer.status_code}: {answer.text[:500]}"
    return str(answer.headers.get("Cache-Status", ""))


def is_hit(answer: httpx.Response) -> bool:
    return "; hit" in cache_status(answer)


def cookie_of(answer: httpx.Response) -> str:
    """The session cookie that an answer sets, as a request sends it."""
    assert answer.status_code == 200, f"{answer.status_code}: {answer.text[:500]}"
    pair = str(answer.headers.get("Set-Cookie", "")).partition(";")[0]
    assert pair, f"no cookie in {dict(answer.headers)}"
    return pair
