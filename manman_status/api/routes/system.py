"""The fleet in numbers, for people and for Prometheus."""

from __future__ import annotations

from functools import partial
from typing import Any

from litestar import Request, get
from litestar.response.base import ASGIResponse

from manman_status.api.database import Database
from manman_status.api.errors import documented_problems
from manman_status.api.metrics import CONTENT_TYPE, exposition
from manman_status.api.responses import System, documented, respond, system_answer
from manman_status.errors import DatabaseUnavailable
from manman_status.store.system_reads import Fleet, read_fleet


@get("/system", operation_id="getSystem", responses=documented(System) | documented_problems())
async def system(request: Request[Any, Any, Any]) -> ASGIResponse:
    """How many workers are in what health, how many servers run, and how good the observation is."""
    return respond(request, system_answer(await _fleet(request)))


@get(
    "/metrics",
    operation_id="getMetrics",
    responses=documented(str, media_type=CONTENT_TYPE, changes=True) | documented_problems(asks=False),
)
async def metrics(request: Request[Any, Any, Any]) -> ASGIResponse:
    """Prometheus text. Without its database it says so, and leaves out what it does not know."""
    try:
        fleet = await _fleet(request)
    except DatabaseUnavailable:
        fleet = None
    return ASGIResponse(body=exposition(fleet), headers={"content-type": CONTENT_TYPE, "cache-control": "no-store"})


async def _fleet(request: Request[Any, Any, Any]) -> Fleet:
    database = Database.of(request)
    return await database.read(partial(read_fleet, timeouts=database.timeouts), key="fleet")
