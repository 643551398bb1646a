"""What bodies of requests to the endpoints have in common: strict, closed, and described as they are checked."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


def described(**more: Any) -> ConfigDict:
    """The settings of a model; ``more`` goes into its JSON schema, for rules that fields alone cannot say."""

    def finish(schema: dict[str, Any]) -> None:
        for field in schema["properties"].values():
            optional = [item for item in field.get("anyOf", ()) if item != {"type": "null"}]
            if optional:
                del field["anyOf"], field["default"]
                field.update(optional[0])
        schema.update(more)

    return ConfigDict(extra="forbid", frozen=True, strict=True, json_schema_extra=finish)


class Body(BaseModel):
    """A field that does not matter is left out; null says nothing and is refused."""

    model_config = described()

    @model_validator(mode="before")
    @classmethod
    def _no_null(cls, data: Any) -> Any:
        nothing = [name for name, value in data.items() if value is None] if isinstance(data, dict) else ()
        if nothing:
            raise ValueError(f"{nothing[0]} must not be null: leave it out")
        return data
