"""The shapes of answers about uptime, as in `responses.py`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from manman_status.api.answers import Answer

if TYPE_CHECKING:
    from manman_status.store import uptime as store

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Losses(msgspec.Struct):
    """The times that workers were LOST, each as far as it lay in the window and was observed."""

    number: int
    total_seconds: float
    mean_seconds: float | None
    longest_seconds: float | None


class Uptime(msgspec.Struct):
    """`active_seconds` to `blind_seconds` add up to the window: of each worker, when there are
    several."""

    begins_at: datetime
    ends_at: datetime
    active_seconds: float
    lost_seconds: float
    ended_seconds: Annotated[float, Meta(description="COMPLETE or CRASHED.")]
    not_known_seconds: Annotated[float, Meta(description="Before anything was known of it.")]
    blind_seconds: Annotated[
        float, Meta(description="Nobody could tell; part of none of the others.")
    ]
    fraction_active: Annotated[
        float | None,
        Meta(description="Of the time in which it was active or lost; null without any."),
    ]
    losses: Losses
    mtbf_seconds: Annotated[
        float | None,
        Meta(description="Time active for each loss that began in the window; null without any."),
    ]
    mttr_seconds: Annotated[
        float | None,
        Meta(description="Mean of the losses after which it was active again; null without any."),
    ]


class WorkerUptime(Uptime):
    worker_id: int
    as_of: datetime


class FleetUptime(Uptime):
    group: Annotated[
        str | None, Meta(description="Null: all workers; empty: those without a group.")
    ]
    workers: Annotated[int, Meta(description="How many are summed up.")]
    as_of: datetime


class HostUptime(Uptime):
    host: str
    lives: Annotated[int, Meta(description="How many workers with this label `host` are known.")]
    as_of: datetime


def worker_uptime_answer(found: store.Uptime, worker_id: int) -> Answer:
    return _answer(found, WorkerUptime(**_shown(found), worker_id=worker_id))


def host_uptime_answer(found: store.Uptime, host: str) -> Answer:
    return _answer(found, HostUptime(**_shown(found), host=host, lives=found.workers))


def fleet_uptime_answer(found: store.Uptime, *, group: str | None) -> Answer:
    return _answer(found, FleetUptime(**_shown(found), group=group, workers=found.workers))


def _answer(found: store.Uptime, uptime: Uptime) -> Answer:
    body = msgspec.json.encode(uptime)
    return Answer(body, lasting=body, lag_seconds=found.observation.lag_seconds)


def _shown(found: store.Uptime) -> dict[str, Any]:
    figures = found.figures
    return {
        "begins_at": _time(found.window.begin),
        "ends_at": _time(found.window.end),
        "active_seconds": figures.active / 1e6,
        "lost_seconds": figures.lost / 1e6,
        "ended_seconds": figures.ended / 1e6,
        "not_known_seconds": figures.not_known / 1e6,
        "blind_seconds": figures.blind / 1e6,
        "fraction_active": figures.fraction_active,
        "losses": Losses(
            number=figures.losses,
            total_seconds=figures.lost / 1e6,
            mean_seconds=_seconds(figures.mean_loss),
            longest_seconds=figures.longest_loss / 1e6 if figures.losses else None,
        ),
        "mtbf_seconds": _seconds(figures.between_failures),
        "mttr_seconds": _seconds(figures.to_repair),
        "as_of": found.observation.as_of,
    }


def _time(microseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=microseconds)


def _seconds(microseconds: float | None) -> float | None:
    return None if microseconds is None else round(microseconds / 1e6, 6)
