"""The API server refuses what cannot work, with a sentence that tells a person what to change."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.cluster.kube import Cluster, Object, as_input
from tests.policies import (
    BAD_NAMES,
    FULL,
    GOOD_NAMES,
    LIMIT,
    OWNED_DIRECTIVES,
    REFUSED,
    Refused,
    Spec,
    with_value,
    without,
)

from cachepolicy import names

pytestmark = pytest.mark.usefixtures("definition")

STORAGE = "redis.managed.state.storage"
CACHE_ONLY: Spec = {"redis": {"managed": {}}, "responseCache": {}}


@pytest.fixture(scope="module")
def place(cluster: Cluster, new_namespace: Callable[[str], str]) -> Iterator[str]:
    """The namespace of everything here. No pod runs in it: all objects are paused or never stored.

    It goes at once: an operator that looks after so many policies takes minutes to read all their Secrets.
    """
    namespace = new_namespace("admission")
    yield namespace
    cluster.delete("Namespace", "", namespace)


def policy(place: str, spec: Spec, name: str = "core") -> Object:
    metadata = {"name": name, "namespace": place}
    return {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": metadata, "spec": spec}


def refusal(cluster: Cluster, content: Object, *flags: str) -> str:
    """What kubectl prints; nothing is stored even if the object is accepted."""
    return cluster.refusal("apply", "--dry-run=server", *flags, "-f", "-", data=as_input([content]))


@pytest.mark.parametrize("row", REFUSED, ids=str)
def test_a_bad_value_is_refused_with_its_field_and_what_is_allowed(
    cluster: Cluster, place: str, row: Refused
) -> None:
    said = refusal(cluster, policy(place, with_value(row.path, row.value)))
    assert row.api_sentence in said
    assert f"spec.{row.path.split('.', maxsplit=1)[0]}" in said
    assert "evaluating rule" not in said, "a rule broke on the value instead of judging it"


def test_owned_directives_are_refused_one_by_one(cluster: Cluster, place: str) -> None:
    """One call for all: objects are judged each on its own."""
    contents = [
        policy(place, with_value("redis.managed.state.config", {key: "x"}), f"a{number}")
        for number, key in enumerate(OWNED_DIRECTIVES)
    ]
    said = cluster.refusal("apply", "--dry-run=server", "-f", "-", data=as_input(contents))
    assert said.count("belongs to the operator and follows from the rest of the spec: remove it") == len(
        contents
    )


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"redis": {"managed": {}}}, "look for a misspelt section"),
        (
            {"redis": {"managed": {"state": {}}}, "responseCache": {}},
            "redis.managed.state needs sessions or rateLimits",
        ),
        (
            {"redis": {"managed": {"cache": {}}}, "sessions": {}},
            "redis.managed.cache needs responseCache or embeddingCache",
        ),
        ({"sessions": {}}, "spec.redis: Required value"),
    ],
    ids=["no section", "state without state sections", "cache without cache sections", "no redis"],
)
def test_a_policy_whose_parts_do_not_fit_is_refused(
    cluster: Cluster, place: str, spec: Spec, sentence: str
) -> None:
    assert sentence in refusal(cluster, policy(place, spec))


def test_server_side_apply_is_strict_about_unknown_fields_too(cluster: Cluster, place: str) -> None:
    content = policy(place, with_value("sessions.idleTimout", "5m"))
    assert ".spec.sessions.idleTimout: field not declared in schema" in refusal(
        cluster, content, "--server-side"
    )


def test_a_misspelt_section_is_refused_even_where_unknown_fields_are_dropped(
    cluster: Cluster, place: str
) -> None:
    """Client-side apply of GitOps tools drops what it does not know: an empty policy must not be left."""
    content = policy(place, {"redis": {"managed": {}}, "rateLimit": {"a": LIMIT}})
    assert "look for a misspelt section" in refusal(cluster, content, "--validate=ignore")


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_no_service_can_carry_is_refused(cluster: Cluster, place: str, name: str) -> None:
    said = refusal(cluster, policy(place, CACHE_ONLY, name))
    assert "DNS-1035 label of at most 40 characters" in said or "RFC 1123" in said


def test_every_other_name_is_accepted(cluster: Cluster, place: str) -> None:
    contents = [policy(place, CACHE_ONLY, name) for name in GOOD_NAMES]
    cluster.kubectl("apply", "--dry-run=server", "-f", "-", data=as_input(contents))


def test_the_complete_spec_is_accepted_and_stored_without_defaults(cluster: Cluster, place: str) -> None:
    """Defaults in the schema would show up as drift in GitOps tools."""
    answer = cluster.kubectl(
        "apply", "--dry-run=server", "-o", "jsonpath={.spec}", "-f", "-", data=as_input([policy(place, FULL)])
    )
    assert json.loads(answer) == FULL


# ------------------------------------------------------------------------------------------------ transitions

NO_CLASS = without(f"{STORAGE}.className")
NO_STORAGE = without(STORAGE)
KEEPS_CLASS = (
    "storage.className cannot be changed: a volume keeps its class. Create a CachePolicy of another name"
)
KEEPS_STORAGE = "redis.managed.state.storage cannot be added to or removed from a running policy"
ONLY_GROWS = "storage.size can only grow: a volume does not shrink"


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        (FULL, with_value(f"{STORAGE}.className", "other"), KEEPS_CLASS),
        (FULL, NO_CLASS, KEEPS_CLASS),
        (NO_CLASS, FULL, KEEPS_CLASS),
        (FULL, with_value(f"{STORAGE}.size", "1023Mi"), ONLY_GROWS),
        (FULL, with_value(f"{STORAGE}.size", "1G"), ONLY_GROWS),
        (FULL, with_value(f"{STORAGE}.size", 1), ONLY_GROWS),
        (FULL, NO_STORAGE, KEEPS_STORAGE),
        (NO_STORAGE, FULL, KEEPS_STORAGE),
        (FULL, without("redis.managed.state"), KEEPS_STORAGE),
        (without("redis.managed.state"), FULL, KEEPS_STORAGE),
    ],
    ids=[
        "change class", "unset class", "set class", "shrink", "shrink in another unit", "shrink to a number",
        "remove storage", "add storage", "remove the server's settings", "add the server's settings",
    ],
)  # fmt: skip
def test_what_a_volume_cannot_do_is_refused_with_the_way_out(
    cluster: Cluster, place: str, before: Spec, after: Spec, sentence: str
) -> None:
    stored = stored_policy(cluster, place, before)
    assert sentence in cluster.refusal(
        "replace", "-f", "-", data=as_input([stored | {"spec": paused(after)}])
    )


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ([FULL, without("redis.managed.state"), with_value(f"{STORAGE}.className", "other")], KEEPS_STORAGE),
        ([FULL, without(f"{STORAGE}.className"), with_value(f"{STORAGE}.className", "other")], KEEPS_CLASS),
        ([NO_STORAGE, without("redis.managed.state"), FULL], KEEPS_STORAGE),
        ([with_value(f"{STORAGE}.size", "2Gi"), NO_STORAGE, FULL], KEEPS_STORAGE),
    ],
    ids=["class over no settings", "class over none", "storage over no settings", "shrink over none"],
)
def test_two_steps_do_not_get_around_it(
    cluster: Cluster, place: str, steps: list[Spec], sentence: str
) -> None:
    stored = stored_policy(cluster, place, steps[0])
    said = [cluster_answer(cluster, stored | {"spec": paused(step)}) for step in steps[1:]]
    assert sentence in "\n".join(said)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (FULL, with_value(f"{STORAGE}.size", "1025Mi")),
        (FULL, with_value(f"{STORAGE}.size", "1024Mi")),
        (NO_STORAGE, without("redis.managed.state")),
        (FULL, CACHE_ONLY),
        (CACHE_ONLY, FULL),
    ],
    ids=[
        "grow",
        "same size in another spelling",
        "drop settings",
        "drop the server",
        "add a server with storage",
    ],
)
def test_other_changes_of_the_volume_are_accepted(
    cluster: Cluster, place: str, before: Spec, after: Spec
) -> None:
    stored = stored_policy(cluster, place, before)
    cluster.kubectl("replace", "-f", "-", data=as_input([stored | {"spec": paused(after)}]))


def paused(spec: Spec) -> Spec:
    """No operator makes anything of it."""
    return {**spec, "paused": True}


def stored_policy(cluster: Cluster, place: str, spec: Spec) -> Object:
    """A policy with this spec in the cluster, under a name of its own."""
    content = policy(place, paused(spec))
    content["metadata"] = {"generateName": "core-", "namespace": place}
    created = cluster.create("CachePolicy", content)
    return policy(place, spec, created["metadata"]["name"])


def cluster_answer(cluster: Cluster, content: Object) -> str:
    """What kubectl says, accepted or refused."""
    try:
        return cluster.kubectl("replace", "-f", "-", data=as_input([content]))
    except AssertionError as error:
        return str(error)


# -------------------------------------------------------------------------------------------------- for people


def test_kubectl_explains_every_field(cluster: Cluster) -> None:
    said = cluster.kubectl("explain", "cachepolicy.spec", "--recursive")
    assert "onStoreFailure" in said
    assert "It can only grow" in cluster.kubectl("explain", "cpol.spec.redis.managed.state.storage")


def test_kubectl_get_shows_the_columns(cluster: Cluster, place: str) -> None:
    stored_policy(cluster, place, FULL)
    header = cluster.kubectl("get", "cpol", "-n", place).splitlines()[0].split()
    assert header == ["NAME", "READY", "REASON", "STATE", "CACHE", "ENFORCED", "SECTIONS", "REVISION", "AGE"]
    assert "MESSAGE" in cluster.kubectl("get", "cpol", "-n", place, "-o", "wide").splitlines()[0]
    assert "cachepolicy" in cluster.kubectl("get", "cache", "-n", place, "-o", "name")


def test_status_is_written_through_its_subresource_only(cluster: Cluster, place: str) -> None:
    stored = stored_policy(cluster, place, FULL)
    name = stored["metadata"]["name"]
    after = cluster.merge("CachePolicy", place, name, {"status": {"sections": "none"}})
    assert "status" not in after
    written: dict[str, Any] = {"status": {"sections": "sessions"}, "spec": {"paused": False}}
    after = cluster.merge("CachePolicy", place, name, written, subresource="status")
    assert after["status"] == {"sections": "sessions"}
    assert after["spec"]["paused"] is True
