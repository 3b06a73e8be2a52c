"""Try thresholds on a recording, so that an operator can choose a timeout."""

from __future__ import annotations

import math
import statistics
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from manman_status.cli.client import thresholds_of
from manman_status.cli.tables import numbered, percentile, print_table
from manman_status.cli.views import AsJson
from manman_status.domain.liveness import LOST_AFTER_INTERVALS
from manman_status.domain.sweep import SweepRules
from manman_status.errors import CommandFailed, SettingsError
from manman_status.lab.recording.lines import is_cut_off, read_lines
from manman_status.lab.recording.what_if import Outcome, Recorded, Verdict, collect, conclude
from manman_status.settings import load_settings

TIMEOUTS = (5.0, 10.0, 15.0, 30.0, 60.0)
COLUMNS = (
    "timeout",
    "guard",
    "LOST",
    "true",
    "false",
    "undecided",
    "held",
    "delay median",
    "95 %",
    "longest",
)


def what_if(
    file: Path,
    /,
    *,
    timeout: Annotated[tuple[timedelta, ...], Parameter(negative=())] = (),
    guard: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    as_json: AsJson = False,
) -> None:
    """Say what other thresholds would have concluded from a recording.

    Rules that are not tried are those of the api at MANMAN_STATUS_URL. Where none answers they are
    those of the settings.

    A LOST is true when the worker was never heard again, or only in a new life, and false when it
    was alive: the same life was heard again. It is undecided when the recording ends before one
    more timeout has passed.

    Parameters
    ----------
    file
        What `record` wrote.
    timeout
        MANMAN_STATUS_MINIMUM_TIMEOUT_SECONDS to try, as 15s; may be repeated. Nobody is given up
        before three of its own intervals, whatever this says.
    guard
        MANMAN_STATUS_GUARD_PERCENT to try, as 30%; may be repeated. 100% never holds.
    """
    settings = load_settings()
    thresholds = thresholds_of(settings)
    timeouts = [limit.total_seconds() for limit in timeout] or sorted(
        {*TIMEOUTS, thresholds.minimum_timeout_seconds}
    )
    percents = [_percent(text) for text in guard] or [settings.guard_percent]
    recorded = read(file, default_interval=thresholds.default_interval_seconds)
    tried = []
    for seconds in timeouts:
        for percent in percents:
            rules = msgspec.structs.replace(
                settings.sweep_rules,
                thresholds=msgspec.structs.replace(thresholds, minimum_timeout_seconds=seconds),
                guard=msgspec.structs.replace(settings.sweep_rules.guard, percent=percent),
            )
            standstill = msgspec.structs.replace(
                settings, minimum_timeout_seconds=seconds
            ).standstill_seconds
            tried.append((rules, conclude(recorded, rules, standstill_seconds=standstill)))
    if as_json:
        found = {"recording": summary(recorded), "thresholds": [as_object(*each) for each in tried]}
        print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        return
    print_table(COLUMNS, (as_row(rules, found) for rules, found in tried))
    print()
    for line in notes(recorded, timeouts):
        print(line)


def read(file: Path, *, default_interval: float) -> Recorded:
    """Raises CommandFailed or DamagedRecording."""
    try:
        recorded = collect(read_lines(file), default_interval=default_interval)
        cut_off = is_cut_off(file)
    except OSError as error:
        raise CommandFailed(f"{file}: {error.strerror}") from error
    if not recorded.signs:
        raise CommandFailed(
            f"{file} has no heartbeats" + (": its only line was never finished" if cut_off else "")
        )
    return recorded


def summary(recorded: Recorded) -> dict[str, Any]:
    return {
        "began": recorded.began,
        "ended": recorded.ended,
        "seconds": recorded.seconds,
        "messages": recorded.messages,
        "poison": recorded.poison,
        "workers": len(recorded.signs),
        "intervals": {
            f"{interval:g}": number for interval, number in sorted(recorded.intervals.items())
        },
        "gaps": [{"since": since, "until": until} for since, until in recorded.gaps],
    }


def as_object(rules: SweepRules, outcome: Outcome) -> dict[str, Any]:
    delays = outcome.delays()
    return {
        "timeout_seconds": rules.thresholds.minimum_timeout_seconds,
        "guard_percent": rules.guard.percent,
        "lost": len(outcome.losses),
        **{verdict.value: outcome.count(verdict) for verdict in Verdict},
        "guards": outcome.guards,
        "held": outcome.held,
        "delay_seconds": (
            None
            if not delays
            else {
                "median": statistics.median(delays),
                "p95": percentile(delays, 0.95),
                "longest": delays[-1],
            }
        ),
        "losses": outcome.losses,
    }


def as_row(rules: SweepRules, outcome: Outcome) -> tuple[object, ...]:
    delays = outcome.delays()
    shown = [statistics.median(delays), percentile(delays, 0.95), delays[-1]] if delays else []
    return (
        f"{rules.thresholds.minimum_timeout_seconds:g} s",
        f"{rules.guard.percent:g} %",
        len(outcome.losses),
        *(outcome.count(verdict) for verdict in Verdict),
        outcome.held,
        *(f"{seconds:.1f} s" for seconds in shown),
        *([None] * (3 - len(shown))),
    )


def notes(recorded: Recorded, timeouts: list[float]) -> list[str]:
    """Lines below the table that say what was recorded, and which thresholds change nothing."""
    each = ", ".join(
        f"{number} every {interval:g} s" for interval, number in sorted(recorded.intervals.items())
    )
    lines = [f"{recorded.messages} messages in {recorded.seconds:.0f} s; workers: {each}"]
    if recorded.gaps:
        lines.append(
            f"{numbered(len(recorded.gaps), 'gap')} in which nobody listened: no silence counts"
            " there"
        )
    if recorded.poison:
        lines.append(
            f"{numbered(recorded.poison, 'event')} that nobody can understand, and that no"
            " threshold hears"
        )
    longest = max(recorded.intervals)
    if pointless := [
        f"{seconds:g} s"
        for seconds in timeouts
        if seconds < LOST_AFTER_INTERVALS * min(recorded.intervals)
    ]:
        lines.append(
            f"{', '.join(pointless)}: shorter than three intervals of every worker, so they change"
            " nothing"
        )
    elif pointless := [
        f"{seconds:g} s" for seconds in timeouts if seconds < LOST_AFTER_INTERVALS * longest
    ]:
        lines.append(
            f"{', '.join(pointless)}: shorter than three intervals of some workers, for which they"
            " change nothing"
        )
    return lines


def _percent(text: str) -> float:
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        percent = math.nan
    if not 0 <= percent <= 100:
        raise SettingsError([f"--guard {text}: must be 0% to 100%"])
    return percent
