"""A cluster as the tests see it: kubectl where a person would use it, plain HTTP to the API server for the rest."""

from __future__ import annotations

import json
import os
import re
import selectors
import shlex
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import httpx
import yaml

Object = dict[str, Any]
T = TypeVar("T")

FIELD_MANAGER: Final = "cachepolicy-tests"
RESTRICTED: Final = {
    f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")
}

#: Kind to the path of its collection; ``{}`` takes ``namespaces/<namespace>/`` where the kind has one.
_PATHS: Final = {
    "CachePolicy": "/apis/cache.masterclaw.io/v1alpha1/{}cachepolicies",
    "ConfigMap": "/api/v1/{}configmaps",
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/{}customresourcedefinitions",
    "Deployment": "/apis/apps/v1/{}deployments",
    "Event": "/api/v1/{}events",
    "Lease": "/apis/coordination.k8s.io/v1/{}leases",
    "Namespace": "/api/v1/{}namespaces",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/{}networkpolicies",
    "PersistentVolumeClaim": "/api/v1/{}persistentvolumeclaims",
    "Pod": "/api/v1/{}pods",
    "Secret": "/api/v1/{}secrets",
    "Service": "/api/v1/{}services",
    "StatefulSet": "/apis/apps/v1/{}statefulsets",
}


class KubectlError(AssertionError):
    """A kubectl call failed; the message is the call and what it said."""


def wait_for(what: str, probe: Callable[[], T], *, timeout: float, every: float = 0.2) -> T:
    """The first true value of ``probe``, which may raise AssertionError to say what is still missing.

    Raises AssertionError with ``what`` and the last finding after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            found = probe()
            if found:
                return found
            finding = repr(found)
        except AssertionError as error:
            finding = str(error)
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s for {what}; last seen: {finding[:2000]}")
        time.sleep(every)


@dataclass
class Cluster:
    """Whatever cluster KUBECONFIG names. ``namespaces`` are those whose state a failure report shows."""

    command: tuple[str, ...]
    http: httpx.Client
    namespaces: set[str] = field(default_factory=set)

    # ----------------------------------------------------------------------------------------------- kubectl

    def kubectl(self, *arguments: str, data: str | None = None, timeout: float = 60.0) -> str:
        """Standard output of one call. Raises KubectlError when it fails."""
        done = self._run(arguments, data, timeout)
        if done.returncode != 0:
            raise KubectlError(f"kubectl {shlex.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def refusal(self, *arguments: str, data: str | None = None) -> str:
        """What kubectl says when it must fail. Raises KubectlError when it does not."""
        done = self._run(arguments, data, 60.0)
        if done.returncode == 0:
            raise KubectlError(f"kubectl {shlex.join(arguments)} was accepted: {done.stdout.strip()}")
        return done.stderr

    def _run(
        self, arguments: Sequence[str], data: str | None, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *arguments],
            input=data,
            stdin=subprocess.DEVNULL if data is None else None,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    def apply(self, *objects: Object) -> None:
        """Server-side apply, as GitOps tools do it; what they no longer name goes."""
        self.kubectl(
            "apply",
            "--server-side",
            "--force-conflicts",
            f"--field-manager={FIELD_MANAGER}",
            "-f",
            "-",
            data=as_input(objects),
        )

    def execute(
        self, namespace: str, pod: str, *command: str, data: str | None = None, container: str | None = None
    ) -> str:
        """Standard output of a command in a pod."""
        chosen = ["-c", container] if container else []
        return self.kubectl(
            "exec",
            "-n",
            namespace,
            *(["-i"] if data is not None else []),
            pod,
            *chosen,
            "--",
            *command,
            data=data,
        )

    def logs(self, namespace: str, selector: str, *, previous: bool = False) -> str:
        """All lines of all containers of the chosen pods."""
        return self.kubectl(
            *("logs", "-n", namespace, "-l", selector, "--all-containers", "--tail=-1"),
            *(["--previous"] if previous else []),
        )

    # -------------------------------------------------------------------------------------------- API server

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """The object, None when there is none."""
        answer = self.http.get(_path(kind, namespace, name))
        return None if answer.status_code == 404 else _content(answer)

    def need(self, kind: str, namespace: str, name: str) -> Object:
        """The object. Raises AssertionError when there is none."""
        found = self.get(kind, namespace, name)
        assert found is not None, f"no {kind} {namespace}/{name}"
        return found

    def list(self, kind: str, namespace: str, selector: str = "") -> Iterable[Object]:
        """All objects of a kind, in the order of their names."""
        answer = _content(self.http.get(_path(kind, namespace), params={"labelSelector": selector}))
        return sorted(answer["items"], key=lambda item: str(item["metadata"]["name"]))

    def create(self, kind: str, content: Object) -> Object:
        """Make a new object; raises AssertionError with the server's message when it is refused."""
        return _content(self.http.post(_path(kind, content["metadata"].get("namespace", "")), json=content))

    def merge(self, kind: str, namespace: str, name: str, patch: Object, subresource: str = "") -> Object:
        """A JSON merge patch, as somebody who edits an object in place sends it."""
        path = _path(kind, namespace, name) + (f"/{subresource}" if subresource else "")
        headers = {"Content-Type": "application/merge-patch+json"}
        return _content(self.http.patch(path, content=json.dumps(patch), headers=headers))

    def delete(self, kind: str, namespace: str, name: str, *, grace: int | None = None) -> bool:
        """Ask for deletion and do not wait; False when there was nothing. ``grace`` 0 kills a pod at once."""
        body: Object = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        answer = self.http.request("DELETE", _path(kind, namespace, name), json=body)
        if answer.status_code == 404:
            return False
        _content(answer)
        return True

    # ------------------------------------------------------------------------------------------------ report

    def report(self) -> str:
        """What a person would look at after a failure, for the namespaces in use and the operator."""
        parts = []
        for namespace in sorted(self.namespaces):
            parts += [
                self._section("get", "cpol,pods,statefulsets,pvc", "-n", namespace, "-o", "wide"),
                self._section("get", "cpol", "-n", namespace, "-o", "yaml", "--show-managed-fields=false"),
                self._section("get", "events", "-n", namespace, "--sort-by=.lastTimestamp", tail=30),
            ]
        operator = ("-n", "cachepolicy-system", "-l", "app.kubernetes.io/name=cachepolicy-operator")
        parts += [
            self._section("get", "deployments,pods", "-n", "cachepolicy-system", "-o", "wide"),
            self._section("get", "events", "-n", "cachepolicy-system", "--sort-by=.lastTimestamp", tail=20),
            self._section("logs", *operator, "--tail=60"),
        ]
        return "\n".join(parts)

    def _section(self, *arguments: str, tail: int = 150) -> str:
        try:
            done = self._run(arguments, None, 20.0)
            lines = (done.stdout + done.stderr).splitlines()[-tail:]
        except subprocess.TimeoutExpired as error:
            lines = [str(error)]
        return "\n".join([f"--- kubectl {shlex.join(arguments)}", *lines])


@contextmanager
def connected(command: Sequence[str]) -> Iterator[Cluster]:
    """The cluster behind ``command`` (kubectl and what stands before it), through a proxy that ends with us."""
    proxy = [*command, "proxy", "--port=0", "--address=127.0.0.1"]
    with (
        listening(proxy, r"127\.0\.0\.1:(\d+)") as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20.0) as http,
    ):
        yield Cluster(tuple(command), http)


@contextmanager
def listening(command: Sequence[str], pattern: str, *, timeout: float = 20.0) -> Iterator[int]:
    """Run ``command`` until the end of the block; the port that its output names in ``pattern``."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
    ) as process:
        try:
            yield int(_first_match(process, pattern, timeout))
        finally:
            process.terminate()


def _first_match(process: subprocess.Popen[bytes], pattern: str, timeout: float) -> str:
    assert process.stdout is not None
    said = ""
    deadline = time.monotonic() + timeout
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            chunk = os.read(process.stdout.fileno(), 4096)
            said += chunk.decode(errors="replace")
            if found := re.search(pattern, said):
                return str(found[1])
            if not chunk:
                break
    raise KubectlError(f"{shlex.join(map(str, process.args))} did not listen: {said.strip()}")  # type: ignore[arg-type]  # args is the list given above


def as_input(objects: Iterable[Mapping[str, Any]]) -> str:
    """Objects as kubectl reads them from its standard input."""
    return str(yaml.safe_dump_all(objects))


def _path(kind: str, namespace: str, name: str = "") -> str:
    scope = f"namespaces/{namespace}/" if namespace else ""
    path = _PATHS[kind].format(scope)
    return f"{path}/{name}" if name else path


def _content(answer: httpx.Response) -> Object:
    content = answer.json()
    assert answer.is_success, content.get("message", answer.text)
    return dict(content)
