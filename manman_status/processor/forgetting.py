"""A person's request to forget a worker or a server instance, taken within a batch."""

from __future__ import annotations

import structlog

from manman_status.domain.rows import Transition
from manman_status.store.forgetting import forget_instance, forget_worker
from manman_status.store.pool import Connection
from manman_status.wire.control import ForgetRequested

log = structlog.get_logger()


async def take_forget(connection: Connection, request: ForgetRequested) -> list[Transition]:
    """End it, and return the transitions to its end. A repeated request is not logged."""
    evidence = {name: value for name in ("by", "why") if (value := getattr(request, name))}
    if request.worker_id is not None:
        ends = await forget_worker(connection, request.worker_id, evidence)
    else:
        assert request.instance_id is not None
        ends = await forget_instance(connection, request.instance_id, evidence)
    if ends is None:
        return []
    log.info(
        "forgotten", worker_id=request.worker_id, instance_id=request.instance_id, by=request.by
    )
    return ends
