"""kopf is informer, login and liveness; nothing is decided here.

Handlers only put a CachePolicy's key on the queue (rule 30). There are `on.event` handlers only: kopf then writes no
annotation and no finalizer, and a CachePolicy can be deleted while the operator is away (rule 26).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import kopf

from cachepolicy import names
from cachepolicy_operator.queue import Key
from cachepolicy_operator.resources.labels import owned_selector

#: (group, version, plural) of every watched kind → the one selector that the server filters by.
#: Keys of kopf's setting are `plural.version.group`; spellings with "/" filter nothing, silently (rule 28).
SELECTORS: Final[Mapping[tuple[str, str, str], str | None]] = {
    (names.GROUP, names.VERSION, names.PLURAL): None,
    ("apps", "v1", "statefulsets"): owned_selector(),
    ("", "v1", "services"): owned_selector(),
    ("", "v1", "configmaps"): owned_selector(),
    ("networking.k8s.io", "v1", "networkpolicies"): owned_selector(),
    ("", "v1", "pods"): names.LABEL_POLICY,
}


class Informer:
    """kopf in a thread and an event loop of its own.

    When kopf stops it cancels every task of its loop, our reconciles included; so they live in another one.
    ``enqueue`` and ``health`` are called in kopf's thread. ``health`` raises when the process should be restarted.
    ``namespaces`` is empty for all.
    """

    def __init__(
        self,
        *,
        enqueue: Callable[[Key], None],
        health: Callable[[], str],
        namespaces: tuple[str, ...],
        health_port: int,
        request_timeout: float,
    ) -> None:
        self._enqueue = enqueue
        self._health = health
        self._namespaces = namespaces
        self._health_port = health_port
        self._request_timeout = request_timeout
        self._loop: asyncio.AbstractEventLoop | None = None
        # kopf takes a threading.Event as well, and then, should it fail, waits for it for ever.
        self._stop = asyncio.Event()

    def run(self) -> None:
        """Watch until :meth:`stop`. Returns earlier, or raises, when kopf cannot go on."""
        asyncio.run(self._watch())

    def stop(self) -> None:
        """End :meth:`run`; called in another thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)

    async def _watch(self) -> None:
        self._loop = asyncio.get_running_loop()
        await kopf.operator(
            registry=self.registry(),
            liveness_endpoint=f"http://0.0.0.0:{self._health_port}/healthz",
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            standalone=True,
            stop_flag=self._stop,
        )

    def registry(self) -> kopf.OperatorRegistry:
        """Everything that kopf calls."""
        made = kopf.OperatorRegistry()
        kopf.on.startup(registry=made)(self._startup)
        kopf.on.login(registry=made)(_login)
        kopf.on.probe(id="queue", registry=made)(self._probe)
        for group, version, plural in SELECTORS:
            handler = _on_event(self._enqueue, _key_finder(plural))
            kopf.on.event(group, version, plural, id="enqueue", registry=made)(handler)
        return made

    async def _startup(self, settings: kopf.OperatorSettings, **_: Any) -> None:
        configure(settings, request_timeout=self._request_timeout)

    async def _probe(self, **_: Any) -> str:
        return self._health()


def configure(settings: kopf.OperatorSettings, *, request_timeout: float) -> None:
    """kopf's settings for an operator that looks at few kinds and writes nothing through kopf (rules 27 and 28)."""
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.posting.loggers = False
    settings.networking.request_timeout = request_timeout
    settings.networking.connect_timeout = min(5.0, request_timeout)
    # An API server that is away for long is no reason to end: the last pause repeats for hours.
    settings.networking.error_backoffs = [1, 1, 2, 3, 5, 8, *[15] * 1000]
    settings.watching.server_timeout = 270  # the API server takes whole seconds only
    settings.watching.client_timeout = 300
    settings.watching.connect_timeout = 5.0
    for (group, version, plural), selector in SELECTORS.items():
        if selector is not None:
            # By item: assigning a whole dict ends the operator.
            settings.watching.label_selectors[resource_name(group, version, plural)] = selector


def resource_name(group: str, version: str, plural: str) -> str:
    """How kopf's settings spell a kind."""
    return f"{plural}.{version}.{group}" if group else f"{plural}.{version}"


def key_of_policy(meta: Mapping[str, Any]) -> Key | None:
    """The key of a CachePolicy itself."""
    return Key(meta["namespace"], meta["name"])


def key_of_owned(meta: Mapping[str, Any]) -> Key | None:
    """The policy that an object of ours belongs to."""
    return _labelled(meta, names.LABEL_OWNER)


def key_of_consumer(meta: Mapping[str, Any]) -> Key | None:
    """The policy whose consumer a pod says it is."""
    return _labelled(meta, names.LABEL_POLICY)


def _labelled(meta: Mapping[str, Any], label: str) -> Key | None:
    name = (meta.get("labels") or {}).get(label)
    return Key(meta["namespace"], name) if name else None


def _key_finder(plural: str) -> Callable[[Mapping[str, Any]], Key | None]:
    return {names.PLURAL: key_of_policy, "pods": key_of_consumer}.get(plural, key_of_owned)


def _on_event(
    enqueue: Callable[[Key], None], find: Callable[[Mapping[str, Any]], Key | None]
) -> Callable[..., Any]:
    async def handler(meta: kopf.Meta, **_: Any) -> None:
        key = find(meta)
        if key is not None:
            enqueue(key)

    return handler


async def _login(**kwargs: Any) -> Any:
    """The pod's service account, else a kubeconfig."""
    return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)
