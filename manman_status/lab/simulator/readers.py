"""A check that a processor reads the queues which the fleet writes to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from aio_pika.exceptions import CONNECTION_EXCEPTIONS

if TYPE_CHECKING:
    from aio_pika.abc import AbstractConnection

QUERY_EVERY_SECONDS = 5.0


async def report_unread(
    connection: AbstractConnection, queues: Iterable[str], *, complain: Callable[[str], None]
) -> None:
    """Says it once of each queue that is there without a consumer, until there is one. Ends with
    the connection."""
    reported: set[str] = set()
    while not connection.is_closed:
        for queue in queues:
            if await _is_unread(connection, queue):
                if queue not in reported:
                    complain(f"nobody reads {queue}: is a processor running?")
                reported.add(queue)
            else:
                reported.discard(queue)
        await asyncio.sleep(QUERY_EVERY_SECONDS)


async def _is_unread(connection: AbstractConnection, queue: str) -> bool:
    """A queue that is not there closes the channel that looks for it, so each look has a channel of
    its own."""
    with contextlib.suppress(*CONNECTION_EXCEPTIONS):
        channel = await connection.channel()
        try:
            found = await channel.declare_queue(queue, passive=True)
            return found.declaration_result.consumer_count == 0
        finally:
            await channel.close()
    return False
