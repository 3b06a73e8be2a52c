"""A connection to RabbitMQ for the length of one command."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aio_pika.exceptions import AMQPError, ChannelInvalidStateError
from yarl import URL

from manman_status.cancellation import is_cancelled
from manman_status.errors import BrokerUnavailable, CommandFailed
from manman_status.reporter.alarms import alarm_of, held_back, learn_reasons
from manman_status.reporter.carrier import Unroutable
from manman_status.reporter.causes import fault_of
from manman_status.reporter.connection import Publisher, open_connection, open_publisher
from manman_status.reporter.messages import Report
from manman_status.wire.control import OperatorMessage, control_key, control_message
from manman_status.wire.properties import read_any_properties

if TYPE_CHECKING:
    from aio_pika import Connection

    from manman_status.settings import Settings


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Connection]:
    """Connect for the length of one command, which ends with BrokerUnavailable when it loses its
    broker."""
    for noisy in ("aio_pika", "aiormq"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    read_any_properties()
    learn_reasons()
    async with open_connection(settings.broker_url, name="manman-status") as connection:
        try:
            yield connection
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            raise BrokerUnavailable(cause="the connection was lost") from None
        except TimeoutError as error:
            alarm = await alarm_of(connection)
            raise (held_back(alarm) if alarm else fault_of(error, settings.broker_url)) from error
        except (AMQPError, ConnectionError, ChannelInvalidStateError) as error:
            raise fault_of(error, settings.broker_url) from error


@asynccontextmanager
async def publishing(settings: Settings) -> AsyncIterator[Publisher]:
    """Open a publisher to the inbound exchange, as workers do."""
    async with (
        connected(settings) as connection,
        open_publisher(connection, exchange=settings.inbound_exchange) as publisher,
    ):
        yield publisher


def send_control(settings: Settings, control: OperatorMessage) -> None:
    """Send a control message, and return once the lifecycle queue has it. Raises BrokerUnavailable,
    or CommandFailed where no queue takes it."""

    async def send() -> None:
        async with (
            connected(settings) as connection,
            open_publisher(connection, exchange=settings.control_exchange) as publisher,
        ):
            await publisher.send(
                Report(control_key(control), control_message(control), durable=True)
            )

    try:
        asyncio.run(send())
    except Unroutable:
        raise CommandFailed(
            f"the exchange {settings.control_exchange} is not there or has no queue: start a"
            " processor of this version"
        ) from None


def virtual_host(settings: Settings) -> str:
    return URL(settings.broker_url).path[1:] or "/"
