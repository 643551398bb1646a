"""Libraries that are not there: an error that names the package or the extra."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs(library: str, install: str | None = None) -> Iterator[None]:
    """Around the import of an optional library; ``install`` is what to give to pip where it is not its name."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != library:
            raise
        message = f"this needs {library}: pip install '{install or library}'"
        raise ModuleNotFoundError(message, name=error.name) from None
