"""CachePolicies in YAML files, checked without a cluster: every mistake with its line, its field and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml
from pydantic import ValidationError

from cachepolicy import names
from cachepolicy.schema import error_details, field_errors
from cachepolicy.spec import CachePolicySpec, name_refusal

DEFAULT_NAMESPACE = "default"
_TOP_LEVEL = ("apiVersion", "kind", "metadata", "spec", "status")


@dataclass(frozen=True)
class PolicyManifest:
    """A valid CachePolicy as it stands in a file."""

    namespace: str
    name: str
    spec: CachePolicySpec
    line: int = 1

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class Problem:
    """One mistake. ``path`` names the field, empty where the document as a whole is meant."""

    line: int
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


@dataclass(frozen=True)
class Skipped:
    """A document that is something else than a CachePolicy."""

    line: int
    what: str


@dataclass(frozen=True)
class PolicyText:
    """All documents of one YAML text."""

    policies: tuple[PolicyManifest, ...]
    problems: tuple[Problem, ...]
    skipped: tuple[Skipped, ...]


def read_policies(text: str) -> PolicyText:
    """Read every document of ``text``. Never raises for bad content: it is in ``problems``."""
    policies: list[PolicyManifest] = []
    problems: list[Problem] = []
    skipped: list[Skipped] = []
    for found in _documents(text):
        for item in found if isinstance(found, tuple) else (found,):
            if isinstance(item, PolicyManifest):
                policies.append(item)
            elif isinstance(item, Problem):
                problems.append(item)
            else:
                skipped.append(item)
    return PolicyText(
        tuple(policies), tuple(sorted(problems, key=lambda problem: problem.line)), tuple(skipped)
    )


Found = PolicyManifest | Skipped | tuple[Problem, ...]


def _documents(text: str) -> Iterator[Found]:
    try:
        loader = _StrictLoader(text)
    except yaml.YAMLError as error:  # characters that no YAML may hold
        yield (Problem(1, "", f"not YAML: {error}".partition("\n")[0]),)
        return
    try:
        while loader.check_node():
            if (node := loader.get_node()) is not None:
                yield from _document(loader, node)
    except yaml.MarkedYAMLError as error:
        yield (_syntax(error),)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that there is not, such as 2026-99-99
        yield (Problem(1, "", f"not YAML: {error}"),)
    finally:
        loader.dispose()


def _document(loader: _StrictLoader, node: yaml.Node) -> Iterator[Found]:
    line = _line(node)
    content = loader.construct_document(node)
    if content is None:
        return
    if not isinstance(content, Mapping):
        yield (Problem(line, "", "a document must be one Kubernetes object (a mapping)"),)
        return
    group, _, version = str(content.get("apiVersion", "")).partition("/")
    kind = content.get("kind")
    if group != names.GROUP and kind != names.KIND:
        yield Skipped(line, f"{kind or 'a document without a kind'} is not a {names.KIND}")
    elif group != names.GROUP or version != names.VERSION:
        yield (_at(node, ("apiVersion",), f"must be {names.API_VERSION} for a {names.KIND}"),)
    elif kind != names.KIND:
        yield (_at(node, ("kind",), f"must be {names.KIND}: {names.GROUP} has no other kind"),)
    else:
        yield _policy(node, content)


def _policy(node: yaml.Node, content: Mapping[str, Any]) -> PolicyManifest | tuple[Problem, ...]:
    problems = [
        _at(node, (field,), _unknown(str(field), _TOP_LEVEL)) for field in content if field not in _TOP_LEVEL
    ]
    metadata = content.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    name = metadata.get("name")
    if not isinstance(name, str):
        problems.append(_at(node, ("metadata", "name"), "required: a string"))
    elif refusal := name_refusal(name):
        problems.append(_at(node, ("metadata", "name"), refusal.removeprefix("metadata.name ")))
    namespace = metadata.get("namespace", DEFAULT_NAMESPACE)
    if not isinstance(namespace, str) or not namespace:
        problems.append(_at(node, ("metadata", "namespace"), "must be the name of a namespace"))
    spec = content.get("spec")
    if not isinstance(spec, Mapping):
        problems.append(_at(node, ("spec",), "required: a mapping with redis and at least one section"))
        return tuple(problems)
    try:
        parsed = CachePolicySpec.model_validate(spec)
    except ValidationError as error:
        problems += _spec_problems(node, error)
        return tuple(problems)
    return tuple(problems) or PolicyManifest(str(namespace), str(name), parsed, _line(node))


def _spec_problems(node: yaml.Node, error: ValidationError) -> Iterator[Problem]:
    for detail, found in zip(error_details(error), field_errors(error), strict=True):
        location, message = detail["loc"], found.message
        if detail["type"] == "extra_forbidden":
            message = _unknown(str(location[-1]), allowed_fields(location[:-1]))
        yield Problem(_line(_find(node, ("spec", *location))), found.path, message)


def _unknown(field: str, allowed: Sequence[str]) -> str:
    close = difflib.get_close_matches(field, allowed, n=1, cutoff=0.6) or [
        name for name in allowed if name.lower() == field.lower()
    ]
    hint = f"did you mean {close[0]}? " if close else ""
    return f"unknown field; {hint}Allowed here: {', '.join(allowed)}" if allowed else "unknown field"


def allowed_fields(location: Sequence[int | str]) -> tuple[str, ...]:
    """The fields that an object at ``location`` below ``spec`` may have, in the order of the schema."""
    schema = _spec_schema()
    found: Mapping[str, Any] = schema
    for part in location:
        found = _object(found, schema)
        if isinstance(part, int):
            found = found.get("items", {})
        else:
            extra = found.get("additionalProperties")
            found = found.get("properties", {}).get(part) or (extra if isinstance(extra, Mapping) else {})
    return tuple(_object(found, schema).get("properties", ()))


def _object(found: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """``found`` without references and without its ``null`` alternative."""
    while True:
        if "$ref" in found:
            found = root["$defs"][found["$ref"].rpartition("/")[2]]
        elif "anyOf" in found:
            found = next(option for option in found["anyOf"] if option.get("type") != "null")
        else:
            return found


@cache
def _spec_schema() -> Mapping[str, Any]:
    return CachePolicySpec.model_json_schema(by_alias=True)


# ---------------------------------------------------------------------------------------------------- YAML


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands twice: YAML would keep the last one in silence, kubectl refuses it too."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode, deep: bool = False) -> Any:
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        if key.value in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key.value!r} stands twice in one mapping", key.start_mark
            )
        seen.add(key.value)
    return yaml.SafeLoader.construct_yaml_map(loader, node)


_StrictLoader.add_constructor("tag:yaml.org,2002:map", _mapping)


def _syntax(error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    return Problem(mark.line + 1 if mark else 1, "", f"not YAML: {error.problem or error.context}")


def _at(node: yaml.Node, path: tuple[str, ...], message: str) -> Problem:
    return Problem(_line(_find(node, path)), ".".join(path), message)


def _find(node: yaml.Node, path: Sequence[int | str]) -> yaml.Node:
    """The node at ``path``, or the deepest one on the way there that exists."""
    for part in path:
        if isinstance(node, yaml.MappingNode):
            match = [(key, value) for key, value in node.value if key.value == str(part)]
            if not match:
                return node
            node = match[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
        else:
            return node
    return node


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1
