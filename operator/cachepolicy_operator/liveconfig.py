"""Live configuration of one Redis server: what to set now, what to write into its files, what it refused.

Whether a directive can change live is the server's answer, not a list of ours (rule 13), and a value reaches the file
only after a server took it (rule 14): accept → read back → persist. So every step here looks at what was answered
before (:class:`Attempt`) and never assumes.

Everything is a value: the same plan serves a pod and a laptop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from cachepolicy_operator.resources.inputs import LiveDirective


class Outcome(StrEnum):
    """What a server says to CONFIG SET."""

    ACCEPTED = "accepted"
    IMMUTABLE = "immutable"
    REJECTED = "rejected"


@dataclass(frozen=True)
class Attempt:
    """One answered CONFIG SET of one directive.

    ``before`` and ``after`` as CONFIG GET spelled it around the call; ``reason`` is Redis's own
    words where it did not accept.
    """

    outcome: Outcome
    before: str = ""
    after: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Running:
    """A server that answers: its values of the managed directives, and what it said earlier.

    ``attempts`` are kept by (directive, value as sent), for one life of one server.
    """

    values: Mapping[str, str]
    attempts: Mapping[tuple[str, str], Attempt] = field(default_factory=dict)

    def has(self, key: str, value: str) -> bool:
        """Whether the server runs with ``value``, in this spelling or in the one it read back for it."""
        found = self.values.get(key)
        attempt = self.attempts.get((key, value))
        return found == value or (
            attempt is not None and attempt.outcome is Outcome.ACCEPTED and found == attempt.after
        )


@dataclass(frozen=True)
class LiveInputs:
    """Everything that the plan of one server depends on.

    ``own``: the operator's directives; ``wanted``: the user's, from the spec; ``live`` and ``restart``: as persisted
    in the server's files; ``running``: None while no server answers.
    """

    own: Mapping[str, str]
    wanted: Mapping[str, str]
    live: Mapping[str, LiveDirective] = field(default_factory=dict)
    restart: Mapping[str, str] = field(default_factory=dict)
    running: Running | None = None


@dataclass(frozen=True)
class LivePlan:
    """What follows for one server.

    ``to_set`` goes out as one CONFIG SET; after its answers the plan is made again. ``live`` and ``restart`` are the
    new content of the files. ``rejected``: directive → Redis's words. ``waiting``: directives that no server has
    answered for yet.
    """

    to_set: Mapping[str, str]
    live: Mapping[str, LiveDirective]
    restart: Mapping[str, str]
    rejected: Mapping[str, str]
    waiting: tuple[str, ...]

    @property
    def settled(self) -> bool:
        """Nothing is left to ask a server for."""
        return not self.to_set and not self.waiting


@dataclass(frozen=True)
class _Verdict:
    """What becomes of one directive; fields that are None have no say."""

    send: str | None = None
    live: LiveDirective | None = None
    restart: str | None = None
    rejected: str | None = None
    waiting: bool = False


def managed_keys(inputs: LiveInputs) -> tuple[str, ...]:
    """The directives to ask CONFIG GET for."""
    return tuple(sorted({*inputs.own, *inputs.wanted, *inputs.live, *inputs.restart}))


def plan(inputs: LiveInputs) -> LivePlan:
    """The next step towards ``inputs.wanted``; at rest nothing to set, and the files as they are."""
    verdicts = {
        key: _own(key, value, inputs) for key, value in inputs.own.items() if key not in inputs.wanted
    }
    # A directive that left the spec goes back to what it was before us, or to what the operator wants there.
    for key, record in inputs.live.items():
        if key not in inputs.wanted and key not in inputs.own:
            verdicts[key] = _removed(key, record, inputs.running)
    for key, value in inputs.wanted.items():
        verdicts[key] = _wanted(key, value, inputs)
    return LivePlan(
        to_set={key: verdict.send for key, verdict in verdicts.items() if verdict.send is not None},
        live={key: verdict.live for key, verdict in verdicts.items() if verdict.live is not None},
        restart={key: verdict.restart for key, verdict in verdicts.items() if verdict.restart is not None},
        rejected={key: verdict.rejected for key, verdict in verdicts.items() if verdict.rejected is not None},
        waiting=tuple(sorted(key for key, verdict in verdicts.items() if verdict.waiting)),
    )


def pending_restart(wanted: Mapping[str, str], mounted: Mapping[str, str]) -> tuple[str, ...]:
    """Directives whose value in the restart file is not the one that the running pod was started with."""
    return tuple(sorted(key for key in {*wanted, *mounted} if wanted.get(key) != mounted.get(key)))


def worth_keeping(
    attempts: Mapping[tuple[str, str], Attempt], inputs: LiveInputs, found: LivePlan
) -> dict[tuple[str, str], Attempt]:
    """The attempts that may still matter: of values wanted now. Whoever returns to an old value asks again."""
    accepted = {key: record.accepted for key, record in found.live.items()}
    values = {*inputs.own.items(), *inputs.wanted.items(), *accepted.items()}
    return {known: attempt for known, attempt in attempts.items() if known in values}


def running_maxmemory(*, wanted: int, pod_allows: int, current: int, used: int, evicts: bool) -> int:
    """``maxmemory`` in bytes for the running server on the way to ``wanted`` (rule 2).

    Raising waits for a pod with the memory: never above ``pod_allows``. Lowering happens only when ``used`` fits or
    the server evicts; under noeviction it would be a write outage, so ``current`` stays.
    """
    target = min(wanted, pod_allows)
    if current > 0 and target < current and not evicts and used > target:
        return current
    return target


def _own(key: str, value: str, inputs: LiveInputs) -> _Verdict:
    """A directive of the operator: always in the file, repaired in the server."""
    running = inputs.running
    if running is None or key not in running.values or running.has(key, value):
        return _Verdict()
    return replace(_send(key, value, running), restart=None)


def _removed(key: str, record: LiveDirective, running: Running | None) -> _Verdict:
    if running is None or key not in running.values or running.has(key, record.initial):
        return _Verdict()
    sent = _send(key, record.initial, running)
    # What the server will not take back now is gone with its next start: the file no longer has it.
    return _Verdict(send=sent.send, live=record) if sent.send is not None else _Verdict()


def _wanted(key: str, value: str, inputs: LiveInputs) -> _Verdict:
    record, running = inputs.live.get(key), inputs.running
    if key in inputs.restart:
        return _Verdict(restart=value)
    if record is not None and record.requested == value:
        return _kept(key, record, running)
    if running is None:
        return _Verdict(live=record, waiting=True)
    return _new(key, value, record, running)


def _new(key: str, value: str, record: LiveDirective | None, running: Running) -> _Verdict:
    """A value that is not in the file yet: what the server says of it decides."""
    attempt = running.attempts.get((key, value))
    if attempt is None:
        return _Verdict(live=record, send=value)
    if attempt.outcome is Outcome.IMMUTABLE:
        return _Verdict(restart=value)
    if attempt.outcome is Outcome.REJECTED:
        last_good = _kept(key, record, running) if record is not None else _Verdict()
        return replace(last_good, rejected=attempt.reason)
    initial = record.initial if record is not None else attempt.before
    return _kept(key, LiveDirective(value, attempt.after, initial), running)


def _kept(key: str, record: LiveDirective, running: Running | None) -> _Verdict:
    """A value that a server took: set again where it no longer has it."""
    if running is None or running.values.get(key) == record.accepted:
        return _Verdict(live=record)
    if running.has(key, record.accepted):
        # Another version spells it in another way: the file follows what it reads back.
        return _Verdict(live=replace(record, accepted=running.values[key]))
    sent = _send(key, record.accepted, running)
    if sent.restart is not None:
        return _Verdict(restart=record.requested)
    # A directive that this server does not know would keep its next start from reading the file.
    unknown = sent.rejected is not None and key not in running.values
    return replace(sent, live=None if unknown else record)


def _send(key: str, value: str, running: Running) -> _Verdict:
    """Send ``value``, unless this server has refused exactly that."""
    attempt = running.attempts.get((key, value))
    if attempt is None or attempt.outcome is Outcome.ACCEPTED:
        return _Verdict(send=value)
    if attempt.outcome is Outcome.IMMUTABLE:
        return _Verdict(restart=value, rejected=attempt.reason)
    return _Verdict(rejected=attempt.reason)
