"""A connection to RabbitMQ for the length of one command."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aio_pika
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, AMQPError, ChannelInvalidStateError, InvalidFrameError
from yarl import URL

from manman_status.errors import BrokerUnavailable, CommandFailed

if TYPE_CHECKING:
    from aio_pika.abc import AbstractConnection

    from manman_status.settings import Settings

ANSWER_WITHIN_SECONDS = 5.0


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[AbstractConnection]:
    """Not a robust connection: a command that loses its broker says so and ends, with BrokerUnavailable."""
    for noisy in ("aio_pika", "aiormq"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    connection = aio_pika.Connection(URL(settings.broker_url), client_properties={"connection_name": "manman-status"})
    try:
        async with asyncio.timeout(ANSWER_WITHIN_SECONDS):
            await connection.connect()
    except InvalidFrameError as error:
        # How aiormq says that the broker closed the connection instead of opening the virtual host.
        cause = f"there is no virtual host {virtual_host(settings)!r}, or this user may not use it"
        raise BrokerUnavailable(cause=cause) from error
    except CONNECTION_EXCEPTIONS as error:
        raise BrokerUnavailable(cause=str(error) or f"nothing within {ANSWER_WITHIN_SECONDS:g} s") from error
    else:
        try:
            yield connection
        except (AMQPError, ConnectionError, ChannelInvalidStateError) as error:
            raise CommandFailed(f"RabbitMQ: {error}") from error
    finally:
        await connection.close()


def virtual_host(settings: Settings) -> str:
    return URL(settings.broker_url).path[1:] or "/"
