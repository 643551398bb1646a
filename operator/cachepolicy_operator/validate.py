"""``kubectl-cachepolicy validate``: CachePolicy files checked offline, by the same rules as the operator's."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from cachepolicy.names import Role
from cachepolicy.servers import Storage
from cachepolicy.spec import CachePolicySpec
from cachepolicy_operator.errors import Stalled
from cachepolicy_operator.policyfile import PolicyManifest, read_policies
from cachepolicy_operator.resources import memory

STDIN = "-"


class UnreadableFileError(Exception):
    """A file cannot be read at all; the message names it and says why."""


def read_text(file: str) -> str:
    """The text of ``file``, or of standard input for ``-``. Raises :class:`UnreadableFileError`."""
    if file == STDIN:
        return sys.stdin.read()
    try:
        return Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise UnreadableFileError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UnreadableFileError(f"{file}: not UTF-8 text") from error


def semantic_problems(spec: CachePolicySpec) -> Iterator[str]:
    """What the API server would accept and the operator would refuse (``Stalled``), each naming its field."""
    for role in spec.roles:
        for check in (memory.maxmemory, memory.check_requests):
            try:
                check(spec, role)
            except Stalled as refusal:
                yield str(refusal)


def refused_edits(before: CachePolicySpec, after: CachePolicySpec) -> Iterator[str]:
    """What the API server's transition rules refuse of an edit; without one, the edit is fine."""
    if Role.STATE not in before.roles or Role.STATE not in after.roles:
        return
    field = "spec.redis.managed.state.storage"
    old, new = _storage(before), _storage(after)
    if (old is None) != (new is None):
        yield f"{field} cannot be added to or removed from a running policy: take another name for the new policy"
    elif old is not None and new is not None:
        if old.class_name != new.class_name:
            yield f"{field}.className cannot be changed: a volume keeps its class"
        if new.size.value < old.size.value:
            yield f"{field}.size can only grow: a volume does not shrink, and it has {old.size}"


def _storage(spec: CachePolicySpec) -> Storage | None:
    return spec.redis.managed.state.storage if spec.redis.managed.state is not None else None


def validate(files: Sequence[str], out: TextIO, err: TextIO) -> bool:
    """Check every document of every file; True when all CachePolicies are valid and there is one in each file."""
    results = [_validate_file(file, out, err) for file in files]  # all of them: every mistake is told at once
    return all(results)


def one_policy(file: str, err: TextIO) -> PolicyManifest | None:
    """The one CachePolicy of ``file``, or None after saying on ``err`` what is wrong."""
    text, name = read_policies(read_text(file)), _name(file)
    problems = [f"{name}:{problem.line}: {problem}" for problem in text.problems]
    problems += [
        f"{name}:{policy.line}: {refusal}"
        for policy in text.policies
        for refusal in semantic_problems(policy.spec)
    ]
    if not problems and len(text.policies) != 1:
        problems.append(f"{name}: exactly one CachePolicy is needed, and {len(text.policies)} are there")
    for problem in problems:
        print(problem, file=err)
    return None if problems else text.policies[0]


def _validate_file(file: str, out: TextIO, err: TextIO) -> bool:
    text, name = read_policies(read_text(file)), _name(file)
    valid = not text.problems
    for problem in text.problems:
        print(f"{name}:{problem.line}: {problem}", file=err)
    for policy in text.policies:
        refusals = list(semantic_problems(policy.spec))
        for refusal in refusals:
            print(f"{name}:{policy.line}: {refusal}", file=err)
        if refusals:
            valid = False
        else:
            print(f"{name}: {policy} is valid ({', '.join(policy.spec.sections)})", file=out)
    for skipped in text.skipped:
        print(f"{name}:{skipped.line}: skipped: {skipped.what}", file=out)
    if not text.policies and not text.problems:
        print(f"{name}: no CachePolicy in it", file=err)
        return False
    return valid


def _name(file: str) -> str:
    return "standard input" if file == STDIN else file
