"""The command that shows the fleet on the whole terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, NamedTuple

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from manman_status.cli.alerts import shown_state, unwatched
from manman_status.cli.events import whom
from manman_status.cli.following import ended_by_signal
from manman_status.cli.tables import STYLES, WIDTH_WITHOUT_TERMINAL
from manman_status.cli.views import Url, ago, client, guard_line, observation_line
from manman_status.cli.watched import FleetView
from manman_status.domain.alert import WEIGHT
from manman_status.domain.fleet import ObservationState, OverallStatus
from manman_status.domain.status import Health
from manman_status.wire.reasons import printable

BAR_STYLES = {
    ObservationState.OK: "bold green",
    ObservationState.DEGRADED: "bold black on yellow",
    ObservationState.BLIND: "bold white on red",
}

OVERALL_STYLES = {
    OverallStatus.HEALTHY: "green",
    OverallStatus.DEGRADED: "yellow",
    OverallStatus.DOWN: "bold red",
}


class Section(NamedTuple):
    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[object]]
    has_more: bool = False


def watch(
    *,
    group: Annotated[str | None, Parameter(help="Only workers with this label `group`.")] = None,
    interval: Annotated[
        float, Parameter(validator=Number(gte=0.2, lte=3_600), help="Seconds between readings.")
    ] = 2.0,
    url: Url = None,
) -> None:
    """Show how good the observation is, health by group, alerts, silent workers and what changed
    last, until Ctrl-C. Without a terminal, once."""
    fleet = FleetView(client(url), group)
    fleet.look()
    if not sys.stdout.isatty():
        console = Console(width=WIDTH_WITHOUT_TERMINAL, highlight=False)
        console.print(frame(fleet, console, height=None))
        return
    console = Console(highlight=False)
    with ended_by_signal(), Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(frame(fleet, console, height=console.height), refresh=True)
            time.sleep(interval)
            fleet.look_again()


def frame(fleet: FleetView, console: Console, *, height: int | None) -> Group:
    """Render the fleet in at most `height` lines; when they do not suffice, sections share them."""
    head = Group(bar(fleet), *numbers(fleet))
    sections = [groups(fleet), alerts(fleet), silent(fleet), changes(fleet)]
    wanted = [len(section.rows) + 1 if section.rows else 0 for section in sections]
    given = wanted
    if height is not None:
        titles = 2 * len(sections)
        given = share(height - len(console.render_lines(head)) - titles, wanted)
    shown = [
        shorten(section, max(lines - 1, 0)) for section, lines in zip(sections, given, strict=True)
    ]
    return Group(head, *shown)


def share(lines: int, wanted: Sequence[int]) -> list[int]:
    """Deal `lines` out to sections in turn, until each has what it wants or none are left."""
    given = [0] * len(wanted)
    while lines > 0 and given != list(wanted):
        for place, most in enumerate(wanted):
            if lines > 0 and given[place] < most:
                given[place] += 1
                lines -= 1
    return given


def shorten(section: Section, rows: int) -> Group:
    count = len(section.rows)
    there_are = f"{count} or more" if section.has_more else str(count)
    how_many = there_are if count <= rows else f"{rows} of {there_are}"
    title = Text(f"\n{section.title}: ", style="bold", no_wrap=True, overflow="ellipsis")
    title.append(how_many if count else "none", style="not bold")
    if not rows or not count:
        return Group(title)
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in section.headings:
        table.add_column(Text(heading, no_wrap=True, overflow="ellipsis"))
    for row in section.rows[:rows]:
        cells = ("" if value is None else printable(str(value)) for value in row)
        table.add_row(
            *(cut(cell, heading) for cell, heading in zip(cells, section.headings, strict=True))
        )
    return Group(title, table)


def cut(cell: str, heading: str) -> Text:
    """Style a cell and keep it on one line, however narrow its column."""
    return Text(
        cell, style=STYLES.get(cell) or STYLES.get(heading, ""), no_wrap=True, overflow="ellipsis"
    )


def bar(fleet: FleetView) -> Padding | Text:
    """Render the state of monitoring, so large that it is noticed unless all is well."""
    observation = fleet.system["observation"]
    state = ObservationState(observation["state"])
    text = observation_line(observation)
    if fleet.problem:
        state = ObservationState.BLIND
        text = (
            f"{printable(fleet.problem)}. What stands below is what it said until"
            f" {fleet.read_at:%H:%M:%SZ}"
        )
    if state is ObservationState.OK:
        return Text(text, style=BAR_STYLES[state])
    return Padding(Text(text), (1, 2), style=BAR_STYLES[state])


def numbers(fleet: FleetView) -> Iterable[Text]:
    workers, servers = fleet.system["workers"], fleet.system["servers"]
    there_are = ", ".join(
        f"{number} {name}" for name, number in workers.items() if name != "total_active" and number
    )
    overall = fleet.system["overall_status"]
    yield Text.assemble(
        (overall, OVERALL_STYLES.get(overall, "")),
        f": {servers['total_active']} servers run; workers: {there_are or 'none'}",
    )
    if fleet.news:
        yield Text(fleet.news, style="yellow")
    for guard in fleet.system["observation"]["guard"] or ():
        if fleet.group in {None, guard["group"]}:
            yield Text(guard_line(guard), style="yellow")


def groups(fleet: FleetView) -> Section:
    """List the groups, the worst first."""
    healths = (Health.UNHEALTHY, Health.LATE, Health.UNKNOWN, Health.HEALTHY)
    found = [each for each in fleet.system["groups"] if fleet.group in {None, each["group"]}]
    found.sort(key=lambda each: [-each[health] for health in healths])
    rows = [
        (each["group"] or "(none)", *(each[health] or "" for health in reversed(healths)))
        for each in found
    ]
    has_more = fleet.group is None and fleet.system.get("groups_total", 0) > len(found)
    return Section("groups", ("group", *reversed(healths)), rows, has_more)


def alerts(fleet: FleetView) -> Section:
    """List the alerts, the most severe first, of these the newest; acknowledged ones are last."""
    found = [alert for alert in fleet.alerts["items"] if alert["part_of"] is None]
    found.sort(key=lambda alert: (alert["state"] != "open", -WEIGHT[alert["severity"]]))
    rows = [
        (alert["severity"], age(alert["opened_at"], fleet), shown_state(alert), alert["summary"])
        for alert in found
    ]
    title = f"alerts{unwatched(fleet.alerts['judged_at'])}"
    has_more = fleet.alerts["next_cursor"] is not None
    return Section(title, ("severity", "for", "state", "what"), rows, has_more)


def silent(fleet: FleetView) -> Section:
    rows = [
        (
            worker["worker_id"],
            worker["health"],
            ago(worker["last_heartbeat"], worker["as_of"]),
            worker["labels"].get("group"),
            worker["active_servers"],
        )
        for worker in fleet.silent
    ]
    return Section(
        "silent workers",
        ("worker", "health", "last beat", "group", "servers"),
        rows,
        fleet.has_more_silent,
    )


def changes(fleet: FleetView) -> Section:
    rows = [
        (
            age(change["at"], fleet),
            whom(change),
            change["old_status"],
            change["new_status"],
            change["reason"],
            change["group"],
        )
        for change in fleet.changes
    ]
    return Section("last changes", ("ago", "of", "from", "to", "reason", "group"), rows)


def age(time: str, fleet: FleetView) -> str:
    seconds = max((fleet.read_at - datetime.fromisoformat(time)).total_seconds(), 0.0)
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
