"""Keeping the parts of a processor going, and stopping while it waits."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

import structlog

from manman_status.cancellation import cancel

log = structlog.get_logger()

T = TypeVar("T")


class Runs(Protocol):
    async def run(self) -> None: ...


async def keep_running(part: Runs) -> None:
    """A fault in one part is told, and that part begun again: the others, and what is being stored, go on."""
    while True:
        try:
            await part.run()
        except Exception:
            log.exception("part_failed", part=type(part).__name__)
        await asyncio.sleep(1)


async def unless_stopped(work: Coroutine[Any, Any, T], stopping: asyncio.Event) -> T | None:
    """What the work gives, or None when we are told to stop before it is done."""
    doing, waiting = asyncio.ensure_future(work), asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait([doing, waiting], return_when=asyncio.FIRST_COMPLETED)
        return doing.result() if doing.done() else None
    finally:
        await cancel(doing, waiting)
