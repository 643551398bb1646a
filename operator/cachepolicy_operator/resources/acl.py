"""Redis users: who may do what, as a file, as ACL SETUSER arguments and as hashes to compare with ACL GETUSER.

The rules were checked on redis 7.0 and valkey 9.1. Removals stand before single grants, because order decides: with
`-@dangerous` at the end a script's TIME and INFO would fail (rule 9). `-@scripting` keeps FUNCTION away, and
`%R~cpctl:` lets Core read the policy document but not write it: a pattern can only grant, so what Core must not write
lies outside its prefix.
"""

from __future__ import annotations

import hashlib
from typing import Final

from cachepolicy import names
from cachepolicy_operator.resources.credentials import Credentials

# Not a secret: the probe user has no password, but redis-cli sends no AUTH at all without one (rule 7).
PROBE_PASSWORD: Final = "probe"  # noqa: S105 - see above

_CORE_COMMANDS: Final = (
    "-@all +@read +@write +@pubsub +@connection -@admin -@dangerous -@scripting "
    "+eval +evalsha +script|load +script|exists +time +info"
)
_OPERATOR_COMMANDS: Final = (
    "-@all +@connection +config|get +config|set +acl|setuser +acl|getuser +acl|list +info +time +role "
    "+get +set +pexpire +zrange +zrangebyscore +mget +hgetall +publish"
)


def password_hash(password: str) -> str:
    """SHA-256 in hexadecimal, as Redis stores passwords and ACL GETUSER shows them."""
    return hashlib.sha256(password.encode()).hexdigest()


def core_hashes(credentials: Credentials) -> frozenset[str]:
    """Hashes of every password that Core may log in with: more than one while it is being replaced."""
    known = {password_hash(credentials.core_password)}
    if credentials.next_core is not None:
        known.add(password_hash(credentials.next_core))
    if credentials.retiring_core is not None:
        known.add(credentials.retiring_core)
    return frozenset(known)


def user_rules(prefix: str, credentials: Credentials) -> dict[str, tuple[str, ...]]:
    """Rules of every user that may log in, one rule per item, for the keys below `prefix`.

    Passwords are given as hashes, so the rules may pass through argument lists without telling them.
    """
    return {
        names.USER_PROBE: ("on", "nopass", "-@all", "+ping"),
        names.USER_CORE: (
            "on",
            *(f"#{known}" for known in sorted(core_hashes(credentials))),
            *_CORE_COMMANDS.split(),
            f"~{prefix}:*",
            f"&{prefix}:*",
            f"%R~cpctl:{prefix}:*",
        ),
        names.USER_OPERATOR: (
            "on",
            f"#{password_hash(credentials.operator_password)}",
            *_OPERATOR_COMMANDS.split(),
            f"~cpctl:{prefix}:*",
            f"%R~{prefix}:*",
            f"&{prefix}:*",
        ),
    }


def acl_file(prefix: str, credentials: Credentials) -> str:
    """`users.acl`: one line per user, no comments (an ACL file takes none), the default user off."""
    lines = ["user default off"]
    lines += [f"user {user} {' '.join(rules)}" for user, rules in user_rules(prefix, credentials).items()]
    return "\n".join(lines) + "\n"


def setuser_arguments(user: str, prefix: str, credentials: Credentials) -> tuple[str, ...]:
    """Arguments after `ACL SETUSER` that make a running server's user what the file says.

    `reset` first: the change is one step in the server, and connections of the user stay.
    """
    return (user, "reset", *user_rules(prefix, credentials)[user])


def password_hashes(credentials: Credentials) -> dict[str, frozenset[str]]:
    """User → the `passwords` that ACL GETUSER must show, no more and no fewer."""
    return {
        names.USER_PROBE: frozenset(),
        names.USER_CORE: core_hashes(credentials),
        names.USER_OPERATOR: frozenset({password_hash(credentials.operator_password)}),
    }
