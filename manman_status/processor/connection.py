"""Reading: a connection for each shared queue, made again by itself whatever becomes of the others.

What is read and what is published go over different connections. While it is low on memory or disk, RabbitMQ stops
reading from a connection that publishes, acknowledgements included, and only acknowledgements can end that.

These connections are bare ones, without FastStream and without aio-pika's recovery. Recovery brings back everything of
a connection or nothing, so one queue that cannot be had would keep all others from being read; it waits without a
bound; and it goes on in the background, where it could hold this processor's exclusive queue against ourselves. Here
any loss ends the connection, and all of it is made anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING

import structlog
from aio_pika.exceptions import ChannelInvalidStateError

from manman_status.backoff import Backoff, OnceAMinute
from manman_status.cancellation import within
from manman_status.errors import BrokerUnavailable, CommandFailed
from manman_status.pipeline.custody import Custody
from manman_status.pipeline.seal import Seal
from manman_status.processor.declare import BROKER_FAULTS, OtherArguments, declare_inbound
from manman_status.processor.flow import Flow
from manman_status.processor.received import Received, consume
from manman_status.reporter.causes import fault_of
from manman_status.reporter.connection import ANSWER_WITHIN_SECONDS, CLOSE_WITHIN_SECONDS, open_connection
from manman_status.reporter.transport import OwnTransport
from manman_status.wire.properties import read_any_properties
from manman_status.wire.topology import Topology

if TYPE_CHECKING:
    from aio_pika import Connection
    from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

log = structlog.get_logger()

HEARTBEAT_SECONDS = 10
"""Of the AMQP connections: a processor that hangs is cut off after two or three, and what it holds is given again."""
CANARY_MISSING_SECONDS = 15.0
"""A connection that brings nothing for so long, though RabbitMQ has taken our canaries, is dead: a firewall may have
forgotten it without a word. Sooner than AMQP's own heartbeat, which needs three of them and a little."""


def own_queue(queue: str, processor_id: str) -> str:
    """Exclusive: it is there exactly as long as the processor's connection is. RabbitMQ refuses it to our next
    connection until it has given up the last one, and has put back what it held: until then nothing is proven."""
    return f"{queue}.{processor_id}"


def channel_of(message: AbstractIncomingMessage) -> object:
    """What tells the message's channel from the one after a reconnection; None when it is closed by now."""
    try:
        return message.channel
    except ChannelInvalidStateError:
        return None


class Session:
    """One connection with its two consumers, and what came through it that nobody has taken yet."""

    def __init__(self, url: str, flow: Flow) -> None:
        self.transport = OwnTransport(url, reads=flow.reader)
        self.stack = AsyncExitStack()
        self.connection: Connection | None = None
        self.channel: object = None
        self.messages: asyncio.Queue[Received | None] = asyncio.Queue()
        self.fault: BrokerUnavailable | None = None

    def end(self, fault: BrokerUnavailable) -> None:
        """At once: nothing more can be acknowledged, and what was not is given again by the broker."""
        if self.fault is None:
            self.fault = fault
            self.messages.put_nowait(None)
        self.transport.abort()

    async def close(self) -> None:
        """In order, when it is not at its end."""
        if self.fault is None:
            self.fault = BrokerUnavailable(cause="closed")
        try:
            await within(3 * CLOSE_WITHIN_SECONDS, self.stack.aclose())
        except (*BROKER_FAULTS, BrokerUnavailable) as error:
            log.debug("connection_close_failed", error=repr(error))


class QueueReader:
    """Reads one shared queue, and beside it our own canaries on the same channel: the broker numbers the deliveries of
    both as one. Iterating it never ends, whatever becomes of the broker.

    `before_reading` is awaited when it is connected and before the first message can come. `losses` counts the
    connections that were lost.
    """

    def __init__(
        self,
        url: str,
        topology: Topology,
        queue: str,
        processor_id: str,
        custody: Custody,
        seal: Seal,
        flow: Flow,
        *,
        prefetch: int,
        before_reading: Callable[[], Awaitable[None]],
    ) -> None:
        self.queue = queue
        self.losses = 0
        self.problem: str | None = "not connected yet"
        self._url = url
        self._topology = topology
        self._own_queue = own_queue(queue, processor_id)
        self._processor_id = processor_id
        self._custody = custody
        self._seal = seal
        self._flow = flow
        self._strangers = OnceAMinute()
        self._prefetch = prefetch
        self._before_reading = before_reading
        self._session: Session | None = None
        self._has_read = False
        self._received_at = 0.0
        self._returned: datetime | None = None
        self._missing_since: float | None = None

    @property
    def connection(self) -> Connection | None:
        """None while it does not read."""
        return self._session.connection if self._session and not self._session.fault else None

    @property
    def is_lost(self) -> bool:
        """It has read, and does not now. One that never did holds nothing, and so was not cut off from anything."""
        return self._has_read and self.connection is None

    async def __aiter__(self) -> AsyncIterator[Received]:
        backoff = Backoff()
        while True:
            try:
                session = await self._open()
                if backoff.failures:
                    log.info("queue_read_again", queue=self.queue, failed_seconds=backoff.failing_seconds)
                began = monotonic()
                while (message := await session.messages.get()) is not None and session.fault is None:
                    self._received_at = monotonic()
                    yield message
                if monotonic() - began > ANSWER_WITHIN_SECONDS:
                    backoff.worked()
                fault = session.fault or BrokerUnavailable(cause="the connection was lost")
            except BrokerUnavailable as error:
                fault = error
            except OtherArguments as error:
                if not self._has_read:
                    raise CommandFailed(str(error)) from error
                fault = BrokerUnavailable(cause=str(error))
            delay = backoff.failed()
            self.problem = str(fault)
            if backoff.is_worth_saying:
                log.warning("queue_not_read", queue=self.queue, error=self.problem)
            await asyncio.sleep(delay)

    def give_back(self, channel: object, cause: str) -> None:
        """Return all that this channel brought and that is not acknowledged. Nothing happens when it is closed by now:
        it was given back then."""
        if self._session is not None and channel is not None and channel is self._session.channel:
            self.end(cause)

    def end(self, cause: str) -> None:
        """Give up the connection."""
        if self._session is not None:
            self._lose(self._session, BrokerUnavailable(cause=cause))

    def expect(self, sent_at: datetime) -> None:
        """RabbitMQ has taken our own canary of that time: it has to come back."""
        now = monotonic()
        if self._returned is not None and self._returned >= sent_at:
            self._missing_since = None
            return
        if self._missing_since is None:
            self._missing_since = now
        elif now - max(self._missing_since, self._received_at) > CANARY_MISSING_SECONDS:
            self._missing_since = None
            self.end(f"canaries do not come back for {CANARY_MISSING_SECONDS:g} s, though RabbitMQ has them")

    async def close(self) -> None:
        """Once all that was read is settled."""
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
            await declare_inbound(connection, self._topology, self.queue)
            await self._before_reading()
            await within(ANSWER_WITHIN_SECONDS, self._consume(session, connection))
        except BROKER_FAULTS as error:
            raise fault_of(error, self._url, right="read from") from error
        if session.fault:
            raise session.fault
        session.connection = connection
        self.problem, self._has_read = None, True
        self._missing_since, self._received_at = None, monotonic()
        return session

    async def _consume(self, session: Session, connection: Connection) -> None:
        channel = connection.channel(publisher_confirms=False)
        await channel.initialize()
        channel.close_callbacks.add(lambda _, error: self._lose(session, error))
        underlay = session.channel = await channel.get_underlay_channel()
        deleted = BrokerUnavailable(cause="RabbitMQ ended the reading: the queue was deleted, or its node stopped")
        underlay.on_consumer_cancel_callbacks.add(lambda _: self._lose(session, deleted))
        await channel.set_qos(prefetch_count=self._prefetch)
        await self._consume_own(channel)
        await consume(underlay, self.queue, session.messages.put_nowait)

    async def _consume_own(self, channel: AbstractChannel) -> None:
        own = await channel.declare_queue(self._own_queue, exclusive=True, auto_delete=True)
        await own.consume(self._see_canary, no_ack=True)  # type: ignore[arg-type]

    def _see_canary(self, message: AbstractIncomingMessage) -> None:
        """Whoever may publish to the default exchange can put anything into this queue. It counts as a delivery, and
        is otherwise ignored."""
        sent_at = self._seal.open_own_canary(self._own_queue, self._processor_id, message.body)
        self._custody.see_canary(channel_of(message), message.delivery_tag or 0, sent_at)
        if sent_at is not None:
            self._received_at, self._missing_since, self._returned = monotonic(), None, sent_at
        elif self._strangers.is_due():
            meaning = "somebody writes into a processor's own queue"
            log.warning("false_canary_ignored", queue=self._own_queue, meaning=meaning)

    def _lose(self, session: Session, error: BaseException | None) -> None:
        if session.connection is not None and session.fault is None:
            self.losses += 1
        if isinstance(error, BrokerUnavailable):
            session.end(error)
        elif error is None or isinstance(error, asyncio.CancelledError):
            session.end(BrokerUnavailable(cause="the connection was lost"))
        else:
            session.end(fault_of(error, self._url))
