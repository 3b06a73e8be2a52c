"""The map and the page of one worker, and the data that their scripts read."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from litestar import MediaType, get
from litestar.di import NamedDependency
from litestar_htmx import HTMXRequest, HTMXTemplate

from manman_status.api.answers import Answer, Answers
from manman_status.api.database import Database
from manman_status.api.page.bar import SHOWN, BarReading
from manman_status.api.page.forms import Form
from manman_status.api.page.words import worker_why
from manman_status.api.parameters import PathId
from manman_status.api.responses import ServerInstance, Transition, Worker
from manman_status.domain.status import Health
from manman_status.store.details import Detail, get_worker
from manman_status.store.feed import Position
from manman_status.store.page_reads import HEALTHS, REASONS, STATUSES, Day, read_day, read_fleet_map
from manman_status.store.uptime import read_worker_uptime

if TYPE_CHECKING:
    from manman_status.domain.uptime import Figures
    from manman_status.store.pool import Connection


class WorkerKnown(Worker):
    """`WorkerDetail` without the fields that say how fresh it is."""

    server_instances: list[ServerInstance]
    transitions: list[Transition]


@get("/")
async def fleet(request: HTMXRequest, bar: BarReading) -> HTMXTemplate:
    """The map, and the same in numbers."""
    form = Form(request, "group", "health")
    health = form.one_of("health", Health)
    context = {"bar": await bar.get(), "asked": form, "health": health, "shown": SHOWN}
    return HTMXTemplate(template_name="fleet.html", context=context)


@get("/page/bar")
async def bar_alone(bar: BarReading) -> HTMXTemplate:
    return HTMXTemplate(template_name="bar.html", context={"bar": await bar.get()})


@get("/page/groups")
async def groups(bar: BarReading) -> HTMXTemplate:
    return HTMXTemplate(
        template_name="groups.html", context={"bar": await bar.get(), "shown": SHOWN}
    )


@get("/page/map.json")
async def fleet_map(request: HTMXRequest, answers: NamedDependency[Answers]) -> Answer:
    """`groups` as in `FleetMap`, with the names that its letters stand for; `next` is where the
    next piece begins."""
    form = Form(request, "group", "health", "after")
    group, health, after = (
        form.text("group"),
        form.one_of("health", Health),
        form.id("after") or 0,
    )

    async def query(connection: Connection) -> Answer:
        found = await read_fleet_map(connection, after=after, group=group, health=health)
        observation = found.observation
        lasting = msgspec.json.encode(
            {
                "healths": HEALTHS,
                "statuses": STATUSES,
                "reasons": REASONS,
                "state": observation.state,
                "revision": observation.revision,
                "epoch": observation.epoch,
                "groups": msgspec.Raw(found.groups.encode()),
                "more_groups": found.more_groups,
                "next": found.last_id and str(found.last_id),
            }
        )
        return Answer(lasting, lasting=lasting, lag_seconds=observation.lag_seconds)

    return await answers.read(request, query, group, health, after)


@get("/page/workers/{worker_id:str}/why", media_type=MediaType.TEXT)
async def why(database: NamedDependency[Database], worker_id: PathId) -> str:
    query = partial(get_worker, worker_id=worker_id)
    detail = await database.read(query, key=("why", worker_id))
    return worker_why(msgspec.json.decode(detail.item, type=Worker), detail.observation.as_of)


@get("/page/workers/{worker_id:str}/day.json")
async def day(database: NamedDependency[Database], worker_id: PathId) -> Day:
    query = partial(read_day, worker_id=worker_id)
    return await database.read(query, key=("day", worker_id))


@get("/workers/{worker_id:str}")
async def worker(
    request: HTMXRequest,
    database: NamedDependency[Database],
    retention: NamedDependency[timedelta],
    bar: BarReading,
    worker_id: PathId,
) -> HTMXTemplate:
    """One worker, and its uptime as far back as changes are kept."""

    async def query(connection: Connection) -> tuple[Detail, Figures]:
        detail = await get_worker(connection, worker_id)
        uptime = await read_worker_uptime(
            connection,
            worker_id,
            window_seconds=retention.total_seconds(),
        )
        return detail, uptime.figures

    detail, uptime = await database.read(query, key=("worker", worker_id))
    context = {
        "worker": msgspec.json.decode(detail.item, type=WorkerKnown),
        "uptime": uptime,
        "retention": retention,
        "position": Position(detail.observation.epoch, detail.observation.revision),
        "as_of": detail.observation.as_of,
    }
    if request.htmx:
        return HTMXTemplate(template_name="worker_now.html", context=context)
    return HTMXTemplate(template_name="worker.html", context={"bar": await bar.get(), **context})
