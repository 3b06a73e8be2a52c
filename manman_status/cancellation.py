"""Ending tasks for certain."""

from __future__ import annotations

import asyncio
from typing import Any

ASK_AGAIN_SECONDS = 2.0


async def cancel(*tasks: asyncio.Future[Any]) -> None:
    """Cancel the tasks until they are done, whatever they end with.

    Once is not enough: before Python 3.12 `asyncio.wait_for`, through which the AMQP library asks the broker
    everything, drops a cancellation that arrives as what it waits for ends, and its task goes on.
    """
    going = {task for task in tasks if not task.done()}
    while going:
        for task in going:
            task.cancel()
        _, going = await asyncio.wait(going, timeout=ASK_AGAIN_SECONDS)
