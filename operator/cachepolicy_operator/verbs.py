"""The verbs of ``kubectl-cachepolicy`` that talk to a cluster: status, pause, resume, hibernate, wake, purge."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import yaml

from cachepolicy.status import Effect, PlannedChange
from cachepolicy_operator import edits, errors, rollout
from cachepolicy_operator.decide import decide, read_policy
from cachepolicy_operator.edits import Edit
from cachepolicy_operator.foresight import foresee, summary
from cachepolicy_operator.kinds import CACHE_POLICY, CLAIM, CONFIG_MAP, NETWORK_POLICY, SERVICE, STATEFUL_SET
from cachepolicy_operator.kube import Kube, context_namespace
from cachepolicy_operator.observe import Observer
from cachepolicy_operator.observed import Observed
from cachepolicy_operator.policyfile import PolicyManifest
from cachepolicy_operator.resources.labels import policy_selector

#: Scopes of a purge by their option: the maps of ``spec.purge``.
SCOPES: Final = {
    "kind": "kinds",
    "tenant": "tenants",
    "provider": "providers",
    "model": "models",
    "tag": "tags",
}
_SHOWN: Final = (STATEFUL_SET, SERVICE, CONFIG_MAP, NETWORK_POLICY, CLAIM)
_WATCH_SECONDS: Final = 1.0

Json = dict[str, Any]
Work = Callable[[Kube, str], Awaitable[int]]


def status(options: argparse.Namespace) -> int:
    """Show a CachePolicy; 1 while it is not ready."""
    return _with_cluster(options, lambda kube, namespace: _status(kube, namespace, options))


def edit(options: argparse.Namespace, change: Edit) -> int:
    """Change one field of a CachePolicy."""
    return _with_cluster(options, lambda kube, namespace: _edit(kube, namespace, options, change))


def rotate(options: argparse.Namespace) -> int:
    """Ask for another password of Core."""
    return edit(options, edits.rotate(datetime.now(UTC)))


def plan(options: argparse.Namespace, manifest: PolicyManifest, content: Json) -> int:
    """Tell what applying a file would do, without doing it; 1 where it would be refused."""
    options.name, options.namespace = manifest.name, content["metadata"].get("namespace")
    return _with_cluster(options, lambda kube, namespace: _plan(kube, namespace, options, content))


def purge(options: argparse.Namespace) -> int:
    """Give one scope of ``spec.purge`` a new value."""
    named = [(scope, getattr(options, name)) for name, scope in SCOPES.items() if getattr(options, name)]
    scope, name = named[0] if named else (None, None)
    return edit(options, edits.purge(scope, name, datetime.now(UTC)))


def _with_cluster(options: argparse.Namespace, work: Work) -> int:
    async def run() -> int:
        kube = await Kube.connect(kubeconfig=options.kubeconfig)
        try:
            return await work(kube, options.namespace or context_namespace(options.kubeconfig))
        finally:
            await kube.close()

    try:
        return asyncio.run(run())
    except errors.NotFound:
        print(f"there is no CachePolicy {options.name} in this namespace (-n names another)", file=sys.stderr)
    except errors.OperatorError as error:
        print(error, file=sys.stderr)
    except KeyboardInterrupt:
        return 0
    return 1


async def _edit(kube: Kube, namespace: str, options: argparse.Namespace, change: Edit) -> int:
    policy = await kube.get(CACHE_POLICY, namespace, options.name)
    told = edits.warning(policy, change)
    if told:
        print(f"warning: {told}", file=sys.stderr)
    await kube.patch(CACHE_POLICY, namespace, options.name, change.patch, manager=edits.MANAGER)
    print(f"{namespace}/{options.name} {change.said}")
    return 0


async def _status(kube: Kube, namespace: str, options: argparse.Namespace) -> int:
    shown = ""
    while True:
        policy = await kube.get(CACHE_POLICY, namespace, options.name)
        text = _told(policy, await _objects(kube, namespace, options.name), options.output)
        if text != shown:
            print(text, flush=True)
            shown = text
        if not options.watch:
            return 0 if _ready(policy) else 1
        await asyncio.sleep(_WATCH_SECONDS)


async def _plan(kube: Kube, namespace: str, options: argparse.Namespace, content: Json) -> int:
    content["metadata"]["namespace"] = namespace
    try:
        policy = await kube.apply(content, dry_run=True, manager=edits.MANAGER)
    except errors.Invalid as refused:
        print(f"Rejected  {refused}", file=sys.stderr)
        return 1
    found = decide(await _foreseen(kube, policy, options))
    changes = foresee(found)
    print(_listed(changes, options.output))
    return 1 if any(change.effect is Effect.REJECTED for change in changes) else 0


async def _foreseen(kube: Kube, policy: Json, options: argparse.Namespace) -> Observed:
    """The cluster as the operator would find it after the change. Redis is not asked: whether a directive is live is
    said by the server when it is set."""
    observer = Observer(kube, options.default_image, options.operator_namespace)
    spec = read_policy(policy)
    observed = await observer.observe(policy, spec, datetime.now(UTC), None)
    if spec.redis.managed.image is not None:
        return observed
    # The operator knows its own default; what runs now tells it.
    running = [obj for (kind, _), obj in observed.objects.items() if kind == STATEFUL_SET.name]
    images = [str(rollout.container(obj)["image"]) for obj in running]
    return replace(observed, default_image=images[0]) if images else observed


def _listed(changes: tuple[PlannedChange, ...], output: str) -> str:
    if output == "tree":
        rows = [
            f"{change.effect:<9} {change.object}{f'  {change.field}' if change.field else ''}"
            for change in changes
        ]
        return "\n".join([*rows, summary(changes)])
    content = [change.model_dump(mode="json", exclude_none=True) for change in changes]
    return json.dumps(content, indent=2) if output == "json" else str(yaml.safe_dump(content)).rstrip()


async def _objects(kube: Kube, namespace: str, name: str) -> list[Json]:
    lists = await asyncio.gather(
        *(kube.list(kind, namespace, selector=policy_selector(name)) for kind in _SHOWN)
    )
    return [obj for found in lists for obj in sorted(found, key=lambda item: str(item["metadata"]["name"]))]


def _told(policy: Json, objects: list[Json], output: str) -> str:
    if output == "tree":
        return "\n".join(edits.tree(policy, objects))
    content = {
        "namespace": policy["metadata"]["namespace"],
        "name": policy["metadata"]["name"],
        "generation": policy["metadata"].get("generation"),
        "status": policy.get("status") or {},
        "objects": [{"kind": obj["kind"], "name": obj["metadata"]["name"]} for obj in objects],
    }
    if output == "json":
        return json.dumps(content, indent=2)
    return str(yaml.safe_dump(content, sort_keys=False)).rstrip()


def _ready(policy: Json) -> bool:
    status = policy.get("status") or {}
    seen = status.get("observedGeneration") == policy["metadata"].get("generation")
    return seen and any(
        item["type"] == "Ready" and item["status"] == "True" for item in status.get("conditions") or ()
    )
