"""Building blocks of the API models: strict frozen models, CEL rules beside the Python ones, field errors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, core_schema


class ApiModel(BaseModel):
    """Camel case outside, snake case inside; unknown fields are refused; values never change."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, validate_default=True
    )


class TextValue:
    """A value that is written as text: models read it by ``_validate`` and write it by ``str``."""

    @classmethod
    def _validate(cls, value: Any) -> Self:
        raise NotImplementedError

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._validate, serialization=core_schema.to_string_ser_schema()
        )


def cel(rule: str, message: str) -> dict[str, str]:
    """One validation of the API server (``x-kubernetes-validations``)."""
    return {"rule": rule, "message": message}


def cel_rules(*rules: dict[str, str]) -> dict[str, Any]:
    """Rules as ``json_schema_extra`` of a field."""
    return {"x-kubernetes-validations": list(rules)}


def validated(*rules: dict[str, str]) -> ConfigDict:
    """Rules as the ``model_config`` of a model."""
    return ConfigDict(json_schema_extra=cel_rules(*rules))


@dataclass(frozen=True)
class Matching:
    """Marks a string (``Annotated[str, Matching(…)]``) that must match ``pattern`` as a whole.

    A rule instead of the schema's ``pattern``, of which a person would see nothing but the regular expression.
    """

    pattern: str
    message: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(schema) | cel_rules(cel(cel_matches("self", self.pattern), self.message))

    def _check(self, value: str) -> str:
        if not re.fullmatch(self.pattern, value):
            raise ValueError(f"{value[:40]!r}: {self.message}")
        return value


def cel_matches(subject: str, pattern: str) -> str:
    """The CEL expression that ``subject`` matches ``pattern``, which holds no double quote."""
    return f'{subject}.matches(r"{pattern}")'


@dataclass(frozen=True)
class FieldError:
    """One thing that is wrong, where, and what is allowed."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def field_errors(error: ValidationError, root: str = "spec") -> tuple[FieldError, ...]:
    """Pydantic's errors as paths that a person finds in the YAML: ``spec.rateLimits.login.rates[0].window``."""
    return tuple(
        FieldError(field_path(detail["loc"], root), _sentence(detail)) for detail in error_details(error)
    )


def error_details(error: ValidationError) -> tuple[ErrorDetails, ...]:
    """Pydantic's errors without the lists that it calls too short because it did not count their bad items."""
    details = error.errors()
    within = {detail["loc"][:depth] for detail in details for depth in range(len(detail["loc"]))}
    return tuple(detail for detail in details if detail["type"] != "too_short" or detail["loc"] not in within)


def field_path(location: Iterable[int | str], root: str) -> str:
    path = root
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part != "[key]":
            path += f".{part}" if path else part
    return path


def strip_unknown(model: type[BaseModel], data: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """``data`` without the fields that ``model`` does not know, and the paths of those left out, sorted.

    A reader of a newer minor version ignores what it does not know, and says so.
    """
    ignored: list[str] = []
    return _strip(model, data, "", ignored), tuple(sorted(ignored))


def _strip(model: type[BaseModel], data: Mapping[str, Any], path: str, ignored: list[str]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    for key, value in data.items():
        where = f"{path}.{key}" if path else key
        if key not in fields:
            ignored.append(where)
        else:
            kept[key] = _strip_value(fields[key].annotation, value, where, ignored)
    return kept


def _strip_value(annotation: Any, value: Any, path: str, ignored: list[str]) -> Any:
    model, container = _model_within(annotation)
    if model is None:
        return value
    if container is dict and isinstance(value, Mapping):
        return {
            key: _strip(model, item, f"{path}[{key}]", ignored) if isinstance(item, Mapping) else item
            for key, item in value.items()
        }
    if container is tuple and isinstance(value, list):
        return [
            _strip(model, item, f"{path}[{index}]", ignored) if isinstance(item, Mapping) else item
            for index, item in enumerate(value)
        ]
    if container is None and isinstance(value, Mapping):
        return _strip(model, value, path, ignored)
    return value


def _model_within(annotation: Any) -> tuple[type[BaseModel] | None, type | None]:
    """The model in ``Model``, ``Model | None``, ``dict[str, Model]`` or ``tuple[Model, ...]``, and its container."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, None
    origin = getattr(annotation, "__origin__", None)
    for argument in getattr(annotation, "__args__", ()):
        model, container = _model_within(argument)
        if model is not None:
            return model, origin if origin in (dict, tuple) else container
    return None, None


def _sentence(detail: ErrorDetails) -> str:
    if detail["type"] == "extra_forbidden":
        return "unknown field"
    if detail["type"] == "missing":
        return "required, and missing"
    if detail["type"] in ("too_short", "too_long"):
        bound, limit = (
            ("at least", "min_length") if detail["type"] == "too_short" else ("at most", "max_length")
        )
        return f"must have {bound} {detail['ctx'][limit]} entries, not {detail['ctx'].get('actual_length')}"
    message = str(detail["msg"])
    for prefix in ("Value error, ", "Assertion failed, "):
        message = message.removeprefix(prefix)
    return (
        message[:1].lower() + message[1:]
        if message.startswith(("Input should", "String", "Dict"))
        else message
    )
