"""Cancel tasks for certain, and distinguish our own cancellation from a library's.

When a connection breaks, aiormq raises CancelledError in the tasks that wait for it, as if they had
been cancelled. Only `Task.cancelling()` shows the difference: it counts the requests to cancel this
very task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")

CANCEL_AGAIN_SECONDS = 2.0

_abandoned: set[asyncio.Future[Any]] = set()
"""Abandoned tasks until they end: asyncio itself keeps only weak references to them."""


class Abandoned(ConnectionError):  # noqa: N818
    """The awaited operation was cancelled, but not by us: its connection is gone."""

    def __init__(self) -> None:
        super().__init__("the connection was lost")


def is_cancelled() -> bool:
    """True when cancellation of the current task was requested."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def answered(awaitable: Awaitable[T]) -> T:
    """Await a library's operation. Raises Abandoned in place of a CancelledError that is not
    ours."""
    try:
        return await awaitable
    except asyncio.CancelledError:
        if is_cancelled():
            raise
        raise Abandoned from None


async def within(seconds: float, awaitable: Awaitable[T]) -> T:
    """Await for at most `seconds`, even if the awaitable ignores its cancellation. Raises
    TimeoutError."""
    task = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        if not task.done():
            _abandon(task)
    if not task.done():
        raise TimeoutError(f"no answer within {seconds:g} s")
    if task.cancelled():
        raise Abandoned
    return task.result()


async def cancel(*tasks: asyncio.Future[Any]) -> None:
    """Cancel the tasks until they are done, with any result.

    Once is not enough. Before Python 3.12, `asyncio.wait_for` drops a cancellation that arrives
    just as the awaited operation ends, and its task goes on. The AMQP library sends every request
    to the broker through it.
    """
    going = {task for task in tasks if not task.done()}
    while going:
        for task in going:
            task.cancel()
        _, going = await asyncio.wait(going, timeout=CANCEL_AGAIN_SECONDS)


def _abandon(task: asyncio.Future[Any]) -> None:
    task.cancel()
    _abandoned.add(task)
    task.add_done_callback(_forget)


def _forget(task: asyncio.Future[Any]) -> None:
    _abandoned.discard(task)
    if not task.cancelled():
        task.exception()  # nobody else looks at it
