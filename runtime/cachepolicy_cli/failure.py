"""How ``mc`` ends, and the one exception that ends it early."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    OK = 0
    FAILED = 1
    """Core is not reached, refuses, or some of the requests failed."""
    USAGE = 2
    """Wrong use, or a file that cannot be read."""
    DEGRADED = 3
    """Core answers, with less than the policy asks for."""
    CAPPED = 4
    """Warming stopped at a cap before the end of the file."""
    INTERRUPTED = 130


class Failure(Exception):  # noqa: N818 - an outcome of the program, not a bug
    """Ends the program: one sentence for standard error, and the exit code."""

    def __init__(self, sentence: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(sentence)
        self.code = code
