"""Tables on a terminal, made of texts that came from outside."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from manman_status.wire.reasons import printable

WIDTH_WITHOUT_TERMINAL = 200
STYLES = {
    "healthy": "green",
    "late": "yellow",
    "unhealthy": "red",
    "unknown": "dim",
    "terminated": "dim",
    "RUNNING": "green",
    "LOST": "red",
    "CRASHED": "red",
    "COMPLETE": "dim",
    "critical": "red",
    "warning": "yellow",
    "info": "dim",
}


def numbered(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def percentile(values: Iterable[float], share: float) -> float | None:
    """The smallest value that at least this `share` of the values does not exceed; None for no
    values."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)] if ordered else None


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table, with health and status in their colours. None is an empty cell."""
    table = Table(*headings, box=None)
    for row in rows:
        cells = ("" if value is None else printable(str(value)) for value in row)
        table.add_row(*(Text(cell, style=STYLES.get(cell, ""), overflow="fold") for cell in cells))
    Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL).print(table)
