"""Badges of the fleet and of a worker, for pages that are not ours."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from litestar import Request, get
from litestar.di import NamedDependency

from manman_status.api.answers import Answer, Answers
from manman_status.api.badge import COLOURS, badge_answer, shown_uptime
from manman_status.api.errors import documented_problems
from manman_status.api.parameters import BADGE_WINDOWS, BadgeWindow, PathId, one_of, parse_window
from manman_status.api.responses import documented, overall_of
from manman_status.domain.status import Health
from manman_status.store.details import get_worker
from manman_status.store.system_reads import read_fleet
from manman_status.store.uptime import Uptime, read_fleet_uptime, read_worker_uptime

if TYPE_CHECKING:
    from manman_status.store.pool import Connection

IMAGE = documented(str, media_type="image/svg+xml")


class _Healthy(msgspec.Struct):
    health: Health


@get("/badge.svg", operation_id="getBadge", responses=IMAGE | documented_problems())
async def fleet_badge(
    request: Request[Any, Any, Any],
    answers: NamedDependency[Answers],
    retention: NamedDependency[timedelta],
    window: BadgeWindow = None,
) -> Answer:
    """The overall status of the fleet, or its uptime, as a badge."""
    length = _parse_window(window, retention)

    async def query(connection: Connection) -> Answer:
        if length is None:
            fleet = await read_fleet(connection)
            status = overall_of(fleet)
            return badge_answer(
                "fleet", status, COLOURS[status], lag_seconds=fleet.observation.lag_seconds
            )
        found = await read_fleet_uptime(
            connection,
            None,
            window_seconds=length.total_seconds(),
        )
        return _uptime("fleet", f"{window}", found)

    return await answers.read(request, query, window, expensive=length is not None)


@get(
    "/workers/{worker_id:str}/badge.svg",
    operation_id="getWorkerBadge",
    responses=IMAGE | documented_problems(finds_one=True),
)
async def worker_badge(
    request: Request[Any, Any, Any],
    answers: NamedDependency[Answers],
    retention: NamedDependency[timedelta],
    worker_id: PathId,
    window: BadgeWindow = None,
) -> Answer:
    """The health of one worker, or its uptime, as a badge."""
    length, name = _parse_window(window, retention), f"worker {worker_id}"

    async def query(connection: Connection) -> Answer:
        if length is None:
            detail = await get_worker(connection, worker_id)
            health = msgspec.json.decode(detail.item, type=_Healthy).health
            return badge_answer(
                name, health, COLOURS[health], lag_seconds=detail.observation.lag_seconds
            )
        found = await read_worker_uptime(
            connection,
            worker_id,
            window_seconds=length.total_seconds(),
        )
        return _uptime(name, f"{window}", found)

    return await answers.read(request, query, worker_id, window, expensive=length is not None)


def _parse_window(window: str | None, retention: timedelta) -> timedelta | None:
    if window is None:
        return None
    return parse_window(one_of("window", BADGE_WINDOWS, window), retention=retention)


def _uptime(name: str, window: str, found: Uptime) -> Answer:
    value, colour = shown_uptime(found.figures)
    return badge_answer(
        f"{name} uptime {window}", value, colour, lag_seconds=found.observation.lag_seconds
    )
