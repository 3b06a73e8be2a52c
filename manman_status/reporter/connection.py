"""Sending reports so that none is lost silently: each is confirmed by the broker, or refused where
no queue takes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import aio_pika
from aio_pika.exceptions import (
    CONNECTION_EXCEPTIONS,
    ChannelNotFoundEntity,
    DeliveryError,
    PublishError,
)
from yarl import URL

from manman_status.cancellation import answered, within
from manman_status.errors import BrokerUnavailable
from manman_status.reporter.alarms import alarm_of, held_back
from manman_status.reporter.carrier import CLOSE_WITHIN_SECONDS, Socket, Unroutable
from manman_status.reporter.causes import fault_of
from manman_status.reporter.transport import OwnTransport

if TYPE_CHECKING:
    from aio_pika import Connection
    from aio_pika.abc import AbstractExchange

    from manman_status.reporter.messages import Report


IN_FLIGHT = 200
"""Most messages on their way at once, of those that are sent together."""

ANSWER_WITHIN_SECONDS = 10.0
"""Timeout of each request to the broker, such as opening a connection or a channel."""
CONFIRM_WITHIN_SECONDS = 8.0


class Publisher:
    def __init__(self, connection: Connection, exchange: AbstractExchange) -> None:
        self._connection = connection
        self._exchange = exchange

    @property
    def is_connected(self) -> bool:
        return self._connection.connected.is_set()

    async def send(self, report: Report) -> None:
        """Send a report, and return once the broker confirms it, within `CONFIRM_WITHIN_SECONDS`.
        Raises Unroutable, or BrokerUnavailable: then it may have arrived."""
        message = aio_pika.Message(
            report.body,
            headers={**report.headers},
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT
            if report.durable
            else aio_pika.DeliveryMode.NOT_PERSISTENT,
        )
        try:
            async with asyncio.timeout(CONFIRM_WITHIN_SECONDS):
                await answered(self._exchange.publish(message, report.routing_key, mandatory=True))
        except (PublishError, ChannelNotFoundEntity) as error:
            raise Unroutable(
                routing_key=report.routing_key, exchange=self._exchange.name
            ) from error
        except TimeoutError as error:
            if alarm := await alarm_of(self._connection):
                raise held_back(alarm) from error
            raise BrokerUnavailable(
                cause=f"no confirmation within {CONFIRM_WITHIN_SECONDS:g} s"
            ) from error
        except (DeliveryError, *CONNECTION_EXCEPTIONS) as error:
            raise fault_of(error, str(self._connection.url), right="write to") from error

    async def send_all(
        self, reports: Sequence[Report]
    ) -> list[Unroutable | BrokerUnavailable | None]:
        """Send reports in their order, and return the error of each. After a failure the next
        `IN_FLIGHT` may still arrive; later ones are not sent, and have the same error."""
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
    url: str, *, name: str, transport: OwnTransport | None = None, **options: int
) -> AsyncIterator[Connection]:
    """Open a connection that does not recover: its user sees the loss, and opens another.

    `options` go into the URL's query. Raises BrokerUnavailable, after `ANSWER_WITHIN_SECONDS` at
    the latest.
    """
    transport = transport or OwnTransport(url)
    to = URL(url).update_query(options) if options else URL(url)
    connection = aio_pika.Connection(to, client_properties={"connection_name": name})
    connection.kwargs["transport_factory"] = transport
    try:
        try:
            await within(ANSWER_WITHIN_SECONDS, connection.connect())
        except CONNECTION_EXCEPTIONS as error:
            raise fault_of(error, url) from error
        yield connection
    finally:
        await close_connection(connection, transport)


@asynccontextmanager
async def open_publisher(connection: Connection, *, exchange: str) -> AsyncIterator[Publisher]:
    """Open a publisher, which lasts as long as the connection. It does not declare the exchange: a
    sender needs no right to configure. Raises BrokerUnavailable."""
    channel = connection.channel(publisher_confirms=True, on_return_raises=True)
    try:
        await within(ANSWER_WITHIN_SECONDS, channel.initialize())
    except CONNECTION_EXCEPTIONS as error:
        raise fault_of(error, str(connection.url)) from error
    yield Publisher(connection, await channel.get_exchange(exchange, ensure=False))


def new_socket(url: str, /) -> Socket:
    return OwnTransport(url)


@asynccontextmanager
async def open_link(
    socket: Socket, url: str, *, name: str, exchange: str, lost: Callable[[], None]
) -> AsyncIterator[Publisher]:
    """Open a connection with a publisher (`Carrier`)."""
    assert isinstance(socket, OwnTransport)
    async with (
        open_connection(url, name=name, transport=socket) as connection,
        open_publisher(connection, exchange=exchange) as publisher,
    ):
        connection.close_callbacks.add(lambda *_: lost())
        yield publisher


async def close_connection(connection: Connection, transport: OwnTransport) -> None:
    """Close a connection, within a bound also where the broker hangs. Then the socket is closed
    first: aio-pika's closing takes no cancellation, but ends with the socket."""
    closing = asyncio.ensure_future(connection.close())
    try:
        await asyncio.wait({closing}, timeout=CLOSE_WITHIN_SECONDS)
    finally:
        transport.abort()
    with suppress(*CONNECTION_EXCEPTIONS):
        await within(CLOSE_WITHIN_SECONDS, closing)
