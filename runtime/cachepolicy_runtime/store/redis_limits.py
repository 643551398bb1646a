"""Limits over Redis: what all callers of one turn of the event loop ask goes out as one call of one script.

Each decision stays whole by itself, in the order of the callers; see ``scripts/limits.lua`` for the texts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from cachepolicy_runtime.store.errors import StoreUnavailable
from cachepolicy_runtime.store.port import (
    Adjustment,
    Admission,
    Check,
    Lease,
    LeaseCheck,
    LimitCheck,
    RateState,
)
from cachepolicy_runtime.store.replies import blob
from cachepolicy_runtime.store.transport import Transport

SCRIPT = "limits"
_new = tuple.__new__
#: Keys of one call. A decision about one takes the server up to 12 µs, so that the longest call stays well below
#: a millisecond; one request with more limits than that is a call by itself.
MAX_KEYS = 64


class _Operation:
    """What one caller asks, and where its answer goes. ``keys`` and ``args`` are the script's."""

    __slots__ = ("answer", "args", "checks", "keys", "shadows")

    def __init__(
        self,
        keys: tuple[str, ...],
        args: tuple[str, ...],
        answer: asyncio.Future[Any],
        checks: Sequence[Check] = (),
        shadows: Sequence[Check] = (),
    ) -> None:
        self.keys = keys
        self.args = args
        self.answer = answer
        self.checks = checks
        self.shadows = shadows

    def read(self, numbers: list[int], at: int) -> int:
        """Take this operation's part of an answer, which begins at ``at``; returns where the next one begins."""
        if not self.answer.done():
            self.answer.set_result(None)
        return at


class _Decision(_Operation):
    __slots__ = ()

    def read(self, numbers: list[int], at: int) -> int:
        if self.shadows or len(self.checks) != 1 or len(self.keys) != 1:
            return self._read_all(numbers, at)
        if not self.answer.done():  # one window or one place, which is the usual question
            state = _new(RateState, numbers[at + 1 : at + 4])
            at_us = numbers[0] * 1_000_000 + numbers[1]
            self.answer.set_result(_new(Admission, (numbers[at] == 1, ((state,),), at_us, ())))
        return at + 4

    def _read_all(self, numbers: list[int], at: int) -> int:
        admitted, states, after = _read(numbers, at, self.checks)
        shadows = []
        for shadow in self.shadows:
            would, found, after = _read(numbers, after, (shadow,))
            shadows.append(Admission(would, found))
        if not self.answer.done():
            at_us = numbers[0] * 1_000_000 + numbers[1]
            self.answer.set_result(Admission(admitted, states, at_us, tuple(shadows)))
        return after


class RedisLimitStore:
    """Windows in strings, logs in lists, leases in sorted sets."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._waiting: list[_Operation] = []

    def admit(
        self,
        checks: Sequence[Check],
        *,
        shadows: Sequence[Check] = (),
        lease: str = "",
        refund: Sequence[Adjustment] = (),
    ) -> asyncio.Future[Admission]:
        answer: asyncio.Future[Admission] = asyncio.get_running_loop().create_future()
        if len(checks) == 1 and not shadows and not refund and not lease:
            keys, args = _alone(checks[0])
        else:
            keys, args = _written(checks, shadows, lease, refund)
        self._send(_Decision(keys, args, answer, checks, shadows))
        return answer

    async def adjust(self, adjustments: Sequence[Adjustment]) -> None:
        if adjustments:
            keys = tuple(adjustment.rate.key for adjustment in adjustments)
            await self._correct(keys, ("T " + " ".join(map(_adjustment, adjustments)),))

    async def renew(self, leases: Sequence[Lease], timeout_ms: int) -> None:
        await asyncio.gather(*self._about(leases, f"y {timeout_ms} 0 0"))

    def release(self, leases: Sequence[Lease]) -> None:
        for answer in self._about(leases, "x 0 0 0"):
            answer.add_done_callback(_whatever)

    def _about(self, leases: Sequence[Lease], item: str) -> list[asyncio.Future[None]]:
        answers = []
        for start in range(0, len(leases), MAX_KEYS):
            some = leases[start : start + MAX_KEYS]
            text = "T " + " ".join([item] * len(some))
            args = (text, *(lease.id for lease in some))
            answers.append(self._correct(tuple(lease.key for lease in some), args))
        return answers

    def _correct(self, keys: tuple[str, ...], args: tuple[str, ...]) -> asyncio.Future[None]:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._send(_Operation(keys, args, answer))
        return answer

    # --- the batch of this turn ---------------------------------------------------------------------------

    def _send(self, operation: _Operation) -> None:
        if not self._waiting:
            try:
                self._transport.gather(self._collect)
            except StoreUnavailable as error:  # to whoever awaits it, like everything else
                operation.answer.set_exception(error)
                return
        self._waiting.append(operation)

    def _collect(self) -> None:
        operations, self._waiting = self._waiting, []
        if len(operations) == 1 and not operations[0].answer.done():
            self._call(operations, operations[0].keys, operations[0].args)
            return
        for batch in _batches(operations):
            keys = [key for operation in batch for key in operation.keys]
            args = [arg for operation in batch for arg in operation.args]
            self._call(batch, keys, args)

    def _call(self, batch: list[_Operation], keys: Sequence[str], args: Sequence[str]) -> None:
        answer = _Batch(batch)
        try:
            self._transport.script_into(answer, SCRIPT, keys, args)
        except StoreUnavailable as error:
            answer.set_exception(error)


class _Batch:
    """Deals the script's one answer to its callers, at once and without a turn of the event loop in between."""

    __slots__ = ("_done", "_operations")

    def __init__(self, operations: list[_Operation]) -> None:
        self._operations = operations
        self._done = False

    def done(self) -> bool:
        return self._done

    def set_result(self, reply: Any) -> None:
        self._done = True
        try:
            numbers = list(map(int, blob(reply).split()))
            at = 2
            for operation in self._operations:
                at = operation.read(numbers, at)
        except (TypeError, ValueError, IndexError):
            self.set_exception(StoreUnavailable("state", "the script's answer is not its own"))

    def set_exception(self, error: BaseException) -> None:
        self._done = True
        for operation in self._operations:
            if not operation.answer.done():
                operation.answer.set_exception(error)


def _batches(operations: list[_Operation]) -> Iterable[list[_Operation]]:
    batch: list[_Operation] = []
    size = 0
    for operation in operations:
        if batch and size + len(operation.keys) > MAX_KEYS:
            yield batch
            batch, size = [], 0
        if not operation.answer.done():  # its caller left before anything was sent
            batch.append(operation)
            size += len(operation.keys)
    if batch:
        yield batch


def _whatever(answer: asyncio.Future[None]) -> None:
    """Nobody waits for this answer, so nobody is told of its error."""
    if not answer.cancelled():
        answer.exception()


# --- texts and numbers of the script -----------------------------------------------------------------------


def _prepared(check: Check) -> tuple[tuple[str, ...], str, str]:
    """A check's keys, its items with letters, and without them where it is for a ``W`` (else empty)."""
    if not check.prepared:
        check.prepared.append(_prepare(check))
    found: tuple[tuple[str, ...], str, str] = check.prepared[0]
    return found


def _alone(check: Check) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Keys and arguments of a decision over one limit and nothing else."""
    keys, lettered, plain = _prepared(check)
    if len(check.prepared) == 1:
        check.prepared.append((f"W {plain}" if plain else f"A {lettered}",))
    return keys, check.prepared[1]


def _prepare(check: Check) -> tuple[tuple[str, ...], str, str]:
    if isinstance(check, LeaseCheck):
        return (check.key,), f"c {check.limit} {check.timeout_ms} 0", ""
    items = [
        ("l" if rate.log else "w", f"{rate.limit} {rate.window_ms} {check.weight}") for rate in check.rates
    ]
    lettered = " ".join(f"{letter} {numbers}" for letter, numbers in items)
    plain = " ".join(numbers for _, numbers in items) if not any(rate.log for rate in check.rates) else ""
    return tuple(rate.key for rate in check.rates), lettered, plain


def _written(
    checks: Sequence[Check], shadows: Sequence[Check], lease: str, refund: Sequence[Adjustment]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Keys and arguments of one decision with whatever goes with it."""
    prepared = [_prepared(check) for check in checks]
    keys = [key for found in prepared for key in found[0]]
    if not refund and all(found[2] for found in prepared):
        args = ["W " + " ".join(found[2] for found in prepared)]
    else:
        items = [found[1] for found in prepared] + [_adjustment(adjustment) for adjustment in refund]
        keys += [adjustment.rate.key for adjustment in refund]
        args = ["A " + " ".join(items), *(lease for check in checks if isinstance(check, LeaseCheck))]
    for shadow in shadows:
        names, items_of_it, _ = _prepared(shadow)
        keys += names
        args.append("S " + items_of_it)
        if isinstance(shadow, LeaseCheck):
            args.append(lease)
    return tuple(keys), tuple(args)


def _adjustment(adjustment: Adjustment) -> str:
    rate, at_us, units = adjustment
    return f"m {at_us} 0 {max(0, -units)}" if rate.log else f"v {at_us} {rate.window_ms} {units}"


def _read(
    numbers: list[int], at: int, checks: Sequence[Check]
) -> tuple[bool, tuple[tuple[RateState, ...], ...], int]:
    """One decision that begins at ``at``, and where the next one begins."""
    admitted = numbers[at] == 1
    at += 1
    states = []
    for check in checks:
        count = len(check.rates) if isinstance(check, LimitCheck) else 1
        states.append(tuple(RateState(*numbers[i : i + 3]) for i in range(at, at + 3 * count, 3)))
        at += 3 * count
    return admitted, tuple(states), at
