"""The endpoints as an OpenAPI 3.1 document (https://spec.openapis.org/oas/v3.1.1), served at ``/openapi.json``.

Bodies of requests come from the models that check them; answers are described here and held to it by a test.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from cachepolicy_runtime.asgi.endpoints.clear import ClearRequest
from cachepolicy_runtime.asgi.endpoints.explain import ExplainRequest
from cachepolicy_runtime.asgi.endpoints.warm import CACHED, FAILED, NOT_STORED, STORED, WarmBatch
from cachepolicy_runtime.exposition import CONTENT_TYPE
from cachepolicy_runtime.ratelimit_answer import PROBLEM_JSON

Schema = dict[str, Any]

_TEXT, _NUMBER, _COUNT = {"type": "string"}, {"type": "number"}, {"type": "integer", "minimum": 0}
_COUNTS = {"type": "object", "additionalProperties": _COUNT}


def _or_null(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


def _object(properties: Schema, *, optional: tuple[str, ...] = (), closed: bool = True) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": not closed,
    }


def _map(schema: Schema) -> Schema:
    return {"type": "object", "additionalProperties": schema}


_POLICY: Schema = {
    "policy": _or_null(_TEXT),
    "revision": _or_null(_TEXT),
    "sequence": _or_null(_COUNT),
    "sections": {"type": "array", "items": _TEXT},
}
_STORE: Schema = {"status": {"enum": ["up", "unavailable", "memory"]}, "reason": _TEXT}


def _stores(**more: Schema) -> Schema:
    return _object(dict.fromkeys(("state", "cache"), _object({**_STORE, **more}, optional=("reason",))))


_TALLY: Schema = {"hits": _COUNT, "misses": _COUNT, "ratio": _or_null(_NUMBER)}
_PROVIDERS = _map(
    _object({**_TALLY, "models": _map(_object(_TALLY, closed=False))}, optional=("models",), closed=False)
)
_CACHE: Schema = {
    **_TALLY,
    "stored": _COUNT,
    "bypassed": _COUNTS,
    "notStored": _COUNTS,
    "storeFailures": _COUNT,
    "providers": _PROVIDERS,
}
_SAVINGS = _object(
    {
        "inputTokens": _COUNT,
        "cachedInputTokens": _COUNT,
        "outputTokens": _COUNT,
        "seconds": _NUMBER,
        "cost": _or_null(_NUMBER),
        "currency": _or_null(_TEXT),
    }
)

SCHEMAS: dict[str, Schema] = {
    "Problem": _object(
        {"type": _TEXT, "title": _TEXT, "status": {"type": "integer"}, "detail": _TEXT}, closed=False
    ),
    "Health": _object(
        {
            "status": {"enum": ["up", "degraded"]},
            "reasons": {"type": "array", "items": _TEXT},
            **_POLICY,
            "stores": _stores(),
        }
    ),
    "Stats": _object(
        {
            **_POLICY,
            "process": _object({"pod": _TEXT, "pid": _COUNT}),
            "responses": _object({**_CACHE, "savings": _SAVINGS}, closed=False),
            "embeddings": _object(_CACHE, closed=False),
            "limits": _object(
                {
                    "admitted": _COUNT,
                    "limited": _COUNT,
                    "unavailable": _COUNT,
                    "withoutStore": _COUNT,
                    "remembered": _COUNT,
                    "refusedBy": _COUNTS,
                    "shadowRefusedBy": _COUNTS,
                    "spend": _COUNTS,
                    "liveProcesses": _COUNT,
                },
                closed=False,
            ),
            "sessions": _COUNTS,
            "cacheServer": _object(
                dict.fromkeys(("keys", "usedBytes", "maxBytes", "evicted"), _or_null(_COUNT))
            ),
            "stores": _stores(outages=_COUNT),
        }
    ),
    "Cleared": _object({"cleared": _map({"type": ["string", "boolean"]})}),
    "Warmed": _object(
        {
            **dict.fromkeys((CACHED, STORED, NOT_STORED, FAILED), _COUNT),
            "results": {
                "type": "array",
                "items": _object(
                    {"result": {"enum": [CACHED, STORED, NOT_STORED, FAILED]}, "detail": _TEXT},
                    optional=("detail",),
                ),
            },
        }
    ),
    "Explanation": _object(
        {
            "result": {"enum": ["hit", "miss", "stale", "bypass"]},
            "detail": _or_null(_TEXT),
            "why": _TEXT,
            "ttlSeconds": {"type": ["integer", "null"]},
            "ageSeconds": _or_null(_COUNT),
            "nearest": {
                "anyOf": [
                    {"type": "null"},
                    _object(
                        {
                            "ageSeconds": _COUNT,
                            "same": _COUNT,
                            "different": _COUNT,
                            "differs": _map({"enum": ["changed", "added", "missing"]}),
                        }
                    ),
                ]
            },
        }
    ),
}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _answer(description: str, schema: str, content_type: str = "application/json") -> Schema:
    return {"description": description, "content": {content_type: {"schema": _ref(schema)}}}


_PROBLEMS = {
    400: "The body says nothing, or something unknown.",
    401: "There is no token.",
    403: "The token is wrong, or none is configured.",
    404: "The application caches no whole answers at that path.",
    413: "The body is too long.",
    429: "Another batch is under way.",
    501: "The application does not support it.",
    503: "Redis did not confirm it: nothing was done.",
}


def _problems(*statuses: int) -> Schema:
    return {str(status): _answer(_PROBLEMS[status], "Problem", PROBLEM_JSON) for status in statuses}


def _get(summary: str, answer: Schema) -> Schema:
    name = summary.split(":", 1)[0]
    return {"get": {"operationId": name, "summary": summary, "security": [], "responses": {"200": answer}}}


def _post(summary: str, body: type[BaseModel], answer: Schema, *more: int) -> Schema:
    return {
        "post": {
            "operationId": summary.split(":", 1)[0],
            "summary": summary,
            "security": [{"adminToken": []}],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": _ref(body.__name__)}},
            },
            "responses": {"200": answer, **_problems(400, 401, 403, 413, *more)},
        }
    }


def _requests(*models: type[BaseModel]) -> dict[str, Schema]:
    """The schemas of the models, those that they contain beside them."""
    found: dict[str, Schema] = {}
    for model in models:
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        found |= schema.pop("$defs", {})
        found[model.__name__] = schema
    return found


DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "CachePolicy endpoints of Core", "version": "1"},
    "servers": [{"url": ".", "description": "Where this document is."}],
    "paths": {
        "/health": _get("health: up, or degraded and why", _answer("Core answers either way.", "Health")),
        "/stats": _get("stats: what this process did since it started", _answer("Counts.", "Stats")),
        "/metrics": _get(
            "metrics: the same for Prometheus",
            {"description": "Samples.", "content": {CONTENT_TYPE: {"schema": _TEXT}}},
        ),
        "/openapi.json": _get(
            "openapi: this document",
            {"description": "OpenAPI 3.1.", "content": {"application/json": {"schema": {"type": "object"}}}},
        ),
        "/clear": _post(
            "clear: empty a scope of the caches", ClearRequest, _answer("What was emptied.", "Cleared"), 503
        ),
        "/warm": _post(
            "warm: run requests that are not cached",
            WarmBatch,
            _answer("What became of each.", "Warmed"),
            429,
            501,
        ),
        "/explain": _post(
            "explain: would this be a hit",
            ExplainRequest,
            _answer("Whether and why.", "Explanation"),
            404,
            501,
        ),
    },
    "components": {
        "securitySchemes": {"adminToken": {"type": "http", "scheme": "bearer"}},
        "schemas": {**SCHEMAS, **_requests(ClearRequest, WarmBatch, ExplainRequest)},
    },
}
