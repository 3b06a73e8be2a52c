"""The paths of ManMan's own status api, for programs that query it. They will go: others query
`/status/workers/{worker_id}` and `/status/servers/{instance_id}`, which say why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Request, get
from litestar.di import NamedDependency

from manman_status.api.answers import Answer, Answers
from manman_status.api.errors import documented_problems
from manman_status.api.parameters import PathId
from manman_status.api.responses import StatusInfo, documented, status_info_answer
from manman_status.store.details import get_server_status, get_worker_status

if TYPE_CHECKING:
    from manman_status.store.pool import Connection


@get(
    "/worker/{worker_id:str}",
    operation_id="getWorkerStatusInfo",
    deprecated=True,
    responses=documented(StatusInfo) | documented_problems(finds_one=True),
)
async def worker(
    request: Request[Any, Any, Any], answers: NamedDependency[Answers], worker_id: PathId
) -> Answer:
    """A worker's newest status in ManMan's shape."""

    async def query(connection: Connection) -> Answer:
        return status_info_answer(await get_worker_status(connection, worker_id))

    return await answers.read(request, query, worker_id)


@get(
    "/instance/{instance_id:str}",
    operation_id="getServerStatusInfo",
    deprecated=True,
    responses=documented(StatusInfo) | documented_problems(finds_one=True),
)
async def instance(
    request: Request[Any, Any, Any], answers: NamedDependency[Answers], instance_id: PathId
) -> Answer:
    """A server instance's newest status in ManMan's shape."""

    async def query(connection: Connection) -> Answer:
        return status_info_answer(await get_server_status(connection, instance_id))

    return await answers.read(request, query, instance_id)
