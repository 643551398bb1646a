"""Replacing Core's password without a lost connection (rule 11). Pure.

One step for each reconcile, and each step is one write of one Secret, so that an operator that is killed anywhere
goes on where it was:

1. ``<policy>-redis-auth`` holds the new password beside the hash of the old one, and every server takes both.
2. Once every server does, ``<policy>-core`` holds the new one; Core reads the file and logs in again by itself.
3. Once every process of Core reports the new one, the old one is taken out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from cachepolicy import names
from cachepolicy.acknowledgement import Acknowledgement, Member
from cachepolicy.spec import CachePolicySpec
from cachepolicy_operator.observed import Observed
from cachepolicy_operator.redis_look import Look
from cachepolicy_operator.resources import Credentials
from cachepolicy_operator.resources.acl import password_hash

#: Beginning of the hash that an acknowledgement names a password by.
DIGEST_LENGTH = 12


@dataclass(frozen=True)
class Step:
    """The credentials that follow, and what is waited for; empty where no rotation is under way."""

    credentials: Credentials
    waiting: str = ""
    begun: bool = False
    finished: bool = False


def turn(observed: Observed, spec: CachePolicySpec) -> Step:
    """:func:`step` for one moment of a CachePolicy."""
    control = observed.server(spec.control_role).look
    return step(
        observed.credentials,
        (observed.policy["metadata"].get("annotations") or {}).get(names.ANNOTATION_ROTATE),
        lambda: observed.spare_token,
        {role: observed.server(role).look for role in spec.roles},
        control.acknowledgements if control is not None else None,
    )


def step(
    credentials: Credentials,
    request: str | None,
    token: Callable[[], str],
    looks: Mapping[object, Look | None],
    reports: Iterable[tuple[Member, Acknowledgement]] | None,
) -> Step:
    """The next step.

    ``request``: the annotation of the CachePolicy; a value that was not carried out before begins a rotation.
    ``looks``: every server, None where it cannot be asked. ``reports``: of Core's live processes, None where the
    server that they report to cannot be asked.
    """
    if credentials.next_core is None:
        if not request or request == credentials.rotation:
            return Step(credentials)
        begun = replace(
            credentials,
            next_core=token(),
            retiring_core=password_hash(credentials.core_password),
            rotation=request,
        )
        return Step(begun, "every server is given the new password beside the old one", begun=True)
    if credentials.core_password != credentials.next_core:
        if not _taken_everywhere(credentials, looks):
            return Step(credentials, "every server is given the new password beside the old one")
        return Step(replace(credentials, core_password=credentials.next_core), _processes(None, 0))
    late = _still_old(credentials.core_password, reports)
    if late is None or late:
        return Step(credentials, _processes(reports, late))
    return Step(replace(credentials, next_core=None, retiring_core=None), finished=True)


def _taken_everywhere(credentials: Credentials, looks: Mapping[object, Look | None]) -> bool:
    wanted = {password_hash(credentials.core_password), password_hash(credentials.next_core or "")}
    return all(
        look is not None and wanted <= (look.users.get(names.USER_CORE) or frozenset())
        for look in looks.values()
    )


def _still_old(password: str, reports: Iterable[tuple[Member, Acknowledgement]] | None) -> int | None:
    """Processes that do not report this password; None where nobody can be asked."""
    if reports is None:
        return None
    digest = password_hash(password)[:DIGEST_LENGTH]
    return sum(report.credential != digest for _, report in reports)


def _processes(reports: Iterable[object] | None, late: int | None) -> str:
    if reports is None or late is None:
        return "Core is given the new password"
    return f"{late} processes of Core do not use the new password yet"
