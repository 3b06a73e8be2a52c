"""For whoever starts and watches this process. They need no token."""

from __future__ import annotations

from typing import Any

from litestar import Request, get

from manman_status.api.database import Database
from manman_status.api.errors import documented_problems
from manman_status.api.responses import Ok
from manman_status.store.pool import require_schema


@get("/livez", operation_id="isAlive")
async def livez() -> Ok:
    """The process is up."""
    return Ok()


@get(["/readyz", "/health"], responses=documented_problems())
async def readyz(request: Request[Any, Any, Any]) -> Ok:
    """The database is reachable and its schema is new enough."""
    await Database.for_probes(request).read(require_schema, key="schema")
    return Ok()
