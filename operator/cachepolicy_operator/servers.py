"""The Redis side of one reconcile: look, set directives until they are settled, tell users and document, hand over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from cachepolicy import names
from cachepolicy.keys import KeyLayout
from cachepolicy.names import Role
from cachepolicy_operator import rollout
from cachepolicy_operator.decide import decide
from cachepolicy_operator.liveconfig import managed_keys, worth_keeping
from cachepolicy_operator.metrics import Metrics
from cachepolicy_operator.observed import Json
from cachepolicy_operator.plan import Plan
from cachepolicy_operator.redis_admin import RedisDownError, RedisServer, Target
from cachepolicy_operator.redis_look import Down, Look
from cachepolicy_operator.redis_watch import RedisWatch, look
from cachepolicy_operator.report import enforcement_of
from cachepolicy_operator.work import Work

# CONFIG SET of what is new, once more for what the first answers changed, and one to see that it is settled.
_MOST_ROUNDS: Final = 4
#: How long a report waits for Core after a new document went out, and how often it looks, in seconds.
_ECHO_WAIT: Final = 0.8
_ECHO_PACE: Final = 0.05

log = logging.getLogger(__name__)


class Servers:
    """The servers of the policy that ``work`` is about."""

    def __init__(self, work: Work, watch: RedisWatch, metrics: Metrics) -> None:
        self._work = work
        self._watch = watch
        self._metrics = metrics
        self._servers: dict[Role, RedisServer] = {}

    async def look(self) -> None:
        """One look at every server that has an address."""
        plan = decide(self._work.observed)
        for role in self._work.observed.servers:
            await self._connect(role, plan)
        await self._look_again(*self._servers)

    async def settle(self, plan: Plan) -> Plan:
        """CONFIG SET until the servers' answers leave nothing to ask; the plan that follows from them."""
        for _ in range(_MOST_ROUNDS):
            if not plan.directives:
                break
            for role, wanted in plan.directives.items():
                await self._set_directives(role, wanted)
            plan = decide(self._work.observed)
        self._forget_answers(plan)
        return plan

    async def tell(self, plan: Plan) -> None:
        """Users first (their Secret is written), then the document (its ConfigMap is), then wait for the echo."""
        for role, server in plan.servers.items():
            if server.users and role in self._servers:
                await self._set_users(role, server.users)
        # With its rights back, the server of the control keys may show more than before.
        plan = decide(self._work.observed)
        if plan.publish and plan.spec is not None and plan.document is not None:
            await self._publish(plan.spec.control_role, plan.document.to_json())

    def count_lag(self, plan: Plan) -> bool:
        """Note for how long Core has not enforced this very revision; True while it does not."""
        memory, now = self._work.memory, asyncio.get_running_loop().time()
        found = enforcement_of(self._work.observed, plan)
        if found is None or not found.lagging or plan.document is None:
            memory.lagging = None
        elif memory.lagging is None or memory.lagging[0] != plan.document.revision:
            memory.lagging = (plan.document.revision, now)
        seconds = now - memory.lagging[1] if memory.lagging is not None else 0.0
        self._work.see_lag(seconds)
        self._metrics.lag.labels(*self._work.key).set(seconds)
        return memory.lagging is not None

    def hand_over(self, plan: Plan) -> None:
        """From here on the Redis loop watches: what was seen now is known."""
        lagging = self._work.memory.lagging is not None
        for role, view in self._work.observed.servers.items():
            if role in self._servers and view.seen is not None:
                server = plan.servers.get(role)
                pending = lagging or (server is not None and not server.live.settled)
                self._watch.known(self._work.key, role, view.seen, pending=pending)

    # ------------------------------------------------------------------------------------------- inside

    async def _connect(self, role: Role, plan: Plan) -> None:
        work = self._work
        address = _address(work.observed.server(role).pod)
        if address is None:
            return
        password = work.observed.credentials.operator_password
        # A server that started before a Secret was made anew still has the password before.
        older = [known for known in work.memory.passwords if known != password]
        work.memory.passwords = (password, *older)[:2]
        server = plan.servers.get(role)
        control = min(work.observed.servers, key=list(Role).index)
        target = Target(
            url=f"redis://{address}:{names.REDIS_PORT}",
            passwords=work.memory.passwords,
            directives=managed_keys(server.inputs) if server is not None else (),
            keys=KeyLayout.of_policy(*work.key) if role is control else None,
        )
        self._servers[role] = await self._watch.server(work.key, role, target)

    async def _look_again(self, *roles: Role) -> None:
        seen = await asyncio.gather(*(look(self._servers[role]) for role in roles))
        for role, found in zip(roles, seen, strict=True):
            self._see(role, found)

    def _see(self, role: Role, found: Look | Down) -> None:
        self._work.see_server(role, found)
        self._metrics.looked(self._work.key, role, found)

    async def _set_directives(self, role: Role, wanted: Mapping[str, str]) -> None:
        running = self._work.observed.server(role).look
        if running is None:
            return
        try:
            answered = await self._servers[role].set_directives(wanted)
        except RedisDownError as error:
            self._see(role, error.down)
            return
        for (directive, _), attempt in answered.items():
            self._metrics.directive(attempt.outcome)
            log.info("%s server: CONFIG SET %s: %s", role, directive, attempt.reason or "OK")
        self._work.memory.attempts.setdefault((role, running.run_id), {}).update(answered)
        await self._look_again(role)

    def _forget_answers(self, plan: Plan) -> None:
        """Keep the answers of servers that still run, to values that are still wanted."""
        kept = {}
        for role, server in plan.servers.items():
            running = self._work.observed.server(role).look
            known = self._work.memory.attempts.get((role, running.run_id)) if running is not None else None
            if running is not None and known is not None:
                kept[role, running.run_id] = worth_keeping(known, server.inputs, server.live)
        self._work.memory.attempts = kept

    async def _set_users(self, role: Role, users: Mapping[str, tuple[str, ...]]) -> None:
        try:
            for user, arguments in users.items():
                log.info("%s server: user %s is set as the Secret says", role, user)
                await self._servers[role].set_user(arguments)
        except RedisDownError as error:
            self._see(role, error.down)
        else:
            await self._look_again(role)

    async def _publish(self, role: Role, document: str) -> None:
        try:
            await self._servers[role].publish(document)
        except RedisDownError as error:
            self._see(role, error.down)
        else:
            await self._await_echo(role)

    async def _await_echo(self, role: Role) -> None:
        """A change that Core enforces within a moment is reported as enforced, in one write."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _ECHO_WAIT
        while True:
            await self._look_again(role)
            found = enforcement_of(self._work.observed, decide(self._work.observed))
            if found is None or not found.lagging or loop.time() > deadline:
                return
            await asyncio.sleep(_ECHO_PACE)


def _address(pod: Json | None) -> str | None:
    """IP of a pod that can be asked."""
    if pod is None or rollout.terminating(pod):
        return None
    status = pod.get("status") or {}
    address = status.get("podIP") if status.get("phase") == "Running" else None
    return f"[{address}]" if address and ":" in address else address
