"""Ending tasks for certain, and telling our own cancellation from a library's.

aiormq answers whoever waits for a broken connection with CancelledError, as if the waiting task had
been cancelled. Only `Task.cancelling()` tells the difference: it counts the requests to cancel this
very task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")

ASK_AGAIN_SECONDS = 2.0

_left: set[asyncio.Future[Any]] = set()
"""Tasks that nobody waits for any more: asyncio itself keeps only weak references to them."""


class Abandoned(ConnectionError):  # noqa: N818
    """What we awaited was cancelled, but not by us: its connection is gone."""

    def __init__(self) -> None:
        super().__init__("the connection was lost")


def is_cancelled() -> bool:
    """True when somebody has asked for the end of the current task."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def answered(awaitable: Awaitable[T]) -> T:
    """Await what a library does. Raises Abandoned where it raises a CancelledError that is not
    ours."""
    try:
        return await awaitable
    except asyncio.CancelledError:
        if is_cancelled():
            raise
        raise Abandoned from None


async def within(seconds: float, awaitable: Awaitable[T]) -> T:
    """Await for at most `seconds`, whatever the awaitable does with a cancellation. Raises
    TimeoutError."""
    task = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        if not task.done():
            _leave(task)
    if not task.done():
        raise TimeoutError(f"no answer within {seconds:g} s")
    if task.cancelled():
        raise Abandoned
    return task.result()


async def cancel(*tasks: asyncio.Future[Any]) -> None:
    """Cancel the tasks until they are done, whatever they end with.

    Once is not enough: before Python 3.12 `asyncio.wait_for`, through which the AMQP library asks
    the broker everything, drops a cancellation that arrives as what it waits for ends, and its task
    goes on.
    """
    going = {task for task in tasks if not task.done()}
    while going:
        for task in going:
            task.cancel()
        _, going = await asyncio.wait(going, timeout=ASK_AGAIN_SECONDS)


def _leave(task: asyncio.Future[Any]) -> None:
    task.cancel()
    _left.add(task)
    task.add_done_callback(_forget)


def _forget(task: asyncio.Future[Any]) -> None:
    _left.discard(task)
    if not task.cancelled():
        task.exception()  # nobody else looks at it
