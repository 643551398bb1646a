"""The Lua scripts beside this file, by name."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text and the digest under which a server caches it."""

    text: bytes
    sha: str


@cache
def script(name: str) -> Script:
    """``scripts/<name>.lua``. Each script's header names its keys, arguments, answer and their units."""
    text = files(__package__).joinpath("scripts", f"{name}.lua").read_bytes()
    # The digest is the name that EVALSHA asks for, not a safeguard.
    return Script(text, hashlib.sha1(text, usedforsecurity=False).hexdigest())
