"""Game server instances."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Request, get
from litestar.di import NamedDependency

from manman_status.api.answers import Answer, Answers
from manman_status.api.cursors import read_cursor
from manman_status.api.errors import documented_problems
from manman_status.api.parameters import At, Cursor, Limit, PathId, QueryId, QueryStatus, parse_at
from manman_status.api.past import Past, filters_at
from manman_status.api.responses import (
    PastServerInstanceDetail,
    PastServerInstanceList,
    ServerInstanceDetail,
    ServerInstanceList,
    detail_answer,
    documented,
    page_answer,
)
from manman_status.store.details import get_server
from manman_status.store.past import get_server_at, list_servers_at
from manman_status.store.reads import ServerFilters, list_servers

if TYPE_CHECKING:
    from manman_status.store.past import PastPage
    from manman_status.store.pool import Connection
    from manman_status.store.reads import Page

KIND = "servers"


@get(
    "/servers",
    operation_id="listServers",
    responses=documented(ServerInstanceList | PastServerInstanceList) | documented_problems(),
)
async def servers(
    request: Request[Any, Any, Any],
    answers: NamedDependency[Answers],
    past: NamedDependency[Past],
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
    time = parse_at(at)
    covered = filters_at(time, filters)
    after = read_cursor(cursor, KIND, covered)

    async def query(connection: Connection) -> Answer:
        page: Page | PastPage
        if time is None:
            page = await list_servers(connection, filters, after=after, limit=limit)
        else:
            moment = await past.look_back(connection, time)
            page = await list_servers_at(connection, filters, moment, after=after, limit=limit)
        return page_answer(page, kind=KIND, filters=covered)

    return await answers.read(request, query, covered, after, limit, expensive=time is not None)


@get(
    "/servers/active",
    operation_id="listActiveServers",
    responses=documented(ServerInstanceList) | documented_problems(),
)
async def active_servers(
    request: Request[Any, Any, Any],
    answers: NamedDependency[Answers],
    worker_id: QueryId = None,
    game_server_config_id: QueryId = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Answer:
    """Only the instances that run now (CREATED, INITIALIZING, RUNNING), by id."""
    filters = ServerFilters(
        worker_id=worker_id, game_server_config_id=game_server_config_id, active=True
    )
    after = read_cursor(cursor, KIND, filters)

    async def query(connection: Connection) -> Answer:
        page = await list_servers(connection, filters, after=after, limit=limit)
        return page_answer(page, kind=KIND, filters=filters)

    return await answers.read(request, query, filters, after, limit)


@get(
    "/servers/{instance_id:str}",
    operation_id="getServer",
    responses=documented(ServerInstanceDetail | PastServerInstanceDetail)
    | documented_problems(finds_one=True),
)
async def server(
    request: Request[Any, Any, Any],
    answers: NamedDependency[Answers],
    past: NamedDependency[Past],
    instance_id: PathId,
    at: At = None,
) -> Answer:
    """One server instance and its newest transitions."""
    time = parse_at(at)

    async def query(connection: Connection) -> Answer:
        if time is None:
            return detail_answer(await get_server(connection, instance_id))
        moment = await past.look_back(connection, time)
        return detail_answer(await get_server_at(connection, instance_id, moment))

    return await answers.read(request, query, instance_id, time, expensive=time is not None)
