"""Subscribing: from the broker's queues into batches, and the only place where messages are
acknowledged.

One subscriber reads one queue on a channel of its own, one batch at a time. Every message that was
read becomes a `Delivery`, whatever it holds, and every delivery of a batch is committed before the
batch is acknowledged: as rows, or as dead letters in the same database. So one `multiple`
acknowledgement of a batch's last message settles exactly what was read up to it, and nothing is
settled that is not kept. The broker delivers again what fails before that.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
import structlog
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError

from manman_status.backoff import OnceAMinute
from manman_status.cancellation import answered, cancel
from manman_status.errors import BrokerUnavailable, describe
from manman_status.processor.admission import Admission
from manman_status.processor.batcher import Batcher
from manman_status.processor.broker.connection import QueueReader
from manman_status.processor.broker.publisher import kept_headers
from manman_status.processor.broker.received import Received
from manman_status.processor.flow import BYTES_OF_AN_EVENT, Flow
from manman_status.processor.ingest import Ingest, Item, Refused
from manman_status.processor.leader.dead_letters import Letter, Sampler, pack
from manman_status.processor.statistics import Statistics
from manman_status.running import Pulse, vital, watched
from manman_status.wire.control import CanarySent
from manman_status.wire.dialects import Decode
from manman_status.wire.inbound import Decoded, Poison, find_body

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from manman_status.processor.telemetry import Tracing

log = structlog.get_logger()

LONGEST_REASON = 200
"""Longest reason in the logs: else a sender could write a whole message there."""
BROKER_ERRORS = (
    AMQPError,
    BrokerUnavailable,
    ChannelInvalidStateError,
    ConnectionError,
    TimeoutError,
)
ACKNOWLEDGE_WITHIN_SECONDS = 10.0

WEIGHTLESS_BYTES = 16 * 1024
BYTES_PER_EVENT = 256
"""Every so many bytes beyond the weightless ones count as one more event: a message that lists
10,000 servers is a batch by itself."""


class Delivery(msgspec.Struct):
    """One message, whatever it holds, until it is settled. `size` is roughly its memory in
    bytes."""

    message: Received
    decoded: Decoded
    size: int
    span: Span | None = None

    @property
    def items(self) -> list[Item]:
        return [*self.decoded.events, *self.decoded.control]


async def acknowledge(message: Received, *, multiple: bool) -> None:
    """Acknowledge a message. Raises one of BROKER_ERRORS when the channel does not take it."""
    async with asyncio.timeout(ACKNOWLEDGE_WITHIN_SECONDS):
        await answered(message.acknowledge(multiple=multiple))


class Subscription:
    """A subscription to one queue, read until it is stopped: `run` returns when what was read is
    stored and acknowledged."""

    def __init__(
        self,
        reader: QueueReader,
        ingest: Ingest,
        sampler: Sampler,
        flow: Flow,
        statistics: Statistics,
        admission: Admission,
        decode: Decode,
        *,
        max_events: int,
        max_wait_ms: int,
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing
        self.reader = reader
        self._ingest = ingest
        self._sampler = sampler
        self._flow = flow
        self._statistics = statistics
        self._admission = admission
        self._decode = decode
        self.queue = reader.queue
        self._is_settling = False
        self.storing = Pulse()
        self._batcher = Batcher(self._flush, max_weight=max_events, max_wait_ms=max_wait_ms)
        self._stopping = asyncio.Event()
        self._refusals = RefusalLog(self.queue)

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(vital(self._read(), f"read {self.queue}"))
            storing = watched(self._batcher.run(), self.storing)
            tasks.create_task(vital(storing, f"store {self.queue}", until=self._stopping))
            await self._stopping.wait()
            await cancel(reading)
            self._batcher.close()

    async def _read(self) -> None:
        async for message in self.reader:
            delivery = self._take(message)
            if message.redelivered and not delivery.items and not delivery.decoded.poison:
                # At once: else processors that crash again and again would reach the delivery limit
                # of a canary, and make a dead letter of it.
                with suppress(*BROKER_ERRORS):  # it comes again, as the rest of its channel does
                    await acknowledge(message, multiple=False)

    def _take(self, message: Received) -> Delivery:
        """Make the message a delivery of the next batch. Nothing that it holds makes this fail."""
        decoded = self._read_body(message)
        if message.redelivered:
            # Messages that were returned with it may come behind it, so a canary proves something
            # only when it comes for the first time.
            decoded.control = [each for each in decoded.control if not isinstance(each, CanarySent)]
        size = max(decoded.json_bytes, len(message.body))
        delivery = Delivery(message, decoded, size + BYTES_OF_AN_EVENT * decoded.count)
        if self._tracing:
            with suppress(
                Exception
            ):  # a strange trace context is no reason not to store what came with it
                delivery.span = self._tracing.receive(message, self.queue)
        self._flow.take(delivery.size)
        self._batcher.add(
            delivery, max(decoded.count, 1) + max(0, size - WEIGHTLESS_BYTES) // BYTES_PER_EVENT
        )
        return delivery

    def _read_body(self, message: Received) -> Decoded:
        try:
            return self._decode(
                message.body,
                self._admission.by(message.exchange, message.routing_key),
                routing_key=message.routing_key,
                content_encoding=message.properties.content_encoding,
                content_type=message.properties.content_type,
            )
        except Exception as error:  # noqa: BLE001 - the boundary of one message
            reason = f"decoding it fails: {type(error).__name__}"
            return Decoded(poison=[Poison(reason, message.body, cause=reason)])

    def is_stuck(self, *, for_seconds: float) -> bool:
        """True when a batch is being settled, and nothing of it has moved for so long. Each step of
        it has a bound, so an unavailable database or broker cannot cause that."""
        return self._is_settling and self.storing.age_seconds > for_seconds

    async def _flush(self, deliveries: list[Delivery]) -> None:
        """Settle the deliveries whose channels are open. Those of a closed channel were returned to
        the queue: its next reader stores them, in their order."""
        self._is_settling = True
        try:
            if held := [
                delivery for delivery in deliveries if not delivery.message.channel.is_closed
            ]:
                await self._settle(held)
            self.reader.settle(len(deliveries))
            self._flow.settle(sum(delivery.size for delivery in deliveries))
        finally:
            self._is_settling = False

    async def _settle(self, deliveries: list[Delivery]) -> None:
        spans = [delivery.span for delivery in deliveries if delivery.span] if self._tracing else []
        await self._store(deliveries, spans)
        try:
            if left := [
                delivery.message for delivery in deliveries if not delivery.message.is_acknowledged
            ]:
                await acknowledge(left[-1], multiple=True)
        except BROKER_ERRORS as error:
            # The broker sends it all again, and merging it twice changes nothing.
            log.warning(
                "batch_requeued", queue=self.queue, messages=len(deliveries), error=describe(error)
            )
            cause = f"a batch could not be acknowledged: {describe(error)}"
            self.reader.give_back(deliveries[-1].message.channel, cause)
        for span in spans:
            span.end()
        self._statistics.redelivered += sum(delivery.message.redelivered for delivery in deliveries)
        if ignored := sum(delivery.decoded.ignored for delivery in deliveries):
            self._statistics.count("command", "ignored", ignored)

    async def _store(self, deliveries: list[Delivery], spans: list[Span]) -> None:
        """Return when every delivery is committed: its items as rows, what was refused as dead
        letters."""
        items: list[Item] = []
        letters: list[tuple[UUID, bytes]] = []
        for delivery in deliveries:
            items += delivery.decoded.events
            items += delivery.decoded.control
            for poison in delivery.decoded.poison:
                letters += self._letters_of(delivery, poison)
        if not items and not letters:
            return
        if self._tracing and spans:
            of_each = [(delivery.span, len(delivery.items)) for delivery in deliveries]
            events = sum(len(delivery.decoded.events) for delivery in deliveries)
            with self._tracing.storing(self.queue, spans, events=events):
                refused = await self._ingest.store(
                    self.queue, items, letters, self._tracing.by_event(of_each)
                )
        else:
            refused = await self._ingest.store(self.queue, items, letters)
        if refused:
            await self._ingest.store(
                self.queue, [], [self._quarantine(deliveries, each) for each in refused]
            )
        self._refusals.say()

    def _letters_of(self, delivery: Delivery, poison: Poison) -> list[tuple[UUID, bytes]]:
        """Make the dead letter of this poison, or none when enough like it are kept already."""
        cause = poison.cause or poison.reason[:LONGEST_REASON]
        repeats = self._sampler.keep(cause, poison.sender, len(poison.body), now=monotonic())
        self._statistics.count(
            "poison", "only_counted" if repeats is None else "dead_lettered", poison.events
        )
        self._refusals.note(poison.reason, poison.events, is_kept=repeats is not None)
        return (
            []
            if repeats is None
            else [pack(self._letter(delivery, poison.body, poison.reason, repeats))]
        )

    def _quarantine(self, deliveries: list[Delivery], refused: Refused) -> tuple[UUID, bytes]:
        """Make the dead letter of an item that was understood: such a letter is always kept."""
        index = refused.index
        for delivery in deliveries:
            if index < len(delivery.items):
                body = find_body(delivery.message.body, delivery.items[index])
                self._statistics.count("poison", "dead_lettered", 1)
                self._refusals.note(refused.reason, 1, is_kept=True)
                return pack(self._letter(delivery, body, refused.reason))
            index -= len(delivery.items)
        raise IndexError(refused.index)

    def _letter(self, delivery: Delivery, body: bytes, reason: str, repeats: int = 0) -> Letter:
        message = delivery.message
        properties = message.properties
        traceparent = message.headers.get("traceparent") if delivery.span else None
        return Letter(
            body=body,
            error=reason,
            queue=self.queue,
            exchange=message.exchange,
            routing_key=message.routing_key,
            headers=kept_headers(message.headers),
            content_type=properties.content_type,
            # Part of an array was unpacked already.
            content_encoding=properties.content_encoding if body is message.body else None,
            correlation_id=properties.correlation_id,
            type=properties.message_type,
            traceparent=traceparent if isinstance(traceparent, str) else None,
            repeats=repeats,
        )


class RefusalLog:
    """A log of what was refused: a line at once, then one a minute with how many there were."""

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._seldom = OnceAMinute()
        self._kept = self._counted = 0
        self._first_reason = ""

    def note(self, reason: str, events: int, *, is_kept: bool) -> None:
        log.debug(
            "event_refused", queue=self._queue, reason=reason[:LONGEST_REASON], is_kept=is_kept
        )
        self._first_reason = self._first_reason or reason[:LONGEST_REASON]
        if is_kept:
            self._kept += events
        else:
            self._counted += events

    def say(self) -> None:
        if self._first_reason and self._seldom.is_due():
            log.warning(
                "events_dead_lettered",
                queue=self._queue,
                events=self._kept,
                only_counted=self._counted,
                first_reason=self._first_reason,
            )
            self._kept = self._counted = 0
            self._first_reason = ""
