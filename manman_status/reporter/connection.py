"""Sending reports so that none is lost without a word: confirmed by the broker, refused where no queue takes it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aio_pika
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, ChannelNotFoundEntity, DeliveryError, PublishError

from manman_status.errors import BrokerUnavailable, ManManStatusError

if TYPE_CHECKING:
    from aio_pika.abc import AbstractConnection, AbstractExchange

    from manman_status.reporter.messages import Report


class Unroutable(ManManStatusError):  # noqa: N818
    """No queue takes {routing_key} from the exchange {exchange}: has a processor ever run here?"""


class Publisher:
    def __init__(self, exchange: AbstractExchange) -> None:
        self._exchange = exchange

    async def send(self, report: Report) -> None:
        """Returns once the broker answers for it. Raises Unroutable, or BrokerUnavailable: then it may have arrived."""
        message = aio_pika.Message(
            report.body,
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT if report.durable else aio_pika.DeliveryMode.NOT_PERSISTENT,
        )
        try:
            await self._exchange.publish(message, report.routing_key, mandatory=True)
        except (PublishError, ChannelNotFoundEntity) as error:
            raise Unroutable(routing_key=report.routing_key, exchange=self._exchange.name) from error
        except (DeliveryError, *CONNECTION_EXCEPTIONS) as error:
            raise BrokerUnavailable(cause=str(error) or type(error).__name__) from error


@asynccontextmanager
async def open_publisher(connection: AbstractConnection, *, exchange: str) -> AsyncIterator[Publisher]:
    """The exchange is not declared here: a sender needs no right to configure."""
    channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
    try:
        yield Publisher(await channel.get_exchange(exchange, ensure=False))
    finally:
        await channel.close()
