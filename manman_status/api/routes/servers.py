"""Game server instances."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Request, get

from manman_status.api.answers import Answer, Answers
from manman_status.api.cursors import read_cursor
from manman_status.api.errors import documented_problems
from manman_status.api.parameters import At, Cursor, Limit, PathId, QueryId, QueryStatus
from manman_status.api.past_responses import PastServerInstanceDetail, PastServerInstanceList
from manman_status.api.responses import (
    ServerInstanceDetail,
    ServerInstanceList,
    detail_answer,
    documented,
    page_answer,
)
from manman_status.api.routes.past import server_then, servers_then
from manman_status.store.details import get_server
from manman_status.store.reads import ServerFilters, list_servers

if TYPE_CHECKING:
    from manman_status.store.pool import Connection

KIND = "servers"


@get(
    "/servers",
    operation_id="listServers",
    responses=documented(ServerInstanceList | PastServerInstanceList) | documented_problems(),
)
async def servers(
    request: Request[Any, Any, Any],
    status: QueryStatus = None,
    worker_id: QueryId = None,
    game_server_config_id: QueryId = None,
    at: At = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Answer:
    """All server instances that were ever reported, by id. At a past time: those that were known
    then."""
    filters = ServerFilters(
        status=status, worker_id=worker_id, game_server_config_id=game_server_config_id
    )
    if at is not None:
        return await servers_then(request, filters, at=at, limit=limit, cursor=cursor)
    return await _page(request, filters, limit, cursor)


@get(
    "/servers/active",
    operation_id="listActiveServers",
    responses=documented(ServerInstanceList) | documented_problems(),
)
async def active_servers(
    request: Request[Any, Any, Any],
    worker_id: QueryId = None,
    game_server_config_id: QueryId = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Answer:
    """Only the instances that run now (CREATED, INITIALIZING, RUNNING), by id."""
    filters = ServerFilters(
        worker_id=worker_id, game_server_config_id=game_server_config_id, active=True
    )
    return await _page(request, filters, limit, cursor)


async def _page(
    request: Request[Any, Any, Any], filters: ServerFilters, limit: int, cursor: str | None
) -> Answer:
    after = read_cursor(cursor, KIND, filters)

    async def ask(connection: Connection) -> Answer:
        page = await list_servers(connection, filters, after=after, limit=limit)
        return page_answer(page, kind=KIND, filters=filters)

    return await Answers.of(request.app).read(request, ask, filters, after, limit)


@get(
    "/servers/{instance_id:str}",
    operation_id="getServer",
    responses=documented(ServerInstanceDetail | PastServerInstanceDetail)
    | documented_problems(finds_one=True),
)
async def server(request: Request[Any, Any, Any], instance_id: PathId, at: At = None) -> Answer:
    """One server instance and its newest transitions."""
    if at is not None:
        return await server_then(request, instance_id, at=at)

    async def ask(connection: Connection) -> Answer:
        return detail_answer(await get_server(connection, instance_id))

    return await Answers.of(request.app).read(request, ask, instance_id)
