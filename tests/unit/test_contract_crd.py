"""The CRD follows the models, and what the API server cannot take does not get into it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cachepolicy import crd
from cachepolicy.spec import CachePolicySpec

COMMITTED = Path(__file__).parents[2] / "crds" / "cachepolicies.yaml"
SCHEMA = crd.custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def nodes(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(schema, dict):
        return
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        yield from nodes(schema.get(key), f"{path}[]")


def test_the_committed_file_is_what_the_models_give() -> None:
    assert COMMITTED.read_text() == crd.render(), "run `make crds`"


def test_check_names_the_file_that_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stale = tmp_path / "crd.yaml"
    stale.write_text("{}")
    assert crd.main(["--check", str(stale)]) == 1
    assert "make crds" in capsys.readouterr().err
    assert crd.main(["--check", str(COMMITTED)]) == 0


def test_the_schema_is_structural_and_has_no_defaults() -> None:
    for path, node in nodes(SCHEMA):
        assert not {"$ref", "$defs", "default", "title", "propertyNames"} & set(node), path
        assert "type" in node or node.get("x-kubernetes-int-or-string"), path


def test_every_field_of_the_spec_is_explained() -> None:
    """``kubectl explain`` shows descriptions and nothing else."""
    for path, node in nodes(SCHEMA["properties"]["spec"], "spec"):
        for name, child in node.get("properties", {}).items():
            assert child.get("description"), f"{path}.{name}"


def test_everything_that_a_rule_walks_over_is_bounded() -> None:
    """The API server refuses a CRD whose rules could cost too much."""
    for path, node in nodes(SCHEMA["properties"]["spec"], "spec"):
        if node.get("type") == "array":
            assert "maxItems" in node, path
        opaque = node.get("x-kubernetes-preserve-unknown-fields")  # and no rule looks into it
        if node.get("type") == "object" and "properties" not in node and not opaque:
            assert "maxProperties" in node, path


def test_the_schema_and_the_models_know_the_same_fields() -> None:
    names = {field.alias for field in CachePolicySpec.model_fields.values()}
    assert set(SCHEMA["properties"]["spec"]["properties"]) == names


def test_deleting_the_crd_by_pruning_is_prevented() -> None:
    annotations = yaml.safe_load(COMMITTED.read_text())["metadata"]["annotations"]
    assert annotations["argocd.argoproj.io/sync-options"] == "Prune=false"
    assert annotations["helm.sh/resource-policy"] == "keep"
