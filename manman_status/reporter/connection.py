"""Sending reports so that none is lost without a word: confirmed by the broker, refused where no queue takes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import aio_pika
from aio_pika.exceptions import (
    CONNECTION_EXCEPTIONS,
    ChannelNotFoundEntity,
    DeliveryError,
    InvalidFrameError,
    PublishError,
)
from yarl import URL

from manman_status.errors import BrokerUnavailable, ManManStatusError

if TYPE_CHECKING:
    from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange
    from aiormq.connection import TransportFactory

    from manman_status.reporter.messages import Report


IN_FLIGHT = 200
"""How many messages are on their way at once, of those that are sent together."""

ANSWER_WITHIN_SECONDS = 5.0
CLOSE_WITHIN_SECONDS = 2.0


class Unroutable(ManManStatusError):  # noqa: N818
    """No queue takes {routing_key} from the exchange {exchange}: has a processor ever run here?"""


class Publisher:
    def __init__(self, exchange: AbstractExchange) -> None:
        self._exchange = exchange

    async def send(self, report: Report) -> None:
        """Returns once the broker answers for it. Raises Unroutable, or BrokerUnavailable: then it may have arrived."""
        message = aio_pika.Message(
            report.body,
            headers={**report.headers},
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT if report.durable else aio_pika.DeliveryMode.NOT_PERSISTENT,
        )
        try:
            await self._exchange.publish(message, report.routing_key, mandatory=True)
        except (PublishError, ChannelNotFoundEntity) as error:
            raise Unroutable(routing_key=report.routing_key, exchange=self._exchange.name) from error
        except (DeliveryError, *CONNECTION_EXCEPTIONS) as error:
            raise BrokerUnavailable(cause=str(error) or type(error).__name__) from error

    async def send_all(self, reports: Sequence[Report]) -> list[Unroutable | BrokerUnavailable | None]:
        """In their order, each with what went wrong with it. After one that went wrong the next `IN_FLIGHT` may still
        arrive; what comes later is not sent then, and has the same error."""
        errors: list[Unroutable | BrokerUnavailable | None] = []
        for start in range(0, len(reports), IN_FLIGHT):
            errors += await asyncio.gather(*map(self._attempt, reports[start : start + IN_FLIGHT]))
            if failed := next((error for error in errors if error), None):
                return errors + [failed] * (len(reports) - len(errors))
        return errors

    async def _attempt(self, report: Report) -> Unroutable | BrokerUnavailable | None:
        try:
            await self.send(report)
        except (Unroutable, BrokerUnavailable) as error:
            return error
        return None


@asynccontextmanager
async def open_connection(
    url: str, *, name: str, transport: TransportFactory | None = None
) -> AsyncIterator[AbstractConnection]:
    """Not a robust one: whoever loses it is told, and opens another. Raises BrokerUnavailable."""
    connection = aio_pika.Connection(URL(url), client_properties={"connection_name": name})
    connection.kwargs["transport_factory"] = transport
    try:
        async with asyncio.timeout(ANSWER_WITHIN_SECONDS):
            await connection.connect()
    except InvalidFrameError as error:
        # How aiormq says that the broker closed the connection instead of opening the virtual host.
        virtual_host = connection.url.path[1:] or "/"
        cause = f"there is no virtual host {virtual_host!r}, or this user may not use it"
        raise BrokerUnavailable(cause=cause) from error
    except CONNECTION_EXCEPTIONS as error:
        raise BrokerUnavailable(cause=str(error) or f"nothing within {ANSWER_WITHIN_SECONDS:g} s") from error
    else:
        yield connection
    finally:
        await _close(connection)


@asynccontextmanager
async def open_publisher(connection: AbstractConnection, *, exchange: str) -> AsyncIterator[Publisher]:
    """The exchange is not declared here: a sender needs no right to configure. Raises BrokerUnavailable."""
    try:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
    except CONNECTION_EXCEPTIONS as error:
        raise BrokerUnavailable(cause=str(error) or type(error).__name__) from error
    try:
        yield Publisher(await channel.get_exchange(exchange, ensure=False))
    finally:
        await _close(channel)


async def _close(resource: AbstractConnection | AbstractChannel) -> None:
    """A broker that hangs says no goodbye."""
    with suppress(*CONNECTION_EXCEPTIONS):
        async with asyncio.timeout(CLOSE_WITHIN_SECONDS):
            await resource.close()
