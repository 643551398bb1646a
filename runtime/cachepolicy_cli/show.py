"""How results are shown: tables with colours on a terminal, plain columns in a pipe, JSON where it is asked for."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

#: Columns of a pipe: nothing is cut or wrapped for want of a window.
_PIPE_WIDTH = 240


class Show:
    """Where and how to print. ``as_json`` prints each result as one line in a pipe, indented on a terminal."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.terminal = sys.stdout.isatty()
        self.console = Console(
            width=None if self.terminal else _PIPE_WIDTH, highlight=False, soft_wrap=not self.terminal
        )

    def result(self, content: Mapping[str, Any], *parts: RenderableType) -> None:
        """The content as JSON, or its parts for people."""
        if self.as_json:
            self.json(content)
        else:
            self.console.print(Group(*parts))

    def json(self, content: Mapping[str, Any]) -> None:
        print(json.dumps(content, indent=2 if self.terminal else None, ensure_ascii=False), flush=True)

    def table(
        self, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, texts: int = 1
    ) -> RenderableType:
        """The first ``texts`` columns are text, the others are numbers to the right."""
        made = Table(
            title=title if self.terminal else None,
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD if self.terminal else None,
            pad_edge=False,
        )
        first = columns[0] if self.terminal else f"{title}:"
        for number, name in enumerate((first, *columns[1:])):
            made.add_column(name, justify="left" if number < texts else "right", no_wrap=True)
        for row in rows:
            made.add_row(*(Text(spelled(cell)) for cell in row))
        return made

    def beside(self, *parts: RenderableType) -> RenderableType:
        """Next to each other where there is room for it, else one below the other."""
        return Columns(parts, padding=(0, 4)) if self.terminal else Group(*parts)

    def line(self, *parts: tuple[str, str] | str) -> RenderableType:
        """One line of pieces, each text or (text, style)."""
        return Text.assemble(*parts)


def spelled(value: Any) -> str:
    """A cell: nothing for None, thousands apart, four digits of a fraction."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def words(name: str) -> str:
    """``liveProcesses`` as people write it."""
    return re.sub("([A-Z])", r" \1", name).lower()


def percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.1%}"


def size(count: int | None) -> str:
    """Bytes for people."""
    if count is None:
        return "-"
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
