"""Prometheus metrics of the operator. Names exist here only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import start_http_server

from cachepolicy.names import Role
from cachepolicy_operator import errors
from cachepolicy_operator.kube import RequestDone
from cachepolicy_operator.liveconfig import Outcome
from cachepolicy_operator.queue import Key
from cachepolicy_operator.redis_look import Down, Look


class Metrics:
    """All metrics on a registry of their own."""

    def __init__(self) -> None:
        # A second series for the birth of each: nobody asks for them.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # upstream has no annotations
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.reconciles = Counter(
            "cachepolicy_reconciles", "Reconciles by result.", ["result"], registry=registry
        )
        self.reconcile_seconds = Histogram(
            "cachepolicy_reconcile_seconds",
            "Time of one reconcile.",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=registry,
        )
        self.queue_length = Gauge(
            "cachepolicy_queue_length", "CachePolicies that wait for a worker.", registry=registry
        )
        self.queue_oldest = Gauge(
            "cachepolicy_queue_oldest_seconds", "How long the oldest of them has waited.", registry=registry
        )
        self.policies = Gauge(
            "cachepolicy_policies", "CachePolicies that are looked after.", registry=registry
        )
        self.writes = Counter(
            "cachepolicy_writes", "Writes to the API server.", ["kind", "reason"], registry=registry
        )
        self.requests = Counter(
            "cachepolicy_api_requests",
            "Requests to the API server; code 0 is no answer.",
            ["verb", "kind", "code"],
            registry=registry,
        )
        self.directives = Counter(
            "cachepolicy_live_directives",
            "Directives sent to Redis by CONFIG SET, by what it answered.",
            ["outcome"],
            registry=registry,
        )
        self.redis_up = Gauge(
            "cachepolicy_redis_up",
            "1 while the server answers.",
            ["namespace", "policy", "role"],
            registry=registry,
        )
        self.leader = Gauge(
            "cachepolicy_leader", "1 while this operator acts, 0 while it waits.", registry=registry
        )
        self.lag = Gauge(
            "cachepolicy_enforced_lag_seconds",
            "For how long Core has not enforced the policy document; 0 when it does.",
            ["namespace", "policy"],
            registry=registry,
        )

    @contextmanager
    def reconciling(self) -> Iterator[None]:
        """Time one reconcile and count how it ended."""
        result = "error"
        try:
            with self.reconcile_seconds.time():
                yield
            result = "done"
        except errors.Superseded:
            result = "superseded"
            raise
        except errors.RetryLater:
            result = "retry"
            raise
        finally:
            self.reconciles.labels(result).inc()

    def follow_queue(self, *, length: Callable[[], int], oldest: Callable[[], float]) -> None:
        """Where the gauges of the queue take their values when they are asked for."""
        self.queue_length.set_function(length)
        self.queue_oldest.set_function(oldest)

    def serve(self, port: int) -> None:
        """Answer GET /metrics on this port, in a thread of its own."""
        start_http_server(port, registry=self.registry)

    def request_done(self, done: RequestDone) -> None:
        """Count one request to the API server."""
        self.requests.labels(done.verb, done.kind, str(done.code)).inc()

    def wrote(self, kind: str, reason: str) -> None:
        """Count one write, with the kind of its reason: missing, changed, taken over, unwanted, status…"""
        self.writes.labels(kind, reason).inc()

    def directive(self, outcome: Outcome) -> None:
        """Count one answered CONFIG SET of one directive."""
        self.directives.labels(str(outcome)).inc()

    def looked(self, key: Key, role: Role, seen: Look | Down) -> None:
        """Keep whether a server answers."""
        self.redis_up.labels(key.namespace, key.name, str(role)).set(isinstance(seen, Look))

    def forget(self, key: Key) -> None:
        """No more series of a policy that has gone."""
        for role in Role:
            self._remove(self.redis_up, key.namespace, key.name, str(role))
        self._remove(self.lag, key.namespace, key.name)

    @staticmethod
    def _remove(gauge: Gauge, *labels: str) -> None:
        try:
            gauge.remove(*labels)
        except KeyError:
            return
