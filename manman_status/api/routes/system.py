"""The fleet in numbers, for people and for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Request, get
from litestar.response.base import ASGIResponse

from manman_status.api.answers import Answer, Answers
from manman_status.api.errors import documented_problems
from manman_status.api.metrics import CONTENT_TYPE, Metrics
from manman_status.api.parameters import At
from manman_status.api.past_responses import PastSystem
from manman_status.api.responses import System, documented, system_answer
from manman_status.api.routes.past import system_then
from manman_status.store.system_reads import read_fleet

if TYPE_CHECKING:
    from manman_status.store.pool import Connection


@get(
    "/system",
    operation_id="getSystem",
    responses=documented(System | PastSystem) | documented_problems(),
)
async def system(request: Request[Any, Any, Any], at: At = None) -> Answer:
    """How many workers are in what health, how many servers run, and how good the observation
    is."""
    if at is not None:
        return await system_then(request, at=at)

    async def ask(connection: Connection) -> Answer:
        return system_answer(await read_fleet(connection))

    return await Answers.of(request.app).read(request, ask)


@get(
    "/metrics",
    operation_id="getMetrics",
    responses=documented(str, media_type=CONTENT_TYPE, changes=True)
    | documented_problems(asks=False),
)
async def metrics(request: Request[Any, Any, Any]) -> ASGIResponse:
    """Prometheus text. Without its database it says so, and leaves out what it does not know."""
    text = await Metrics.of(request.app).text()
    return ASGIResponse(
        body=text, headers={"content-type": CONTENT_TYPE, "cache-control": "no-store"}
    )
