"""Workers and their health."""

from __future__ import annotations

from typing import Any

from litestar import Request, get
from litestar.di import NamedDependency

from manman_status.api.answers import Answer, Answers
from manman_status.api.errors import InvalidParameter, documented_problems
from manman_status.api.lists import Subject
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
from manman_status.api.past import Past
from manman_status.api.responses import (
    PastWorkerDetail,
    PastWorkerList,
    WorkerDetail,
    WorkerList,
    documented,
)
from manman_status.store.details import get_worker
from manman_status.store.past import get_worker_at, list_workers_at
from manman_status.store.reads import WorkerFilters, list_workers

WORKERS = Subject("workers", list_workers, list_workers_at, get_worker, get_worker_at)


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
    return await WORKERS.page(request, answers, filters, cursor, limit, past=past, at=parse_at(at))


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
    return await WORKERS.detail(request, answers, worker_id, past=past, at=parse_at(at))
