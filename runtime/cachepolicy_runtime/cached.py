"""``@runtime.cached``: the results of an expensive function, in the response cache.

The key is made of the function's arguments, and its result is stored as JSON by what it is annotated to return,
never pickled. Whoever asks at the same time waits for one call, over all replicas.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Set
from dataclasses import dataclass, fields, is_dataclass
from datetime import timedelta
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, cast, get_type_hints

import orjson
from pydantic import (
    BaseModel,
    PydanticSchemaGenerationError,
    Secret,
    SecretBytes,
    SecretStr,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import PydanticSerializationError, to_jsonable_python

from cachepolicy.durations import Duration
from cachepolicy.response_cache import CacheScope
from cachepolicy.stamps import tags_of
from cachepolicy_runtime.values import FUNCTIONS, MAX_NAME, ValueName

if TYPE_CHECKING:
    from cachepolicy_runtime.runtime import CacheRuntime

_log = logging.getLogger("cachepolicy.cached")

P = ParamSpec("P")
R = TypeVar("R")

Shared = Literal["tenant", "user", "all"]
Tags = Iterable[str] | Callable[..., Iterable[str]]

_SCOPES = {"tenant": CacheScope.TENANT, "user": CacheScope.USER, "all": CacheScope.GLOBAL}


@dataclass(frozen=True, slots=True)
class Options:
    """What the decorator was given; see :meth:`CacheRuntime.cached`."""

    name: str | None
    ttl: Duration | None
    shared: Shared
    key: Callable[..., Any] | None
    ignore: frozenset[str]
    tags: Tags

    @classmethod
    def of(
        cls,
        *,
        name: str | None,
        ttl: str | timedelta | None,
        shared: Shared,
        key: Callable[..., Any] | None,
        ignore: Collection[str],
        tags: Tags,
    ) -> Options:
        """Raises ``ValueError`` for what cannot be."""
        if shared not in _SCOPES:
            raise ValueError("shared must be tenant, user or all")
        if key is not None and ignore:
            raise ValueError(
                "key replaces the key that is made of the arguments, so there is nothing to ignore"
            )
        fixed = tags if callable(tags) else tags_of(tags)
        return cls(name, _duration(ttl), shared, key, frozenset(ignore), fixed)


class CachedFunction:
    """One decorated function: its keys, and its results as JSON."""

    def __init__(self, runtime: CacheRuntime, function: Callable[..., Any], options: Options) -> None:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ValueError("what a generator yields is not cached: return a list")
        self.name = options.name or f"{function.__module__}.{function.__qualname__}"
        if not 0 < len(self.name) <= MAX_NAME:
            raise ValueError(f"the name of a cached function has 1 to {MAX_NAME} characters: give name=")
        self._runtime = runtime
        self._values = runtime.responses.values
        self._function = function
        self._options = options
        self._signature = inspect.signature(function)
        if unknown := options.ignore - self._signature.parameters.keys():
            raise ValueError(f"{self.name} has no parameter {', '.join(sorted(unknown))} to ignore")
        self._told = False

    async def call(
        self, run: Callable[[], Awaitable[Any]], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """The stored result of a call with these arguments, else that of ``run``."""
        which, made = self._which(args, kwargs), []

        async def make() -> bytes | None:
            made.append(await run())
            return self._encoded(made[-1])

        payload = await self._values.get_or_make(which, make, identity=await self._runtime.caller())
        if made:
            return made[-1]
        try:
            return self._adapter.validate_json(cast("bytes", payload))
        except ValidationError:  # the type's own rules have changed
            return await run()

    def _which(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ValueName:
        options, tags = self._options, self._options.tags
        if options.key is None:
            parts = self._arguments(args, kwargs)
        else:
            parts = keyed(options.key(*args, **kwargs), f"the key of {self.name}")
        return ValueName(
            FUNCTIONS,
            self.name,
            [self._shape, parts],
            _SCOPES[options.shared],
            options.ttl,
            tags_of(tags(*args, **kwargs)) if callable(tags) else tuple(tags),
        )

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return {
            name: keyed(value, f"argument {name} of {self.name}")
            for name, value in bound.arguments.items()
            if name not in self._options.ignore
        }

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        """Made at the first call, for a type may be defined behind the function."""
        return TypeAdapter(_returned(self._function, self.name))

    @cached_property
    def _shape(self) -> str:
        """What a result looks like: after it has changed, results of before are not found."""
        try:
            shape = orjson.dumps(self._adapter.json_schema(mode="serialization"), option=orjson.OPT_SORT_KEYS)
        except (PydanticSchemaGenerationError, PydanticSerializationError, ValueError, TypeError):
            shape = repr(_returned(self._function, self.name)).encode()
        return hashlib.sha256(shape).hexdigest()[:16]

    def _encoded(self, result: Any) -> bytes | None:
        """The result as JSON; None where it would come back as something else."""
        try:
            payload = self._adapter.dump_json(result, warnings="error")
            if self._adapter.validate_json(payload) == result:
                return payload
        except (PydanticSerializationError, ValueError, TypeError):
            pass  # no JSON, or nothing that can be compared
        if not self._told:
            self._told = True
            _log.warning(
                "results of %s are not cached: as JSON they would come back as something else", self.name
            )
        return None


def cached(runtime: CacheRuntime, options: Options) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """The decorator; see :meth:`CacheRuntime.cached`."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        known = CachedFunction(runtime, function, options)
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def waiting(*args: P.args, **kwargs: P.kwargs) -> Any:
                return await known.call(lambda: function(*args, **kwargs), args, kwargs)

            return cast("Callable[P, R]", waiting)

        @wraps(function)
        def blocking(*args: P.args, **kwargs: P.kwargs) -> R:
            result: R = runtime.bridge.run_with(
                lambda run: known.call(run, args, kwargs), lambda: function(*args, **kwargs)
            )
            return result

        return blocking

    return decorate


def _returned(function: Callable[..., Any], name: str) -> Any:
    """The type that a call results in; raises ``TypeError`` where the function does not say it."""
    hints = get_type_hints(function, include_extras=True)
    if "return" not in hints:
        raise TypeError(f"{name} must say what it returns (-> …): by that its results are stored as JSON")
    return hints["return"]


def keyed(value: Any, what: str) -> Any:
    """``value`` as JSON that no value of another type has: lists, mappings and all other types are marked.

    Raises ``TypeError`` saying ``what`` cannot be a part of a key.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) in (list, tuple):
        return ["list", *(keyed(item, what) for item in value)]
    if type(value) is dict and all(type(key) is str for key in value):
        return ["dict", {key: keyed(item, what) for key, item in value.items()}]
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if (inside := _inside(value)) is not None:
        return [kind, *(keyed(item, what) for item in inside)]
    try:
        return [kind, to_jsonable_python(value, bytes_mode="base64")]
    except (PydanticSerializationError, ValueError):
        raise TypeError(
            f"{what} is a {kind}, which no key can be made of: name it in ignore=, or give key="
        ) from None


def _inside(value: Any) -> Iterable[Any] | None:
    """What a value is made of, where its JSON may leave out or mask a part: a secret is ``**********`` there, and a
    field may be excluded. Two values that differ in nothing else are two keys."""
    if isinstance(value, Secret | SecretStr | SecretBytes):
        return (value.get_secret_value(),)
    if isinstance(value, BaseModel):
        names = (*type(value).model_fields, *(value.model_extra or ()))
        return ({name: getattr(value, name) for name in names},)
    if is_dataclass(value) and not isinstance(value, type):
        return ({one.name: getattr(value, one.name) for one in fields(value)},)
    if isinstance(value, Mapping | Set):
        return sorted(value.items() if isinstance(value, Mapping) else value, key=repr)
    return value if isinstance(value, list | tuple) else None


def _duration(ttl: str | timedelta | None) -> Duration | None:
    if ttl is None:
        return None
    found = Duration.parse(ttl) if isinstance(ttl, str) else Duration(ttl // timedelta(milliseconds=1))
    if found.milliseconds <= 0:
        raise ValueError("ttl must be longer than nothing")
    return found
