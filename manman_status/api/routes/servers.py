"""Game server instances."""

from __future__ import annotations

from typing import Any

from litestar import Request, get
from litestar.di import NamedDependency

from manman_status.api.answers import Answer, Answers
from manman_status.api.errors import documented_problems
from manman_status.api.lists import Subject
from manman_status.api.parameters import At, Cursor, Limit, PathId, QueryId, QueryStatus, parse_at
from manman_status.api.past import Past
from manman_status.api.responses import (
    PastServerInstanceDetail,
    PastServerInstanceList,
    ServerInstanceDetail,
    ServerInstanceList,
    documented,
)
from manman_status.store.details import get_server
from manman_status.store.past import get_server_at, list_servers_at
from manman_status.store.reads import ServerFilters, list_servers

SERVERS = Subject("servers", list_servers, list_servers_at, get_server, get_server_at)


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
    return await SERVERS.page(request, answers, filters, cursor, limit, past=past, at=parse_at(at))


@get(
    "/servers/active",
    operation_id="listActiveServers",
    responses=documented(ServerInstanceList) | documented_problems(),
)
async def active_servers(
    request: Request[Any, Any, Any],
    answers: NamedDependency[Answers],
    past: NamedDependency[Past],
    worker_id: QueryId = None,
    game_server_config_id: QueryId = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Answer:
    """Only the instances that run now (CREATED, INITIALIZING, RUNNING), by id."""
    filters = ServerFilters(
        worker_id=worker_id, game_server_config_id=game_server_config_id, active=True
    )
    return await SERVERS.page(request, answers, filters, cursor, limit, past=past)


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
    return await SERVERS.detail(request, answers, instance_id, past=past, at=parse_at(at))
