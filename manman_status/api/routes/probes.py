"""Probes of an orchestrator. They need no token."""

from __future__ import annotations

from typing import Literal

from litestar import get
from litestar.di import NamedDependency
from litestar.response.base import ASGIResponse

from manman_status.api.database import Database
from manman_status.api.errors import documented_problems
from manman_status.api.responses import Ok, documented
from manman_status.store.pool import require_schema


@get("/livez", operation_id="isAlive")
async def livez() -> Ok:
    """The process is up."""
    return Ok()


@get(["/readyz", "/health"], responses=documented_problems())
async def readyz(probes: NamedDependency[Database]) -> Ok:
    """The database is reachable and its schema is new enough."""
    await probes.read(require_schema, key="schema")
    return Ok()


@get(
    "/status/health",
    operation_id="isUp",
    deprecated=True,
    responses=documented(Literal["OK"], changes=True),
)
async def manman_health() -> ASGIResponse:
    """The process is up, as ManMan's own status api says it."""
    return ASGIResponse(body=b'"OK"', headers={"content-type": "application/json"})
