"""Workers and their health."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Request, get
from litestar.di import NamedDependency

from manman_status.api.answers import Answer, Answers
from manman_status.api.cursors import read_cursor
from manman_status.api.errors import InvalidParameter, documented_problems
from manman_status.api.parameters import (
    At,
    Cursor,
    Group,
    Labels,
    Limit,
    PathId,
    QueryHealth,
    QueryStatus,
    parse_at,
    parse_labels,
)
from manman_status.api.past import Past, filters_at
from manman_status.api.responses import (
    PastWorkerDetail,
    PastWorkerList,
    WorkerDetail,
    WorkerList,
    detail_answer,
    documented,
    page_answer,
)
from manman_status.store.details import get_worker
from manman_status.store.past import get_worker_at, list_workers_at
from manman_status.store.reads import WorkerFilters, list_workers

if TYPE_CHECKING:
    from manman_status.store.past import PastPage
    from manman_status.store.pool import Connection
    from manman_status.store.reads import Page

KIND = "workers"


@get(
    "/workers",
    operation_id="listWorkers",
    responses=documented(WorkerList | PastWorkerList) | documented_problems(),
)
async def workers(
    request: Request[Any, Any, Any],
    answers: NamedDependency[Answers],
    past: NamedDependency[Past],
    health: QueryHealth = None,
    status: QueryStatus = None,
    group: Group = None,
    label: Labels = (),
    at: At = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Answer:
    """All workers with their health, by id. At a past time: those that were known then, by their
    labels of now."""
    filters = WorkerFilters(health=health, status=status, labels=parse_labels(group, label))
    if at is not None and health is not None:
        raise InvalidParameter("health", "is not kept: at a past time ask for `status`")
    time = parse_at(at)
    covered = filters_at(time, filters)
    after = read_cursor(cursor, KIND, covered)

    async def query(connection: Connection) -> Answer:
        page: Page | PastPage
        if time is None:
            page = await list_workers(connection, filters, after=after, limit=limit)
        else:
            moment = await past.look_back(connection, time)
            page = await list_workers_at(connection, filters, moment, after=after, limit=limit)
        return page_answer(page, kind=KIND, filters=covered)

    return await answers.read(request, query, covered, after, limit, expensive=time is not None)


@get(
    "/workers/{worker_id:str}",
    operation_id="getWorker",
    responses=documented(WorkerDetail | PastWorkerDetail) | documented_problems(finds_one=True),
)
async def worker(
    request: Request[Any, Any, Any],
    answers: NamedDependency[Answers],
    past: NamedDependency[Past],
    worker_id: PathId,
    at: At = None,
) -> Answer:
    """One worker, its server instances (all that are active, the newest that ended) and its newest
    transitions."""
    time = parse_at(at)

    async def query(connection: Connection) -> Answer:
        if time is None:
            return detail_answer(await get_worker(connection, worker_id))
        moment = await past.look_back(connection, time)
        return detail_answer(await get_worker_at(connection, worker_id, moment))

    return await answers.read(request, query, worker_id, time, expensive=time is not None)
