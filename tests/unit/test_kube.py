"""What goes over the wire to an API server, and what its answers become."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client import ApiClient, Configuration

from cachepolicy_operator import errors
from cachepolicy_operator.events import event
from cachepolicy_operator.kinds import CACHE_POLICY, CONFIG_MAP, POD, SECRET, STATEFUL_SET, kind_of
from cachepolicy_operator.kube import Kube, RequestDone, error_of

OBJECT = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "ns"}}
POLICY = {
    "apiVersion": "cache.masterclaw.io/v1alpha1",
    "kind": "CachePolicy",
    "metadata": {"name": "core", "namespace": "ns", "uid": "u1", "resourceVersion": "7"},
}


@dataclass
class ApiServer:
    """Answers from a list, keeps what it was asked."""

    answers: list[web.Response] = field(default_factory=list)
    asked: list[tuple[str, str, dict[str, str], Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        text = await request.text()
        self.asked.append(
            (request.method, request.path, dict(request.query), json.loads(text) if text else None)
        )
        self.headers.append(dict(request.headers))
        return self.answers.pop(0)


@dataclass
class Bench:
    api: ApiServer
    kube: Kube
    counted: list[RequestDone]
    slept: list[float]


def reply(body: Any = None, status: int = 200, **headers: str) -> web.Response:
    return web.json_response(body or {}, status=status, headers=headers)


def refusal(status: int, message: str = "no", **details: Any) -> web.Response:
    return reply({"kind": "Status", "message": message, "details": details}, status)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    api, counted, slept = ApiServer(), list[RequestDone](), list[float]()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", api.handle)

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async with TestServer(app, host="127.0.0.1") as server:
        configuration = Configuration(host=str(server.make_url("")).rstrip("/"))
        configuration.api_key["BearerToken"] = "Bearer t0ken"
        kube = Kube(ApiClient(configuration), timeout=0.5, on_request=counted.append, sleep=sleep)
        try:
            yield Bench(api, kube, counted, slept)
        finally:
            await kube.close()


async def test_get_asks_for_one_object_with_the_login(bench: Bench) -> None:
    """The path comes from the table of kinds, the token from the configuration."""
    bench.api.answers = [reply(POLICY)]
    assert await bench.kube.get(CACHE_POLICY, "ns", "core") == POLICY
    assert bench.api.asked == [
        ("GET", "/apis/cache.masterclaw.io/v1alpha1/namespaces/ns/cachepolicies/core", {}, None)
    ]
    assert bench.api.headers[0]["Authorization"] == "Bearer t0ken"


async def test_find_gives_none_for_what_is_not_there(bench: Bench) -> None:
    """A missing object is an ordinary observation."""
    bench.api.answers = [refusal(404), refusal(404)]
    assert await bench.kube.find(SECRET, "ns", "a") is None
    with pytest.raises(errors.NotFound):
        await bench.kube.get(SECRET, "ns", "a")


async def test_list_reads_all_pages_and_names_the_kind(bench: Bench) -> None:
    """A page's token leads to the next; items carry no kind on the wire."""
    bench.api.answers = [
        reply({"items": [{"metadata": {"name": "a"}}], "metadata": {"continue": "more"}}),
        reply({"items": [{"metadata": {"name": "b"}}], "metadata": {}}),
    ]
    found = await bench.kube.list(POD, selector="cache.masterclaw.io/policy=core", page_size=1)
    assert [(item["kind"], item["metadata"]["name"]) for item in found] == [("Pod", "a"), ("Pod", "b")]
    selector = {"limit": "1", "labelSelector": "cache.masterclaw.io/policy=core"}
    assert [(path, query) for _, path, query, _ in bench.api.asked] == [
        ("/api/v1/pods", selector),
        ("/api/v1/pods", {**selector, "continue": "more"}),
    ]


async def test_apply_is_a_forced_server_side_apply_under_our_name(bench: Bench) -> None:
    """One field manager name for ever, or fields would be left behind (rule 32)."""
    bench.api.answers = [reply(OBJECT)]
    assert await bench.kube.apply(OBJECT) == OBJECT
    method, path, query, body = bench.api.asked[0]
    assert (method, path, body) == ("PATCH", "/api/v1/namespaces/ns/configmaps/a", OBJECT)
    assert query == {"fieldManager": "cachepolicy-operator", "force": "true"}
    assert bench.api.headers[0]["Content-Type"] == "application/apply-patch+yaml"
    bench.api.answers = [reply(OBJECT)]
    await bench.kube.apply(OBJECT, dry_run=True)
    assert bench.api.asked[1][2] == {**query, "dryRun": "All"}


async def test_delete_names_the_uid_and_what_happens_to_dependents(bench: Bench) -> None:
    """An object of the same name made meanwhile must not be hit; Orphan keeps the pods."""
    bench.api.answers = [reply(), refusal(404), refusal(409)]
    assert await bench.kube.delete(STATEFUL_SET, "ns", "a", uid="u", propagation="Orphan")
    assert bench.api.asked[0][3] == {"preconditions": {"uid": "u"}, "propagationPolicy": "Orphan"}
    assert not await bench.kube.delete(STATEFUL_SET, "ns", "a", uid="u")
    with pytest.raises(errors.Conflict):
        await bench.kube.delete(STATEFUL_SET, "ns", "a", uid="u")


async def test_patch_is_a_merge_patch(bench: Bench) -> None:
    """Claims belong to the StatefulSet: only the size is touched."""
    bench.api.answers = [reply()]
    change = {"spec": {"resources": {"requests": {"storage": "2Gi"}}}}
    await bench.kube.patch(CONFIG_MAP, "ns", "a", change)
    assert bench.api.asked[0][3] == change
    assert bench.api.headers[0]["Content-Type"] == "application/merge-patch+json"


async def test_status_is_put_with_its_resource_version(bench: Bench) -> None:
    """Without one a newer status would be overwritten, so that is refused here."""
    bench.api.answers = [reply(POLICY)]
    await bench.kube.replace_status({**POLICY, "status": {"observedGeneration": 1}})
    assert bench.api.asked[0][:2] == (
        "PUT",
        "/apis/cache.masterclaw.io/v1alpha1/namespaces/ns/cachepolicies/core/status",
    )
    with pytest.raises(ValueError, match="resourceVersion"):
        await bench.kube.replace_status({**POLICY, "metadata": {"name": "core", "namespace": "ns"}})


async def test_an_event_is_posted_in_the_namespace_of_its_object(bench: Bench) -> None:
    """events.k8s.io/v1, regarding the CachePolicy."""
    bench.api.answers = [reply()]
    now = datetime(2026, 11, 24, tzinfo=UTC)
    await bench.kube.create_event(
        POLICY, kind="Normal", reason="Ready", action="Reconcile", note="fine", now=now, instance="pod-1"
    )
    method, path, _, body = bench.api.asked[0]
    assert (method, path) == ("POST", "/apis/events.k8s.io/v1/namespaces/ns/events")
    assert body["regarding"]["uid"] == "u1"
    assert body["eventTime"] == "2026-11-24T00:00:00.000000Z"


def test_an_event_fits_the_limits_of_the_api() -> None:
    """A note of more than 1 KiB would be refused, also where it is cut within a character."""
    body = event(
        POLICY,
        kind="Warning",
        reason="R" * 200,
        action="A" * 200,
        note="ü" * 1000,
        now=datetime(2026, 1, 1, tzinfo=UTC),
        instance="i" * 200,
    )
    assert len(body["note"].encode()) == 1024
    assert {len(body[key]) for key in ("reason", "action", "reportingInstance")} == {128}


async def test_reads_are_repeated_as_the_server_asks(bench: Bench) -> None:
    """429 and 5xx with Retry-After, and no more than twice."""
    throttled = [reply({"message": "slow down"}, 429, **{"Retry-After": "2"}) for _ in range(3)]
    bench.api.answers = [throttled[0], refusal(503), reply(OBJECT)]
    assert await bench.kube.get(CONFIG_MAP, "ns", "a") == OBJECT
    assert bench.slept == [2.0, 0.5]
    bench.api.answers = [throttled[1], throttled[2], refusal(500)]
    with pytest.raises(errors.Unreachable):
        await bench.kube.get(CONFIG_MAP, "ns", "a")


async def test_a_long_pause_is_left_to_the_queue(bench: Bench) -> None:
    """A worker does not sleep for a minute."""
    bench.api.answers = [reply({"message": "later"}, 429, **{"Retry-After": "60"})]
    with pytest.raises(errors.Throttled) as caught:
        await bench.kube.get(CONFIG_MAP, "ns", "a")
    assert caught.value.after == 60.0
    assert bench.slept == []


async def test_writes_are_never_repeated(bench: Bench) -> None:
    """The world is read again first: the queue does that."""
    bench.api.answers = [refusal(503)]
    with pytest.raises(errors.Unreachable):
        await bench.kube.apply(OBJECT)
    assert len(bench.api.asked) == 1


async def test_an_operator_that_may_not_act_writes_nothing_and_reads_on(bench: Bench) -> None:
    bench.kube.may_write = lambda: False
    bench.api.answers += [reply(OBJECT), reply({"metadata": {"resourceVersion": "2"}})]
    with pytest.raises(errors.Superseded, match="another operator acts now"):
        await bench.kube.apply(OBJECT)
    assert await bench.kube.get(CONFIG_MAP, "ns", "a") == OBJECT
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "x", "namespace": "ns", "resourceVersion": "1"},
    }
    await bench.kube.replace(lease)
    assert [method for method, *_ in bench.api.asked] == ["GET", "PUT"], "the Lease alone is written"


async def test_every_request_is_counted_with_its_code(bench: Bench) -> None:
    """By verb, kind and code; the metrics hang on this."""
    bench.api.answers = [reply(OBJECT), refusal(409)]
    await bench.kube.get(CONFIG_MAP, "ns", "a")
    with pytest.raises(errors.Conflict):
        await bench.kube.apply(OBJECT)
    assert [(done.verb, done.kind, done.code) for done in bench.counted] == [
        ("get", "ConfigMap", 200),
        ("apply", "ConfigMap", 409),
    ]


async def test_an_api_server_that_is_away_is_unreachable() -> None:
    """No connection: counted with code 0, named in the error, retried by the queue."""
    counted: list[RequestDone] = []
    kube = Kube(ApiClient(Configuration(host="http://127.0.0.1:9")), timeout=0.5, on_request=counted.append)
    try:
        with pytest.raises(errors.Unreachable, match="get ConfigMap ns/a"):
            await kube.get(CONFIG_MAP, "ns", "a")
    finally:
        await kube.close()
    assert counted[0].code == 0


async def test_an_answer_that_is_no_json_becomes_words(bench: Bench) -> None:
    """A proxy's page instead of a Status object."""
    bench.api.answers = [web.Response(text="<html>bad\n gateway</html>", status=502)]
    with pytest.raises(errors.Unreachable, match="<html>bad gateway</html>"):
        await bench.kube.apply(OBJECT)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, errors.Invalid),
        (401, errors.Unreachable),
        (403, errors.Forbidden),
        (404, errors.NotFound),
        (409, errors.Conflict),
        (410, errors.Superseded),
        (422, errors.Invalid),
        (429, errors.Throttled),
        (500, errors.Unreachable),
        (504, errors.Unreachable),
    ],
)
def test_every_refusal_has_one_future(status: int, expected: type[errors.OperatorError]) -> None:
    """The code decides whether to retry, to stall or to look again."""
    assert type(error_of("get", "Secret ns/a", status, {"message": "words"})) is expected


def test_an_invalid_object_names_the_field_in_the_servers_words() -> None:
    """The message of a 422 is what helps a person."""
    causes = [{"field": "spec.replicas", "message": "must not be negative"}]
    body = {"message": "StatefulSet is invalid: spec.replicas", "details": {"causes": causes}}
    found = error_of("apply", "StatefulSet ns/a", 422, body)
    assert isinstance(found, errors.Invalid)
    assert (found.field, found.reason) == ("spec.replicas", "InvalidObject")
    assert str(found) == "apply StatefulSet ns/a: StatefulSet is invalid: spec.replicas"


async def test_a_complaint_about_a_secrets_text_is_not_repeated(bench: Bench) -> None:
    """The API server quotes what it could not parse, and errors are logged."""
    bench.api.answers = [refusal(400, 'illegal base64 data in "hunter2"')]
    with pytest.raises(errors.Invalid) as caught:
        await bench.kube.apply({**OBJECT, "kind": "Secret"})
    assert "hunter2" not in str(caught.value)


def test_a_namespace_that_goes_away_is_no_error_of_permissions() -> None:
    """The server answers 403 to creations there; nothing needs to be done."""
    body = {"message": "being terminated", "details": {"causes": [{"reason": "NamespaceTerminating"}]}}
    assert isinstance(error_of("apply", "Secret ns/a", 403, body), errors.NamespaceTerminating)


def test_names_cannot_leave_their_place_in_a_path() -> None:
    """A name with a slash stays one segment."""
    assert CONFIG_MAP.path("ns", "../x") == "/api/v1/namespaces/ns/configmaps/..%2Fx"


@pytest.mark.parametrize("obj", [{"apiVersion": "v1", "kind": "Node"}, {}])
def test_a_kind_that_is_none_of_ours_is_refused(obj: dict[str, Any]) -> None:
    """A builder that makes a new kind must enter it into the table."""
    with pytest.raises(ValueError, match="no path known"):
        kind_of(obj)


async def test_without_a_cluster_the_login_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither a pod nor a kubeconfig."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(errors.Unreachable, match="KUBECONFIG"):
        await Kube.connect(kubeconfig=str(tmp_path / "none"))
