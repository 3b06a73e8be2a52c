"""Sending reports so that none is lost without a word: confirmed by the broker, refused where no queue takes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aio_pika
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, ChannelNotFoundEntity, DeliveryError, PublishError

from manman_status.errors import BrokerUnavailable, ManManStatusError

if TYPE_CHECKING:
    from aio_pika.abc import AbstractConnection, AbstractExchange

    from manman_status.reporter.messages import Report


IN_FLIGHT = 200
"""How many messages are on their way at once, of those that are sent together."""


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
async def open_publisher(connection: AbstractConnection, *, exchange: str) -> AsyncIterator[Publisher]:
    """The exchange is not declared here: a sender needs no right to configure."""
    channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
    try:
        yield Publisher(await channel.get_exchange(exchange, ensure=False))
    finally:
        await channel.close()
