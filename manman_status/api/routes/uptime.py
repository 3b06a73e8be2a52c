"""Uptime of the fleet, of a group and of one worker."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from litestar import Request, get
from litestar.di import NamedDependency

from manman_status.api.answers import Answer, Answers
from manman_status.api.errors import documented_problems
from manman_status.api.parameters import (
    GroupOfWorkers,
    Host,
    PathId,
    UptimeWindow,
    parse_group,
    parse_host,
    parse_window,
)
from manman_status.api.responses import documented
from manman_status.api.uptime_responses import (
    FleetUptime,
    HostUptime,
    WorkerUptime,
    fleet_uptime_answer,
    host_uptime_answer,
    worker_uptime_answer,
)
from manman_status.store.uptime import read_fleet_uptime, read_host_uptime, read_worker_uptime

if TYPE_CHECKING:
    from manman_status.store.pool import Connection


@get("/uptime", operation_id="getUptime", responses=documented(FleetUptime) | documented_problems())
async def fleet_uptime(
    request: Request[Any, Any, Any],
    answers: NamedDependency[Answers],
    retention: NamedDependency[timedelta],
    group: GroupOfWorkers = None,
    window: UptimeWindow = None,
) -> Answer:
    """The uptime of all workers together, or of a group of them: sums over those that are known
    now."""
    group = parse_group(group)
    seconds = parse_window(window, retention=retention).total_seconds()

    async def query(connection: Connection) -> Answer:
        found = await read_fleet_uptime(connection, group, window_seconds=seconds)
        return fleet_uptime_answer(found, group=group)

    return await answers.read(request, query, group, seconds, expensive=True)


@get(
    "/hosts/{host:str}/uptime",
    operation_id="getHostUptime",
    responses=documented(HostUptime) | documented_problems(finds_one=True),
)
async def host_uptime(
    request: Request[Any, Any, Any],
    answers: NamedDependency[Answers],
    retention: NamedDependency[timedelta],
    host: Host,
    window: UptimeWindow = None,
) -> Answer:
    """The uptime of a host: the workers with its name as their label `host` are its lives, and at
    each time the newest one counts."""
    host = parse_host(host)
    seconds = parse_window(window, retention=retention).total_seconds()

    async def query(connection: Connection) -> Answer:
        found = await read_host_uptime(connection, host, window_seconds=seconds)
        return host_uptime_answer(found, host)

    return await answers.read(request, query, host, seconds, expensive=True)


@get(
    "/workers/{worker_id:str}/uptime",
    operation_id="getWorkerUptime",
    responses=documented(WorkerUptime) | documented_problems(finds_one=True),
)
async def worker_uptime(
    request: Request[Any, Any, Any],
    answers: NamedDependency[Answers],
    retention: NamedDependency[timedelta],
    worker_id: PathId,
    window: UptimeWindow = None,
) -> Answer:
    """The uptime of one worker."""
    seconds = parse_window(window, retention=retention).total_seconds()

    async def query(connection: Connection) -> Answer:
        found = await read_worker_uptime(
            connection,
            worker_id,
            window_seconds=seconds,
        )
        return worker_uptime_answer(found, worker_id)

    return await answers.read(request, query, worker_id, seconds, expensive=True)
