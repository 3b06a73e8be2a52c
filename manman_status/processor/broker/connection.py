"""Reading: a connection for each queue, which is made again without regard to the others.

Reading and publishing use different connections. While it is low on memory or disk, RabbitMQ stops
reading from a connection that publishes, acknowledgements included, and only acknowledgements can
end that.

These connections are bare ones, without FastStream and without aio-pika's recovery. Recovery brings
back everything of a connection or nothing, so one queue that cannot be had would keep all others
from being read; it waits without a bound; and it goes on in the background, where it could hold a
queue without reading it. Here any loss ends the connection, and all of it is made anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from time import monotonic
from typing import TYPE_CHECKING

import structlog

from manman_status.backoff import Backoff
from manman_status.cancellation import within
from manman_status.errors import BrokerUnavailable, CommandFailed, PluginMissing
from manman_status.processor.broker.declare import BROKER_FAULTS, OtherArguments
from manman_status.processor.broker.received import Received, consume
from manman_status.processor.flow import Flow
from manman_status.reporter.carrier import CLOSE_WITHIN_SECONDS
from manman_status.reporter.causes import fault_of
from manman_status.reporter.connection import ANSWER_WITHIN_SECONDS, open_connection
from manman_status.reporter.transport import OwnTransport
from manman_status.wire.properties import read_any_properties

if TYPE_CHECKING:
    from aio_pika import Connection

log = structlog.get_logger()

HEARTBEAT_SECONDS = 10
"""Interval of AMQP's own heartbeats. RabbitMQ cuts a processor that hangs off after two or three,
and gives its queues to another, with the unacknowledged messages first."""
SETTLED_WITHIN_SECONDS = 10.0
"""The time for which a queue is kept for what was read of it, before another processor gets it.
What is not settled by then is delivered again, to the other."""


class Session:
    """One connection with its consumer, and the messages that came through it and are not taken
    yet."""

    def __init__(self, url: str, flow: Flow) -> None:
        self.transport = OwnTransport(url, reads=flow.reader)
        self.stack = AsyncExitStack()
        self.connection: Connection | None = None
        self.channel: object = None
        self.messages: asyncio.Queue[Received | None] = asyncio.Queue()
        self.fault: BrokerUnavailable | None = None

    def end(self, fault: BrokerUnavailable) -> None:
        """End it at once: nothing more can be acknowledged, and the broker delivers the rest
        again."""
        if self.fault is None:
            self.fault = fault
            self.messages.put_nowait(None)
        self.transport.abort()

    async def close(self) -> None:
        """Close it normally, unless it has ended."""
        if self.fault is None:
            self.fault = BrokerUnavailable(cause="closed")
        try:
            await within(3 * CLOSE_WITHIN_SECONDS, self.stack.aclose())
        except (*BROKER_FAULTS, BrokerUnavailable) as error:
            log.debug("connection_close_failed", error=repr(error))


class QueueReader:
    """A reader of one queue, while RabbitMQ gives it to us: one of a queue's subscribers gets its
    messages, and another only when that one's channel is closed. Iterating it never ends, whatever
    becomes of the broker.

    So a channel with messages is never left open without being read: the consumer is not cancelled,
    the channel is closed, and its messages go back to where they were. `declare` is awaited before
    each subscription. `losses` counts the connections that were lost.
    """

    def __init__(
        self,
        url: str,
        queue: str,
        flow: Flow,
        *,
        prefetch: int,
        declare: Callable[[Connection], Awaitable[None]],
    ) -> None:
        self.queue = queue
        self.losses = 0
        self.problem: str | None = "not connected yet"
        self._url = url
        self._flow = flow
        self._prefetch = prefetch
        self._declare = declare
        self._session: Session | None = None
        self._has_read = self._is_leaving = False
        self._received_at = float("-inf")
        self._unsettled = 0
        self._settled = asyncio.Event()

    @property
    def connection(self) -> Connection | None:
        """The connection; None while it does not read."""
        return self._session.connection if self._session and not self._session.fault else None

    @property
    def is_lost(self) -> bool:
        """True when it has read, and does not now. One that never did was not cut off from
        anything."""
        return self._has_read and self.connection is None and not self._is_leaving

    def is_given(self, *, within_seconds: float) -> bool:
        """True when it is our turn: something came so lately, canaries too."""
        return self.connection is not None and monotonic() - self._received_at < within_seconds

    async def __aiter__(self) -> AsyncIterator[Received]:
        backoff = Backoff()
        while True:
            try:
                session = await self._open()
                if backoff.failures:
                    log.info(
                        "queue_read_again", queue=self.queue, failed_seconds=backoff.failing_seconds
                    )
                began = monotonic()
                while (
                    message := await session.messages.get()
                ) is not None and session.fault is None:
                    self._received_at = monotonic()
                    self._unsettled += 1
                    yield message
                if session.fault is None:
                    await self._leave(session)
                    continue
                if monotonic() - began > ANSWER_WITHIN_SECONDS:
                    backoff.worked()
                fault = session.fault
            except BrokerUnavailable as error:
                fault = error
            except (OtherArguments, PluginMissing) as error:
                if not self._has_read:
                    raise CommandFailed(str(error)) from error
                fault = BrokerUnavailable(cause=str(error))
            self._is_leaving = False
            delay = backoff.failed()
            self.problem = str(fault)
            if backoff.is_worth_saying:
                log.warning("queue_not_read", queue=self.queue, error=self.problem)
            await asyncio.sleep(delay)

    def settle(self, messages: int) -> None:
        """Count so many of the messages that were read as settled."""
        self._unsettled -= messages
        self._settled.set()

    def hand_over(self) -> None:
        """Let another processor have the queue: what was read so far is settled, the channel
        closed, and we are last in line."""
        if self._session is not None and self.connection is not None:
            self._session.messages.put_nowait(None)

    async def _leave(self, session: Session) -> None:
        self._is_leaving = True
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLED_WITHIN_SECONDS):
                while self._unsettled:
                    self._settled.clear()
                    await self._settled.wait()
        await session.close()

    def give_back(self, channel: object, cause: str) -> None:
        """Return all unacknowledged messages of this channel. Nothing happens when it is closed by
        now: they were returned then."""
        if self._session is not None and channel is not None and channel is self._session.channel:
            self.end(cause)

    def end(self, cause: str) -> None:
        """End the connection."""
        if self._session is not None:
            self._lose(self._session, BrokerUnavailable(cause=cause))

    async def close(self) -> None:
        """Close it once all that was read is settled."""
        if self._session is not None:
            await self._session.close()

    async def _open(self) -> Session:
        await self.close()
        read_any_properties()
        session = self._session = Session(self._url, self._flow)
        try:
            connection = await session.stack.enter_async_context(
                open_connection(
                    self._url,
                    name="manman-status processor",
                    transport=session.transport,
                    heartbeat=HEARTBEAT_SECONDS,
                )
            )
            connection.close_callbacks.add(lambda _, error: self._lose(session, error))
            await self._declare(connection)
            await within(ANSWER_WITHIN_SECONDS, self._consume(session, connection))
        except BROKER_FAULTS as error:
            raise fault_of(error, self._url, right="read from") from error
        if session.fault:
            raise session.fault
        session.connection = connection
        self.problem, self._has_read, self._is_leaving = None, True, False
        self._received_at = float("-inf")
        return session

    async def _consume(self, session: Session, connection: Connection) -> None:
        channel = connection.channel(publisher_confirms=False)
        await channel.initialize()
        channel.close_callbacks.add(lambda _, error: self._lose(session, error))
        underlay = session.channel = await channel.get_underlay_channel()
        deleted = BrokerUnavailable(
            cause="RabbitMQ ended the reading: the queue was deleted, or its node stopped"
        )
        underlay.on_consumer_cancel_callbacks.add(lambda _: self._lose(session, deleted))
        await channel.set_qos(prefetch_count=self._prefetch)
        await consume(underlay, self.queue, session.messages.put_nowait)

    def _lose(self, session: Session, error: BaseException | None) -> None:
        if session.connection is not None and session.fault is None:
            self.losses += 1
        if isinstance(error, BrokerUnavailable):
            session.end(error)
        elif error is None or isinstance(error, asyncio.CancelledError):
            session.end(BrokerUnavailable(cause="the connection was lost"))
        else:
            session.end(fault_of(error, self._url))
