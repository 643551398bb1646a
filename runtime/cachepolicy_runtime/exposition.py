"""``/cache/metrics``: what ``/cache/stats`` tells, in the text format of Prometheus (0.0.4). Pure.

https://prometheus.io/docs/instrumenting/exposition_formats/. No label names a tenant, a user or a key; models are
bounded where they are counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "cachepolicy_core_"

Labels = Mapping[str, str]
Sample = tuple[Labels, float]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name without the prefix, its type and what it says."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()

    def text(self, samples: Iterable[Sample]) -> Iterator[str]:
        lines = [f"{PREFIX}{self.name}{_labels(labels)} {_number(value)}" for labels, value in samples]
        if lines:
            yield f"# HELP {PREFIX}{self.name} {self.help}"
            yield f"# TYPE {PREFIX}{self.name} {self.kind}"
            yield from lines


INFO = Family("info", "gauge", "1, with the policy and the revision in force.", ("policy", "revision"))
DEGRADED = Family("degraded", "gauge", "1 while /cache/health says degraded.")
STORE_UP = Family("store_up", "gauge", "1 while the store answers.", ("store",))
OUTAGES = Family("store_outages_total", "counter", "Times that the store was lost.", ("store",))
LIVE = Family("live_processes", "gauge", "Processes that share the limits.")
LOOKUPS = Family(
    "cache_lookups_total",
    "counter",
    "Looks into a cache by what came of them; embeddings in texts.",
    ("cache", "provider", "model", "result"),
)
STORED = Family("cache_stored_total", "counter", "Entries stored.", ("cache",))
BYPASSED = Family(
    "cache_bypassed_total", "counter", "Requests for which the cache was not used.", ("cache", "reason")
)
NOT_STORED = Family("cache_not_stored_total", "counter", "Answers that were not kept.", ("cache", "reason"))
FAILURES = Family("cache_store_failures_total", "counter", "Calls that the store failed.", ("cache",))
EVENTS = Family("cache_events_total", "counter", "Other things that a cache did.", ("cache", "event"))
SAVED_TOKENS = Family("cache_saved_tokens_total", "counter", "Tokens not paid for thanks to hits.", ("kind",))
SAVED_SECONDS = Family("cache_saved_seconds_total", "counter", "Seconds of providers' time saved by hits.")
SAVED_COST = Family(
    "cache_saved_cost_total", "counter", "Money saved by hits, by the policy's prices.", ("currency",)
)
DECISIONS = Family("limit_decisions_total", "counter", "Decisions on requests.", ("outcome",))
REFUSALS = Family(
    "limit_refusals_total", "counter", "Refusals by the limit that had no room.", ("limit", "mode")
)
LIMIT_EVENTS = Family(
    "limit_events_total",
    "counter",
    "Decisions made without the store, or from the memory of a refusal.",
    ("event",),
)
SPEND = Family("limit_spend_total", "counter", "Reservations of tokens by what became of them.", ("outcome",))
SESSIONS = Family("session_events_total", "counter", "What happened to sessions.", ("event",))
KEYS = Family("cache_server_keys", "gauge", "Keys on the cache server.")
BYTES = Family("cache_server_used_bytes", "gauge", "Memory that the cache server uses.")
LIMIT = Family("cache_server_max_bytes", "gauge", "Memory that it may use; 0 is no limit.")
EVICTED = Family("cache_server_evicted_total", "counter", "Keys that it evicted since it started.")

FAMILIES = tuple(item for item in list(globals().values()) if isinstance(item, Family))

#: Counts of a cache that are shown as events: field of /stats → label.
CACHE_EVENTS = {
    "staleServed": "stale_served",
    "staleErrors": "stale_on_error",
    "coalesced": "coalesced",
    "localHits": "local_hit",
    "wouldHits": "would_hit",
    "refreshed": "refreshed",
    "refreshFailures": "refresh_failed",
    "wouldDiffer": "would_differ",
    "renewed": "renewed",
}


def text(stats: Mapping[str, Any], health: Mapping[str, Any]) -> str:
    """The whole answer, from the bodies of ``/cache/stats`` and ``/cache/health``."""
    samples = {**_process(stats, health), **_caches(stats), **_limits(stats["limits"]), **_server(stats)}
    samples[SESSIONS] = _each("event", {_snake(name): count for name, count in stats["sessions"].items()})
    lines = [line for family in FAMILIES for line in family.text(samples.get(family, ()))]
    return "\n".join(lines) + "\n"


def _process(stats: Mapping[str, Any], health: Mapping[str, Any]) -> dict[Family, list[Sample]]:
    labels = {"policy": stats["policy"] or "", "revision": stats["revision"] or ""}
    up = {store: float(state["status"] != "unavailable") for store, state in stats["stores"].items()}
    return {
        INFO: [(labels, 1)],
        DEGRADED: [({}, float(health["status"] == "degraded"))],
        STORE_UP: _each("store", up),
        OUTAGES: _each("store", {store: state["outages"] for store, state in stats["stores"].items()}),
    }


def _caches(stats: Mapping[str, Any]) -> dict[Family, list[Sample]]:
    found: dict[Family, list[Sample]] = {}
    for cache in ("responses", "embeddings"):
        counts, its = stats[cache], {"cache": cache}
        found.setdefault(LOOKUPS, []).extend(_lookups(cache, counts["providers"]))
        found.setdefault(STORED, []).append((its, counts["stored"]))
        found.setdefault(FAILURES, []).append((its, counts["storeFailures"]))
        for family, field in ((BYPASSED, "bypassed"), (NOT_STORED, "notStored")):
            found.setdefault(family, []).extend(_each("reason", counts.get(field, {}), its))
        events = {
            name: counts[field] for field, name in CACHE_EVENTS.items() if counts.get(field) is not None
        }
        found.setdefault(EVENTS, []).extend(_each("event", events, its))
    return {**found, **_savings(stats["responses"]["savings"])}


def _lookups(cache: str, providers: Mapping[str, Any]) -> Iterator[Sample]:
    for provider, tally in providers.items():
        for model, counts in (tally.get("models") or {"": tally}).items():
            labels = {"cache": cache, "provider": provider, "model": model}
            yield {**labels, "result": "hit"}, counts["hits"]
            yield {**labels, "result": "miss"}, counts["misses"]


def _savings(savings: Mapping[str, Any]) -> dict[Family, list[Sample]]:
    tokens = {
        "input": savings["inputTokens"],
        "cached_input": savings["cachedInputTokens"],
        "output": savings["outputTokens"],
    }
    cost = {} if savings["cost"] is None else {savings["currency"]: savings["cost"]}
    return {
        SAVED_TOKENS: _each("kind", tokens),
        SAVED_SECONDS: [({}, savings["seconds"])],
        SAVED_COST: _each("currency", cost),
    }


def _limits(limits: Mapping[str, Any]) -> dict[Family, list[Sample]]:
    outcomes = {
        name: limits[field]
        for field, name in (("admitted", "admitted"), ("limited", "limited"), ("unavailable", "unavailable"))
    }
    refusals = _each("limit", limits["refusedBy"], {"mode": "enforce"})
    refusals += _each("limit", limits["shadowRefusedBy"], {"mode": "shadow"})
    return {
        DECISIONS: _each("outcome", outcomes),
        REFUSALS: refusals,
        LIMIT_EVENTS: _each(
            "event", {"without_store": limits["withoutStore"], "remembered": limits["remembered"]}
        ),
        SPEND: _each("outcome", limits["spend"]),
        LIVE: [({}, limits["liveProcesses"])],
    }


def _server(stats: Mapping[str, Any]) -> dict[Family, list[Sample]]:
    server = stats["cacheServer"]
    fields = ((KEYS, "keys"), (BYTES, "usedBytes"), (LIMIT, "maxBytes"), (EVICTED, "evicted"))
    return {family: [({}, server[field])] for family, field in fields if server.get(field) is not None}


def _each(label: str, counts: Mapping[str, Any], more: Labels | None = None) -> list[Sample]:
    """One sample for each number of a plain map."""
    return [
        ({**(more or {}), label: name}, value)
        for name, value in counts.items()
        if isinstance(value, int | float)
    ]


def _snake(name: str) -> str:
    return re.sub("([A-Z])", r"_\1", name).lower()


def _labels(labels: Labels) -> str:
    shown = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items() if value != "")
    return f"{{{shown}}}" if shown else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
