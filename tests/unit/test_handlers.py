"""kopf is told to filter on the server, to write nothing, and which policy an event belongs to."""

from __future__ import annotations

import kopf
import pytest

from cachepolicy import names
from cachepolicy_operator import handlers
from cachepolicy_operator.queue import Key


def settings() -> kopf.OperatorSettings:
    made = kopf.OperatorSettings()
    handlers.configure(made, request_timeout=15.0)
    return made


def informer() -> handlers.Informer:
    return handlers.Informer(
        enqueue=lambda key: None, health=lambda: "", namespaces=(), health_port=1, request_timeout=15.0
    )


def resource(group: str, version: str, plural: str) -> kopf.Resource:
    return kopf.Resource(group=group, version=version, plural=plural, namespaced=True, preferred=True)


@pytest.mark.parametrize(("kind", "selector"), handlers.SELECTORS.items())
def test_the_selector_really_reaches_the_request(kind: tuple[str, str, str], selector: str | None) -> None:
    """A spelling that kopf does not know filters nothing, silently (rule 28): ask kopf what it will send."""
    found = settings().watching.label_selectors.collect(resource(*kind))
    assert list(found) == ([] if selector is None else [selector])


def test_kopf_writes_nothing_and_scans_nothing() -> None:
    made = settings()
    assert made.peering.standalone
    assert made.scanning.disabled
    assert not made.posting.enabled
    assert isinstance(made.watching.server_timeout, int), "the API server refuses 270.0"


def test_there_is_no_handler_that_would_add_a_finalizer_or_an_annotation() -> None:
    """Rule 26: only on.event."""
    registry = informer().registry()
    for kind in handlers.SELECTORS:
        assert not registry._changing.has_handlers(resource(*kind))
        assert not registry._spawning.has_handlers(resource(*kind))
        assert registry._watching.has_handlers(resource(*kind))


def test_secrets_and_claims_are_not_watched() -> None:
    assert not {plural for _, _, plural in handlers.SELECTORS} & {
        "secrets",
        "persistentvolumeclaims",
        "events",
    }


def test_an_event_belongs_to_the_policy_that_its_label_names() -> None:
    meta = {"namespace": "ns", "name": "x", "labels": {names.LABEL_OWNER: "a", names.LABEL_POLICY: "b"}}
    assert handlers.key_of_policy(meta) == Key("ns", "x")
    assert handlers.key_of_owned(meta) == Key("ns", "a")
    assert handlers.key_of_consumer(meta) == Key("ns", "b")
    assert handlers.key_of_owned({"namespace": "ns", "name": "x"}) is None
