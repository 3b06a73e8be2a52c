"""Workers and their health."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Request, get

from manman_status.api.answers import Answer, Answers
from manman_status.api.cursors import read_cursor
from manman_status.api.errors import documented_problems
from manman_status.api.parameters import (
    At,
    Cursor,
    Group,
    Labels,
    Limit,
    PathId,
    QueryHealth,
    QueryStatus,
    labels_asked,
)
from manman_status.api.past_responses import PastWorkerDetail, PastWorkerList
from manman_status.api.responses import (
    WorkerDetail,
    WorkerList,
    detail_answer,
    documented,
    page_answer,
)
from manman_status.api.routes.past import worker_then, workers_then
from manman_status.store.details import get_worker
from manman_status.store.reads import WorkerFilters, list_workers

if TYPE_CHECKING:
    from manman_status.store.pool import Connection

KIND = "workers"


@get(
    "/workers",
    operation_id="listWorkers",
    responses=documented(WorkerList | PastWorkerList) | documented_problems(),
)
async def workers(
    request: Request[Any, Any, Any],
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
    filters = WorkerFilters(health=health, status=status, labels=labels_asked(group, label))
    if at is not None:
        return await workers_then(request, filters, at=at, limit=limit, cursor=cursor)
    after = read_cursor(cursor, KIND, filters)

    async def ask(connection: Connection) -> Answer:
        page = await list_workers(connection, filters, after=after, limit=limit)
        return page_answer(page, kind=KIND, filters=filters)

    return await Answers.of(request.app).read(request, ask, filters, after, limit)


@get(
    "/workers/{worker_id:str}",
    operation_id="getWorker",
    responses=documented(WorkerDetail | PastWorkerDetail) | documented_problems(finds_one=True),
)
async def worker(request: Request[Any, Any, Any], worker_id: PathId, at: At = None) -> Answer:
    """One worker, its server instances (all that are active, the newest that ended) and its newest
    transitions."""
    if at is not None:
        return await worker_then(request, worker_id, at=at)

    async def ask(connection: Connection) -> Answer:
        return detail_answer(await get_worker(connection, worker_id))

    return await Answers.of(request.app).read(request, ask, worker_id)
