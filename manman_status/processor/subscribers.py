"""From the broker's queues into batches, and the only place where messages are acknowledged.

One subscriber reads one queue on a channel of its own, one batch at a time: so one `multiple` acknowledgement of a
batch's last message settles exactly that batch, after its rows are committed and its poison is kept elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, nullcontext, suppress
from itertools import groupby
from typing import TYPE_CHECKING, cast

import msgspec
import structlog
from aio_pika.abc import AbstractIncomingMessage
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError
from faststream.rabbit import RabbitMessage
from faststream.rabbit.subscriber import RabbitSubscriber

from manman_status.cancellation import cancel
from manman_status.pipeline.batcher import Batcher
from manman_status.pipeline.custody import Custody
from manman_status.pipeline.ingest import Ingest
from manman_status.pipeline.statistics import Statistics
from manman_status.processor.publisher import DeadLetters
from manman_status.wire.inbound import Decoded, Poison, decode, find_body
from manman_status.wire.notices import CanarySent

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from manman_status.processor.telemetry import Tracing

log = structlog.get_logger()

LONGEST_REASON = 200
"""In the logs, where a stranger could else write a whole message."""
ACKNOWLEDGE_WITHIN_SECONDS = 5
BROKER_ERRORS = (AMQPError, ChannelInvalidStateError, ConnectionError, TimeoutError)


class Delivery(msgspec.Struct):
    message: RabbitMessage
    channel: object
    decoded: Decoded
    span: Span | None = None


async def parse(message: AbstractIncomingMessage) -> RabbitMessage:
    """FastStream's own parser makes two random ids a message; these are never asked for."""
    return RabbitMessage(raw_message=message, body=message.body, message_id="-", correlation_id="-")  # type: ignore[arg-type]


def channel_of(message: RabbitMessage) -> object:
    """What tells the message's channel from the one after a reconnection; None when it is closed by now."""
    try:
        return message.raw_message.channel
    except ChannelInvalidStateError:
        return None


def is_returned_canary(delivery: Delivery) -> bool:
    """A canary that an earlier processor did not acknowledge. Nothing is lost with it: it is acknowledged at once, so
    that processors which crash again and again never deliver one so often that it becomes a dead letter."""
    decoded = delivery.decoded
    return (
        bool(delivery.message.raw_message.redelivered)
        and len(decoded.notices) == decoded.count == 1
        and isinstance(decoded.notices[0], CanarySent)
    )


async def acknowledge_alone(message: RabbitMessage) -> None:
    """One that cannot be acknowledged comes again, as the rest of its channel does."""
    with suppress(*BROKER_ERRORS):
        async with asyncio.timeout(ACKNOWLEDGE_WITHIN_SECONDS):
            await message.ack()


class Subscription:
    """Reads one queue until it is stopped: `run` returns when what was read is stored and acknowledged."""

    def __init__(
        self,
        subscriber: RabbitSubscriber,
        ingest: Ingest,
        dead_letters: DeadLetters,
        custody: Custody,
        statistics: Statistics,
        *,
        max_events: int,
        max_wait_ms: int,
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing
        self._subscriber = subscriber
        self._ingest = ingest
        self._dead_letters = dead_letters
        self._custody = custody
        self._statistics = statistics
        self.queue = subscriber.queue.name
        self._batcher = Batcher(self._settle, max_weight=max_events, max_wait_ms=max_wait_ms)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(self._read(), name=f"read {self.queue}")
            tasks.create_task(self._batcher.run(), name=f"store {self.queue}")
            await self._stopping.wait()
            await cancel(reading)
            self._batcher.close()

    async def _read(self) -> None:
        """The iterator ends, or fails, when the broker stays away or closes the channel; it is begun again until we
        stop."""
        while True:
            try:
                async with aclosing(cast("AsyncGenerator[RabbitMessage, None]", aiter(self._subscriber))) as messages:
                    async for message in messages:
                        delivery = Delivery(message, channel_of(message), decode(message.body))
                        if self._tracing:
                            delivery.span = self._tracing.receive(message, self.queue)
                        if is_returned_canary(delivery):
                            await acknowledge_alone(message)
                        await self._batcher.add(delivery, delivery.decoded.count)
            except (*BROKER_ERRORS, RuntimeError) as error:  # RuntimeError: aio-pika's, while it reconnects
                log.warning("reading_interrupted", queue=self.queue, error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(1)

    async def _settle(self, deliveries: list[Delivery]) -> None:
        spans = [delivery.span for delivery in deliveries if delivery.span] if self._tracing else []
        await self._store(deliveries, spans)
        try:
            await self._bury(deliveries)
            if left := [delivery.message for delivery in deliveries if delivery.message.committed is None]:
                await left[-1].ack(multiple=True)
        except BROKER_ERRORS as error:
            # Nothing was settled, so the broker sends it all again; merging it twice changes nothing.
            log.warning("batch_will_come_again", queue=self.queue, messages=len(deliveries), error=str(error))
        for span in spans:
            span.end()
        for channel, some in groupby(deliveries, key=_channel):
            self._custody.settle(channel, len(list(some)))
        self._statistics.redelivered += sum(bool(delivery.message.raw_message.redelivered) for delivery in deliveries)
        if ignored := sum(delivery.decoded.ignored for delivery in deliveries):
            self._statistics.count("command", "ignored", ignored)

    async def _store(self, deliveries: list[Delivery], spans: list[Span]) -> None:
        """What the database refuses becomes poison of its delivery."""
        events = [event for delivery in deliveries for event in delivery.decoded.events]
        notices = [notice for delivery in deliveries for notice in delivery.decoded.notices]
        if not events and not notices:
            return
        if self._tracing and spans:
            of_each = [(delivery.span, len(delivery.decoded.events)) for delivery in deliveries]
            with self._tracing.storing(self.queue, spans, events=len(events)):
                refusals = await self._ingest.store(self.queue, events, notices, self._tracing.by_event(of_each))
        else:
            refusals = await self._ingest.store(self.queue, events, notices)
        for refused in refusals:
            _refuse(deliveries, refused.index, refused.reason)

    async def _bury(self, deliveries: list[Delivery]) -> None:
        count = 0
        for delivery in deliveries:
            for poison in delivery.decoded.poison:
                count += 1
                raw = delivery.message.raw_message
                with self._tracing.within(delivery.span) if self._tracing and delivery.span else nullcontext():
                    await self._dead_letters.send(
                        poison.body,
                        error=poison.reason,
                        queue=self.queue,
                        exchange=raw.exchange,
                        routing_key=raw.routing_key or "",
                    )
                log.debug("dead_lettered", queue=self.queue, reason=poison.reason[:LONGEST_REASON])
        if count:
            self._statistics.count("poison", "dead_lettered", count)
            reasons = (poison.reason for delivery in deliveries for poison in delivery.decoded.poison)
            log.warning(
                "events_dead_lettered", queue=self.queue, events=count, first_reason=next(reasons)[:LONGEST_REASON]
            )


def _channel(delivery: Delivery) -> object:
    return delivery.channel


def _refuse(deliveries: list[Delivery], index: int, reason: str) -> None:
    """Make the event at this place of the whole batch the poison of its delivery."""
    for delivery in deliveries:
        events = delivery.decoded.events
        if index < len(events):
            body = find_body(delivery.message.body, events[index])
            delivery.decoded.poison.append(Poison(reason, body))
            return
        index -= len(events)
