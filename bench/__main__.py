"""`python -m bench`: what the roles reach on this machine, beside the least that the same work can
cost.

Every line is one measurement, with the median of several runs and its ratio to the bare one.
`--quick` shows that it works, in a minute; only a full run on an idle machine is worth quoting.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, get_args

from cyclopts import App, Parameter

from bench import bridge, drain, http, million, partitions, reporter, scrape, sweep, watchers
from bench.stack import FULL, QUICK, Stack

Part: TypeAlias = Literal[
    "singles",
    "arrays",
    "http",
    "sweep",
    "reporter",
    "bridge",
    "watchers",
    "scrape",
    "million",
    "partitions",
]
PARTS: tuple[Part, ...] = tuple(
    part for part in get_args(Part) if part not in {"million", "partitions"}
)
"""The parts of a run that names none: the other two take long."""
DRAINED: dict[Part, Callable[[Stack], Awaitable[str]]] = {
    "singles": drain.singles,
    "arrays": drain.arrays,
    "partitions": partitions.table,
}
WITHOUT_FLEET: dict[Part, Callable[[Stack], Awaitable[str]]] = {
    "sweep": sweep.cost,
    "reporter": reporter.cost,
    "bridge": bridge.cost,
    "watchers": watchers.delays,
    "scrape": scrape.cost,
    "million": million.table,
}
"""The parts that bring their own database, or need none."""

app = App(
    name="python -m bench",
    help_format="plaintext",
    help="Measure on this machine, beside the bare work.",
)


@app.default
def bench(
    *,
    quick: Annotated[bool, Parameter(negative="", help="Small and once.")] = False,
    only: Annotated[tuple[Part, ...], Parameter(help="Not all of it.")] = PARTS,
) -> None:
    with tempfile.TemporaryDirectory(
        prefix="manman-status-bench-", ignore_cleanup_errors=True
    ) as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as another user where we are root
        with Stack(folder, QUICK if quick else FULL) as stack:
            asyncio.run(measure(stack, set(only)))


async def measure(stack: Stack, only: set[Part]) -> None:
    if only - WITHOUT_FLEET.keys():
        await stack.seed()
    for part, measured in DRAINED.items():
        if part in only:
            print(await measured(stack), flush=True)
    if only & {"singles", "arrays"}:
        print(await drain.hot_updates(stack), flush=True)
    if "http" in only:
        async for line in http.pages(stack):
            print(line, flush=True)
    for part, measured in WITHOUT_FLEET.items():
        if part in only:
            print(await measured(stack), flush=True)


if __name__ == "__main__":
    app()
