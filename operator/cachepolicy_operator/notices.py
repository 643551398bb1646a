"""Events about what is done to a CachePolicy's objects. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from cachepolicy.spec import CachePolicySpec
from cachepolicy_operator.observed import Json, Observed, id_of
from cachepolicy_operator.plan import Notice
from cachepolicy_operator.resources.labels import consumers
from cachepolicy_operator.rotation import Step


def pruned_server(observed: Observed, statefulset: str) -> Notice:
    """A server that no section needs any more, and where its data is."""
    kept = sorted(name for name in observed.claims if name.startswith(f"data-{statefulset}-"))
    note = f"no section needs the server {statefulset} any more: it was removed"
    if kept:
        note += f"; its data is kept in PersistentVolumeClaim {', '.join(kept)} until you delete it"
    return Notice("ServerRemoved", "Prune", note)


def closing(observed: Observed, spec: CachePolicySpec, wanted: list[Json]) -> Iterator[Notice]:
    """Servers that were open until now: whoever loses a way in should be able to find out why."""
    running = any(kind == "StatefulSet" for kind, _ in observed.objects)
    for obj in wanted:
        if obj["kind"] == "NetworkPolicy" and running and id_of(obj) not in observed.objects:
            allowed = ", ".join(f"{key}={value}" for key, value in consumers(observed.name, spec).items())
            note = f"from now on only pods labelled {allowed}, the operator and networkPolicy.extraFrom reach Redis"
            yield Notice("NetworkPolicyCreated", "Apply", note)


def rotation(turned: Step) -> tuple[Notice, ...]:
    """A password that is being replaced, at the beginning and at the end."""
    if turned.begun:
        note = (
            "the password of Core is being replaced: servers take both until every process uses the new one"
        )
        return (Notice("RotationStarted", "Rotate", note),)
    if turned.finished:
        return (Notice("RotationFinished", "Rotate", "the old password of Core no longer opens Redis"),)
    return ()


def credentials(observed: Observed) -> tuple[Notice, ...]:
    """Secrets that were lost and made anew."""
    if not observed.lost_credentials:
        return ()
    lost = ", ".join(name.replace("_", " ") for name in observed.lost_credentials)
    note = f"missing from the Secrets and made anew: {lost}"
    if {"operator_password", "core_password", "generation"} & set(observed.lost_credentials):
        note += "; the Redis pods restart once with the new ones"
    return (Notice("CredentialsRecreated", "CreateSecret", note, warning=True),)
