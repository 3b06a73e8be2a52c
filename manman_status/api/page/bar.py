"""The bar above every page: how good the observation is, and the fleet in a line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
from litestar.di import NamedDependency
from litestar.params import SkipValidation

from manman_status.api.page.words import clock, span
from manman_status.api.readings import Reading
from manman_status.domain.alert import AlertState, Severity
from manman_status.domain.fleet import ObservationState, unwatched_text
from manman_status.domain.status import Health
from manman_status.store.health import Doubt, Observation
from manman_status.store.measured import read_measured

if TYPE_CHECKING:
    from manman_status.api.database import Database
    from manman_status.store.pool import Connection

GUARDS_SHOWN = 10
SHOWN = (Health.HEALTHY, Health.LATE, Health.UNHEALTHY, Health.UNKNOWN)


class Group(msgspec.Struct, frozen=True):
    name: str
    """Empty: the workers without a group."""
    healths: Counter[Health]

    @property
    def size(self) -> int:
        return self.healths.total()


class Bar(msgspec.Struct, frozen=True):
    state: ObservationState
    text: str
    healths: Counter[Health]
    groups: list[Group]
    """Sorted by name: the largest groups, and those with the most workers that are not healthy."""
    more_groups: int
    guards: list[dict[str, Any]]
    """The guards that hold the most workers, sorted by name."""
    more_guards: int
    unwatched: str
    """Empty when every worker that reports is watched."""
    alerts: Counter[Severity]
    """Open ones: not acknowledged, and not part of another."""


BarReading: TypeAlias = NamedDependency[SkipValidation[Reading[Bar]]]


async def read_bar(connection: Connection) -> Bar:
    """Read the numbers of the workers that have not ended."""
    measured = await read_measured(connection)
    groups: dict[str, Counter[Health]] = {}
    for name, health, number in measured.workers:
        groups.setdefault(name, Counter())[Health(health)] = number
    alerts: Counter[Severity] = Counter()
    for _, severity, alert_state, number in measured.alerts:
        if alert_state == AlertState.OPEN:
            alerts[Severity(severity)] += number
    observation, shown_guards = measured.observation, measured.guards[:GUARDS_SHOWN]
    state = observation.state
    return Bar(
        state=state,
        text=_text(state, observation, observation.doubt),
        healths=Counter(
            {Health(health): number for health, number in measured.active_by_health.items()}
        ),
        groups=[Group(name, groups[name]) for name in sorted(groups)],
        more_groups=measured.groups_total - len(groups),
        guards=shown_guards,
        more_guards=measured.guards_total - len(shown_guards),
        unwatched=unwatched_text(measured.unwatched_workers) if measured.unwatched_workers else "",
        alerts=alerts,
    )


def _text(state: ObservationState, observation: Observation, doubt: Doubt | None) -> str:
    as_of, lag_seconds, step = observation.as_of, observation.lag_seconds, observation.clock_step
    if lag_seconds is None:
        return (
            "Nothing was ever observed: no processor has run. Grey is not dead: nothing is known of"
            " anyone."
        )
    at = clock(as_of, as_of)
    match state:
        case ObservationState.OK:
            return f"observed until {at} UTC, {span(lag_seconds)} ago"
        case ObservationState.DEGRADED if doubt == "clock_stepped" and step is not None:
            by = f"{'back' if step.seconds < 0 else 'forward'} by {span(abs(step.seconds))}"
            return (
                f"The database's clock stepped {by} at {clock(step.at, as_of)} UTC: "
                "no worker is marked LOST until a whole timeout was observed since."
            )
        case ObservationState.DEGRADED if doubt == "heartbeats_dropped":
            return (
                "RabbitMQ dropped heartbeats, since a queue was full or not read for too long: "
                "no worker is marked LOST until a whole timeout was observed since."
            )
        case ObservationState.DEGRADED:
            return (
                f"The observation lags {span(lag_seconds)}: everything here is as of {at} UTC. "
                f"The {observation.slowest_source} is furthest behind."
            )
        case ObservationState.BLIND:
            source = observation.slowest_source or ""
            behind = f"The {source} is furthest behind. " if source.startswith("bridge ") else ""
            return (
                f"Nobody has listened since {at} UTC, for {span(lag_seconds)}. {behind}"
                "Grey is not dead: nothing is known of those workers, and nobody is given up."
            )


def bar_reading(database: Database, *, keep_seconds: float) -> Reading[Bar]:
    """Shared by all who have a page open: each reads it every other second."""

    def query(connection: Connection) -> Awaitable[Bar]:
        return read_bar(connection)

    return Reading(database, query, key="bar", times=4, at_least_seconds=keep_seconds)
