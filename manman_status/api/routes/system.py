"""The fleet in numbers, for people and for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Request, get
from litestar.di import NamedDependency
from litestar.response.base import ASGIResponse

from manman_status.api.answers import Answer, Answers
from manman_status.api.errors import documented_problems
from manman_status.api.metrics import CONTENT_TYPE, Metrics
from manman_status.api.parameters import At, parse_at
from manman_status.api.past import Past
from manman_status.api.responses import (
    PastSystem,
    System,
    documented,
    past_system_answer,
    system_answer,
)
from manman_status.store.past import read_fleet_at
from manman_status.store.system_reads import read_fleet

if TYPE_CHECKING:
    from manman_status.store.pool import Connection


@get(
    "/system",
    operation_id="getSystem",
    responses=documented(System | PastSystem) | documented_problems(),
)
async def system(
    request: Request[Any, Any, Any],
    answers: NamedDependency[Answers],
    past: NamedDependency[Past],
    at: At = None,
) -> Answer:
    """The fleet in numbers: workers by health, running servers, and the state of monitoring."""
    time = parse_at(at)

    async def query(connection: Connection) -> Answer:
        if time is None:
            return system_answer(await read_fleet(connection))
        moment = await past.look_back(connection, time)
        return past_system_answer(await read_fleet_at(connection, moment), moment)

    return await answers.read(request, query, time, expensive=time is not None)


@get(
    "/metrics",
    operation_id="getMetrics",
    responses=documented(str, media_type=CONTENT_TYPE, changes=True)
    | documented_problems(reads=False),
)
async def metrics(metrics: NamedDependency[Metrics]) -> ASGIResponse:
    """Prometheus text. Without its database it says so, and leaves out what it does not know."""
    text = await metrics.text()
    return ASGIResponse(
        body=text, headers={"content-type": CONTENT_TYPE, "cache-control": "no-store"}
    )
