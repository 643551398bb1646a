"""Whether an object still is what we last applied: the reason for every write, or for none.

Server-side apply records in `metadata.managedFields` which fields we own. Walking that record together with the
wanted and the live object answers in one pass: a field that we want and no longer own was edited by somebody, a field
that we own and no longer want must go, and at every owned leaf the live value must be the wanted one. What others add
beside our fields, and what the server fills in, never shows up, so nothing is written at rest.

The record's form: https://kubernetes.io/docs/reference/using-api/server-side-apply/ (`f:` a field, `k:` a list item by
its keys, `v:` an item of a set, `.` the thing itself; an empty record is a leaf).

Reasons hold paths only, never values: they are logged, and Secrets are compared here as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cachepolicy.quantities import Quantity

# Not recorded by the server: they say which object it is.
_IDENTITY = frozenset({"apiVersion", "kind"})
_METADATA_IDENTITY = frozenset({"name", "namespace"})
# The parents, and the one field, whose strings are quantities: `1024Mi` and `1Gi` are the same there.
_QUANTITY_MAPS = frozenset({"limits", "requests"})
_QUANTITY_FIELDS = frozenset({"sizeLimit"})

Path = tuple[str, ...]


def difference(want: Mapping[str, Any], live: Mapping[str, Any] | None, manager: str) -> list[str]:
    """Why `want` has to be applied, as `path: what is the matter`; empty when nothing has to be.

    `want` is the whole object that `manager` would apply, `live` the object as the API server gave it.
    """
    if live is None:
        return ["missing"]
    owned = owned_fields(live, manager)
    if owned is None:
        return [f"never applied by {manager}"]
    return list(_walk(owned, _recorded_part(want), live, ()))


def owned_fields(live: Mapping[str, Any], manager: str) -> dict[str, Any] | None:
    """The fields that `manager` owns by server-side apply, in the server's notation; None if it never applied."""
    for entry in live.get("metadata", {}).get("managedFields") or []:
        if (entry.get("manager"), entry.get("operation")) == (manager, "Apply") and not entry.get(
            "subresource"
        ):
            fields: dict[str, Any] = entry.get("fieldsV1") or {}
            return fields
    return None


def _recorded_part(want: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {key: value for key, value in want["metadata"].items() if key not in _METADATA_IDENTITY}
    rest = {key: value for key, value in want.items() if key not in _IDENTITY and key != "metadata"}
    return {**rest, "metadata": metadata} if metadata else rest


def _walk(owned: Mapping[str, Any], want: Any, live: Any, path: Path) -> Iterator[str]:
    inner = {key: value for key, value in owned.items() if key != "."}
    if not inner:
        if not _same(want, live, path):
            yield f"{_text(path)}: changed"
    elif isinstance(want, Mapping):
        yield from _walk_map(inner, want, live, path)
    elif isinstance(want, list):
        yield from _walk_list(inner, want, live, path)
    else:
        yield f"{_text(path)}: changed"


def _walk_map(owned: Mapping[str, Any], want: Mapping[str, Any], live: Any, path: Path) -> Iterator[str]:
    live = live if isinstance(live, Mapping) else {}
    for key, value in want.items():
        fields = owned.get(f"f:{key}")
        if fields is None:
            yield f"{_text((*path, key))}: not ours (new, or changed by another)"
        else:
            yield from _walk(fields, value, live.get(key), (*path, key))
    for entry in owned:
        key = entry.removeprefix("f:")
        if key not in want:
            yield f"{_text((*path, key))}: no longer wanted"


def _walk_list(owned: Mapping[str, Any], want: Sequence[Any], live: Any, path: Path) -> Iterator[str]:
    rest = list(live) if isinstance(live, list) else []
    unseen = list(want)
    for entry, fields in owned.items():
        label = (*path, f"[{entry.partition(':')[2]}]")
        wanted = _pick(unseen, entry)
        if wanted is None:
            yield f"{_text(label)}: no longer wanted"
            continue
        found = _pick(rest, entry)
        if found is None:
            yield f"{_text(label)}: missing"
        else:
            yield from _walk(fields, wanted[0], found[0], label)
    for item in unseen:
        yield f"{_text((*path, _item_name(item)))}: not ours (new, or changed by another)"


def _pick(items: list[Any], entry: str) -> tuple[Any] | None:
    """Take the item that a `k:` or `v:` entry names out of `items`, in a tuple as it may be None itself."""
    mark, _, text = entry.partition(":")
    wanted = json.loads(text)
    for position, item in enumerate(items):
        if item == wanted if mark == "v" else _has_keys(item, wanted):
            return (items.pop(position),)
    return None


def _has_keys(item: Any, keys: Mapping[str, Any]) -> bool:
    return isinstance(item, Mapping) and all(item.get(key) == value for key, value in keys.items())


def _item_name(item: Any) -> str:
    name = item.get("name") or item.get("uid") if isinstance(item, Mapping) else None
    return f"[{name}]" if name else "[item]"


def _same(want: Any, live: Any, path: Path) -> bool:
    """Equality at a leaf: absent is empty; inside atomic values the server may have added defaults."""
    if live is None or want is None:
        return not want and not live
    if isinstance(want, Mapping):
        return isinstance(live, Mapping) and all(
            _same(value, live.get(key), (*path, key)) for key, value in want.items()
        )
    if isinstance(want, list):
        return (
            isinstance(live, list)
            and len(want) == len(live)
            and all(_same(ours, theirs, path) for ours, theirs in zip(want, live, strict=True))
        )
    if _is_quantity(path):
        return _same_quantity(want, live)
    # `True == 1` in Python: a boolean is only ever equal to a boolean.
    return isinstance(want, bool) == isinstance(live, bool) and bool(want == live)


def _is_quantity(path: Path) -> bool:
    return path[-1:] != () and (
        path[-1] in _QUANTITY_FIELDS or (path[-2:-1] != () and path[-2] in _QUANTITY_MAPS)
    )


def _same_quantity(want: Any, live: Any) -> bool:
    try:
        return Quantity.parse(str(want)).value == Quantity.parse(str(live)).value
    except ValueError:
        return bool(want == live)


def _text(path: Path) -> str:
    return ".".join(path).replace(".[", "[") or "object"
