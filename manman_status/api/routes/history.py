"""The transitions of one worker or server instance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Request, get
from litestar.di import NamedDependency

from manman_status.api.answers import Answer, Answers
from manman_status.api.cursors import read_cursor
from manman_status.api.errors import documented_problems
from manman_status.api.parameters import (
    LARGEST_ID,
    Cursor,
    Limit,
    PathId,
    QueryStatus,
    Since,
    Until,
    parse_time,
)
from manman_status.api.responses import TransitionList, documented, page_answer
from manman_status.domain.status import Entity
from manman_status.store.history import HistoryFilters, list_transitions

if TYPE_CHECKING:
    from manman_status.store.pool import Connection

KIND = "transitions"


@get(
    "/workers/{worker_id:str}/transitions",
    operation_id="listWorkerTransitions",
    responses=documented(TransitionList) | documented_problems(finds_one=True),
)
async def worker_transitions(
    request: Request[Any, Any, Any],
    answers: NamedDependency[Answers],
    worker_id: PathId,
    new_status: QueryStatus = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Answer:
    """The transitions of one worker that are kept, the newest first."""
    filters = _filters(Entity.WORKER, worker_id, new_status, since, until)
    return await _page(request, answers, filters, limit, cursor)


@get(
    "/servers/{instance_id:str}/transitions",
    operation_id="listServerTransitions",
    responses=documented(TransitionList) | documented_problems(finds_one=True),
)
async def server_transitions(
    request: Request[Any, Any, Any],
    answers: NamedDependency[Answers],
    instance_id: PathId,
    new_status: QueryStatus = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Answer:
    """The transitions of one server instance that are kept, the newest first."""
    filters = _filters(Entity.SERVER_INSTANCE, instance_id, new_status, since, until)
    return await _page(request, answers, filters, limit, cursor)


def _filters(
    entity: Entity, entity_id: int, new_status: QueryStatus, since: str | None, until: str | None
) -> HistoryFilters:
    return HistoryFilters(
        entity=entity,
        entity_id=entity_id,
        new_status=new_status,
        since=None if since is None else parse_time("since", since),
        until=None if until is None else parse_time("until", until),
    )


async def _page(
    request: Request[Any, Any, Any],
    answers: Answers,
    filters: HistoryFilters,
    limit: int,
    cursor: str | None,
) -> Answer:
    before = read_cursor(cursor, KIND, filters) or LARGEST_ID

    async def query(connection: Connection) -> Answer:
        page = await list_transitions(connection, filters, before=before, limit=limit)
        return page_answer(page, kind=KIND, filters=filters)

    return await answers.read(request, query, filters, before, limit)
