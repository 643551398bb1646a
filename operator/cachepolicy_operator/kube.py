"""The only code that talks to the API server.

Objects are plain dicts. Kinds are known beforehand
(:mod:`cachepolicy_operator.kinds`), so no discovery happens at run time. Writes are
server-side applies under one field manager name, which never changes (rule 32). Every request has a deadline; reads
are repeated a few times on 429 and 5xx, writes never: the queue repeats those.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import client as kubernetes_client
from kubernetes.aio import config as kubernetes_config

from cachepolicy.names import FIELD_MANAGER
from cachepolicy_operator import errors
from cachepolicy_operator.events import EventType, event
from cachepolicy_operator.kinds import EVENT, LEASE, SECRET, Kind, kind_of

READ_ATTEMPTS: Final = 3
LONGEST_PAUSE: Final = 5.0

Json = dict[str, Any]
Objects = list[Json]
Propagation = Literal["Background", "Foreground", "Orphan"]


@dataclass(frozen=True)
class RequestDone:
    """What is counted of one request: `code` is the HTTP status, 0 when no answer came; `seconds` it took."""

    verb: str
    kind: str
    code: int
    seconds: float


@dataclass(frozen=True)
class _Request:
    verb: str
    method: str
    kind: Kind
    namespace: str | None
    name: str | None = None
    subresource: str | None = None
    query: tuple[tuple[str, str], ...] = ()
    body: Json | None = None
    content_type: str = "application/json"

    @property
    def target(self) -> str:
        where = "/".join(part for part in (self.namespace, self.name) if part)
        return f"{self.kind.name} {where}".rstrip()

    @property
    def path(self) -> str:
        path = self.kind.path(self.namespace, self.name, self.subresource)
        return f"{path}?{urlencode(self.query)}" if self.query else path


@dataclass(frozen=True)
class _Answer:
    status: int
    body: Json
    retry_after: float | None = None


_PLAIN_ERRORS: Final[Mapping[int, Callable[[str], errors.OperatorError]]] = {
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    # The token of the next page has expired: the list is read anew.
    410: errors.Superseded,
}


class Kube:
    """A connection to one API server. Every method raises the errors of :mod:`cachepolicy_operator.errors`."""

    def __init__(
        self,
        client: kubernetes_client.ApiClient,
        *,
        timeout: float = 15.0,
        on_request: Callable[[RequestDone], None] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        #: Asked before each write; the Lease itself is written without asking.
        self.may_write: Callable[[], bool] = lambda: True
        self._client = client
        self._timeout = aiohttp.ClientTimeout(total=timeout, connect=min(5.0, timeout))
        self._on_request = on_request
        self._sleep = sleep

    @classmethod
    async def connect(
        cls,
        *,
        kubeconfig: str | None = None,
        timeout: float = 15.0,  # noqa: ASYNC109 - of each later request, not of this call
        on_request: Callable[[RequestDone], None] | None = None,
    ) -> Kube:
        """Log in with the pod's service account, else with `kubeconfig` (default: KUBECONFIG, ~/.kube/config).

        `timeout` is the deadline of one request in seconds. Raises Unreachable when there is neither.
        """
        configuration = kubernetes_client.Configuration()
        await _log_in(configuration, kubeconfig)
        configuration.connection_pool_maxsize = 16
        client = kubernetes_client.ApiClient(configuration)
        client.user_agent = FIELD_MANAGER
        return cls(client, timeout=timeout, on_request=on_request)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()  # type: ignore[no-untyped-call]  # upstream has no annotations

    async def get(self, kind: Kind, namespace: str, name: str) -> Json:
        """One object. Raises NotFound."""
        return (await self._read(_Request("get", "GET", kind, namespace, name))).body

    async def find(self, kind: Kind, namespace: str, name: str) -> Json | None:
        """One object, or None where there is none."""
        try:
            return await self.get(kind, namespace, name)
        except errors.NotFound:
            return None

    async def list(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        selector: str = "",
        page_size: int = 500,
    ) -> Objects:
        """All objects of a kind in one namespace, or in all of them, that a label selector lets through.

        Read in pages. Items carry no apiVersion and kind on the wire; they are filled in here.
        """
        found: Objects = []
        token = ""
        while True:
            query = [("limit", str(page_size))]
            query += [("labelSelector", selector)] if selector else []
            query += [("continue", token)] if token else []
            answer = await self._read(_Request("list", "GET", kind, namespace, query=tuple(query)))
            items = answer.body.get("items") or []
            found += [{"apiVersion": kind.api_version, "kind": kind.name, **item} for item in items]
            token = answer.body.get("metadata", {}).get("continue") or ""
            if not token:
                return found

    async def apply(self, obj: Json, *, dry_run: bool = False, manager: str = FIELD_MANAGER) -> Json:
        """Server-side apply with force; gives back the object as stored (or as it would be).

        Apply creates what is missing: read the owner again just before (rule 32).
        """
        metadata = obj["metadata"]
        trial = (("dryRun", "All"),) if dry_run else ()
        query = (("fieldManager", manager), ("force", "true"), *trial)
        return await self._write(
            _Request(
                "apply",
                "PATCH",
                kind_of(obj),
                metadata["namespace"],
                metadata["name"],
                query=query,
                body=obj,
                # The server reads JSON under this name: it is a subset of YAML.
                content_type="application/apply-patch+yaml",
            )
        )

    async def delete(
        self, kind: Kind, namespace: str, name: str, *, uid: str, propagation: Propagation = "Background"
    ) -> bool:
        """Delete exactly the object with this uid; True if it was there.

        Raises Conflict when another object has taken the name since.
        """
        body = {"preconditions": {"uid": uid}, "propagationPolicy": propagation}
        try:
            await self._write(_Request("delete", "DELETE", kind, namespace, name, body=body))
        except errors.NotFound:
            return False
        return True

    async def patch(
        self, kind: Kind, namespace: str, name: str, change: Json, *, manager: str = FIELD_MANAGER
    ) -> Json:
        """JSON merge patch, for fields of objects that are not ours to apply (claims of a StatefulSet).

        Put `metadata.resourceVersion` into `change` to make it conditional.
        """
        query = (("fieldManager", manager),)
        content_type = "application/merge-patch+json"
        return await self._write(
            _Request(
                "patch", "PATCH", kind, namespace, name, query=query, body=change, content_type=content_type
            )
        )

    async def replace_status(self, obj: Json) -> Json:
        """PUT the whole status of an object whose `metadata.resourceVersion` must still be the stored one."""
        metadata = obj["metadata"]
        if not metadata.get("resourceVersion"):
            raise ValueError(
                "replace_status needs metadata.resourceVersion: without it a newer status is lost"
            )
        query = (("fieldManager", FIELD_MANAGER),)
        request = _Request(
            "replace_status",
            "PUT",
            kind_of(obj),
            metadata["namespace"],
            metadata["name"],
            subresource="status",
            query=query,
            body=obj,
        )
        return await self._write(request)

    async def create(self, obj: Json) -> Json:
        """POST an object that must not be there yet. Raises Conflict where it is."""
        return await self._write(
            _Request("create", "POST", kind_of(obj), obj["metadata"]["namespace"], body=obj)
        )

    async def replace(self, obj: Json) -> Json:
        """PUT a whole object whose `metadata.resourceVersion` must still be the stored one. Raises Conflict."""
        metadata = obj["metadata"]
        return await self._write(
            _Request("replace", "PUT", kind_of(obj), metadata["namespace"], metadata["name"], body=obj)
        )

    async def create_event(
        self,
        regarding: Json,
        *,
        kind: EventType,
        reason: str,
        action: str,
        note: str,
        now: datetime,
        instance: str,
    ) -> None:
        """Record an Event about `regarding`: `reason` and `action` are CamelCase words, `instance` is our pod."""
        body = event(
            regarding, kind=kind, reason=reason, action=action, note=note, now=now, instance=instance
        )
        await self._write(_Request("create", "POST", EVENT, body["metadata"]["namespace"], body=body))

    async def _read(self, request: _Request) -> _Answer:
        for attempt in range(1, READ_ATTEMPTS + 1):
            try:
                return await self._send(request)
            except (errors.Throttled, errors.Unreachable) as error:
                if attempt == READ_ATTEMPTS or error.after is None or error.after > LONGEST_PAUSE:
                    raise
                await self._sleep(error.after)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _write(self, request: _Request) -> Json:
        if request.kind is not LEASE and not self.may_write():
            raise errors.Superseded(f"{request.verb} {request.target}: another operator acts now")
        return (await self._send(request)).body

    async def _send(self, request: _Request) -> _Answer:
        start = asyncio.get_running_loop().time()
        code = 0
        try:
            answer = await self._exchange(request)
            code = answer.status
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            # The exception's own text may hold the address only; nothing of the body.
            words = str(error) or type(error).__name__
            raise errors.Unreachable(f"{request.verb} {request.target}: {words}") from error
        finally:
            self._count(request, code, asyncio.get_running_loop().time() - start)
        if answer.status >= 300:
            # A parser's complaint quotes what it could not read.
            body = {} if request.kind is SECRET and answer.status == 400 else answer.body
            raise error_of(request.verb, request.target, answer.status, body, answer.retry_after)
        return answer

    async def _exchange(self, request: _Request) -> _Answer:
        headers = {"Accept": "application/json", "Content-Type": request.content_type}
        parameters = await self._client.param_serialize(
            request.method,
            request.path,
            header_params=headers,
            body=request.body,
            auth_settings=["BearerToken"],
        )
        response = await self._client.call_api(*parameters, _request_timeout=self._timeout)
        raw: bytes = await response.read()  # type: ignore[no-untyped-call]  # upstream has no annotations
        return _Answer(response.status, _parse(raw), _seconds(response.headers.get("Retry-After")))

    def _count(self, request: _Request, code: int, seconds: float) -> None:
        if self._on_request is not None:
            self._on_request(RequestDone(request.verb, request.kind.name, code, seconds))


def context_namespace(kubeconfig: str | None = None) -> str:
    """The namespace of the current context of a kubeconfig, as kubectl takes it."""
    try:
        _, active = kubernetes_config.kube_config.list_kube_config_contexts(  # type: ignore[no-untyped-call]
            config_file=kubeconfig
        )
    except kubernetes_config.ConfigException:
        return "default"
    return str(active["context"].get("namespace") or "default")


def error_of(
    verb: str, target: str, status: int, body: Mapping[str, Any], retry_after: float | None = None
) -> errors.OperatorError:
    """The exception for a refusal: `status` is the HTTP code, `body` the server's Status object."""
    details = body.get("details") or {}
    words = f"{verb} {target}: {body.get('message') or f'HTTP {status}'}"
    causes = details.get("causes") or []
    after = retry_after if retry_after is not None else details.get("retryAfterSeconds")
    if status == 403 and any(cause.get("reason") == "NamespaceTerminating" for cause in causes):
        return errors.NamespaceTerminating(words)
    if status in _PLAIN_ERRORS:
        return _PLAIN_ERRORS[status](words)
    if status in {400, 413, 415, 422}:
        return errors.Invalid(
            words, field=next((cause["field"] for cause in causes if cause.get("field")), None)
        )
    if status == 429:
        return errors.Throttled(words, after=1.0 if after is None else float(after))
    # 401 comes here as well: a token that has just expired, or an API server that cannot check it now.
    return errors.Unreachable(words, after=None if status < 500 else float(after or 0.5))


async def _log_in(configuration: kubernetes_client.Configuration, kubeconfig: str | None) -> None:
    """Fill `configuration`; a kubeconfig that was named wins over the pod's service account."""
    if kubeconfig is None:
        try:
            kubernetes_config.load_incluster_config(  # type: ignore[no-untyped-call]  # upstream has no annotations
                client_configuration=configuration
            )
        except kubernetes_config.ConfigException:
            pass
        else:
            return
    try:
        await kubernetes_config.load_kube_config(  # type: ignore[no-untyped-call]  # upstream has no annotations
            config_file=kubeconfig, client_configuration=configuration, persist_config=False
        )
    except kubernetes_config.ConfigException as error:
        raise errors.Unreachable(
            "no way to log in: not in a pod with a service account, and no usable kubeconfig "
            f"(set KUBECONFIG): {error}"
        ) from error


def _parse(raw: bytes) -> Json:
    """The JSON object of an answer; anything else (a proxy's page) becomes a message."""
    try:
        body = json.loads(raw)
    except ValueError:
        return {"message": re.sub(r"\s+", " ", raw[:200].decode(errors="replace"))}
    return body if isinstance(body, dict) else {"message": "the answer is no JSON object"}


def _seconds(header: str | None) -> float | None:
    """Retry-After in seconds; the date form is not used by API servers and counts as absent."""
    return float(header) if header and header.isdigit() else None
