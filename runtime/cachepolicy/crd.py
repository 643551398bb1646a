"""The CustomResourceDefinition, generated from the models.

``python -m cachepolicy.crd`` prints it, ``python -m cachepolicy.crd --check FILE`` exits 1 when FILE differs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cachepolicy import names
from cachepolicy.schema import cel
from cachepolicy.spec import NAME_MESSAGE, CachePolicySpec
from cachepolicy.status import CachePolicyStatus

HEADER = "# Generated from the models in runtime/cachepolicy by `make crds`. Do not edit.\n"

#: JSON Schema keywords that a structural schema does not know or that only repeat the model's name.
_DROPPED = ("title", "default", "propertyNames", "$defs")


def custom_resource_definition() -> dict[str, Any]:
    """The whole object, as the API server takes it."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{names.PLURAL}.{names.GROUP}",
            # Deleting a CRD deletes every object of it, and with them every Redis: pruning must not.
            "annotations": {
                "argocd.argoproj.io/sync-options": "Prune=false",
                "helm.sh/resource-policy": "keep",
                "kustomize.toolkit.fluxcd.io/prune": "disabled",
            },
        },
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": names.KIND,
                "listKind": f"{names.KIND}List",
                "plural": names.PLURAL,
                "singular": names.SINGULAR,
                "shortNames": [names.SHORT_NAME],
                "categories": [names.CATEGORY],
            },
            "versions": [_version()],
        },
    }


def _version() -> dict[str, Any]:
    return {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": _printer_columns(),
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "description": "Shared state of an LLM service in Redis: sessions, rate limits, response and "
                "embedding caches. The operator runs Redis for it and hands Core one policy document.",
                "required": ["spec"],
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "metadata": {"type": "object"},
                    "spec": structural_schema(CachePolicySpec),
                    "status": structural_schema(CachePolicyStatus),
                },
                "x-kubernetes-validations": [
                    cel(
                        f"size(self.metadata.name) <= {names.MAX_NAME_LENGTH} && "
                        f"self.metadata.name.matches('{names.NAME_PATTERN}')",
                        NAME_MESSAGE,
                    )
                ],
            }
        },
    }


def _printer_columns() -> list[dict[str, Any]]:
    def column(name: str, path: str, kind: str = "string", priority: int = 0) -> dict[str, Any]:
        return {"name": name, "type": kind, "jsonPath": path, "priority": priority}

    return [
        column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
        column("Reason", '.status.conditions[?(@.type=="Ready")].reason'),
        column("State", ".status.redis.state.ready"),
        column("Cache", ".status.redis.cache.ready"),
        column("Enforced", ".status.core.enforced"),
        column("Sections", ".status.sections"),
        column("Revision", ".status.core.revision"),
        column("Age", ".metadata.creationTimestamp", "date"),
        column("Message", '.status.conditions[?(@.type=="Ready")].message', priority=1),
    ]


def structural_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of ``model`` as a Kubernetes structural schema: references inlined, no defaults."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    return _structural(schema, schema.get("$defs", {}))


def _structural(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    node = _resolve(node, definitions)
    result = {key: value for key, value in node.items() if key not in _DROPPED}
    if result.get("additionalProperties") is False:
        del result["additionalProperties"]
    if result.get("additionalProperties") is True:  # a structure of core/v1, checked where it is used
        result["x-kubernetes-preserve-unknown-fields"] = result.pop("additionalProperties")
    if "properties" in result:
        result["properties"] = {
            name: _structural(child, definitions) for name, child in result["properties"].items()
        }
    for key in ("items", "additionalProperties"):
        if isinstance(result.get(key), dict):
            result[key] = _structural(result[key], definitions)
    return _with_list_and_map_types(result)


def _resolve(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """``node`` with its reference and its "or null" taken out; what stands beside a reference wins."""
    if "$ref" in node:
        target = definitions[node["$ref"].rpartition("/")[2]]
        return _resolve(
            {**target, **{key: value for key, value in node.items() if key != "$ref"}}, definitions
        )
    options = [option for option in node.get("anyOf", ()) if option != {"type": "null"}]
    if len(options) == 1:
        beside = {key: value for key, value in node.items() if key != "anyOf"}
        return _resolve({**options[0], **beside}, definitions)
    return node


def _with_list_and_map_types(schema: dict[str, Any]) -> dict[str, Any]:
    properties = schema.get("properties", {})
    if set(properties) == {"matchLabels"}:
        schema["x-kubernetes-map-type"] = "atomic"
    if "conditions" in properties:
        properties["conditions"] |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    return schema


def render() -> str:
    import yaml

    return HEADER + yaml.safe_dump(
        custom_resource_definition(), sort_keys=False, width=110, allow_unicode=True
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m cachepolicy.crd", description=__doc__)
    parser.add_argument(
        "--check", metavar="FILE", type=Path, help="exit 1 when FILE is not what would be printed"
    )
    options = parser.parse_args(arguments)
    wanted = render()
    if options.check is None:
        sys.stdout.write(wanted)
        return 0
    if options.check.read_text() == wanted:
        return 0
    sys.stderr.write(f"{options.check} is not what the models give: run `make crds` and commit it\n")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
