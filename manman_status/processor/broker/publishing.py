"""The connection for everything that this processor publishes, canaries too. A lost one is made
again."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from math import inf
from time import monotonic
from typing import Any, TypeVar

import structlog
from aio_pika import Connection, RobustConnection
from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from faststream.exceptions import IncorrectState
from faststream.rabbit import RabbitBroker, RabbitExchange
from yarl import URL

from manman_status.backoff import Backoff
from manman_status.cancellation import answered, within
from manman_status.errors import BrokerUnavailable
from manman_status.processor.broker.connection import HEARTBEAT_SECONDS
from manman_status.processor.broker.declare import (
    OtherArguments,
    declare_dead_letters,
    declare_outbound,
)
from manman_status.reporter.alarms import alarm_of, held_back
from manman_status.reporter.causes import fault_of
from manman_status.reporter.connection import ANSWER_WITHIN_SECONDS, close_connection
from manman_status.reporter.transport import OwnTransport
from manman_status.wire.topology import Topology

log = structlog.get_logger()

T = TypeVar("T")

LOOK_EVERY_SECONDS = 0.25
CONFIRM_SECONDS = 10.0
CANARY_CONFIRM_SECONDS = 1.0
CANARY_MISSING_SECONDS = 15.0
"""A connection on which RabbitMQ confirms nothing for so long is dead: a firewall may have dropped
it silently. AMQP's own heartbeat would find it later: it needs a little more than three of them."""


class BareConnection(RobustConnection):
    """A connection without the recovery that FastStream's connections have. That goes on in the
    background, even when the connection is no longer used, and takes no cancellation."""

    def __init__(self, url: URL, **options: Any) -> None:
        super().__init__(url, **options)
        self.own_transport = OwnTransport(str(url))
        self.kwargs["transport_factory"] = self.own_transport

    async def connect(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - aio-pika's
        await Connection.connect(self, timeout)

    async def _on_connection_close(self, closing: asyncio.Future[Any]) -> None:
        self._close_called = True  # so that no channel tries to open itself again
        await super()._on_connection_close(closing)

    async def leave(self) -> None:
        """Close it, or at least its socket."""
        await close_connection(self, self.own_transport)
        if (
            not self._closed.done()
        ):  # else its end would begin to close it again, perhaps without an event loop
            self._closed.set_result(True)


class PublishingBroker(RabbitBroker):
    """A broker that makes such connections. `newest` is its connection, also one that is not made
    yet."""

    newest: BareConnection | None = None

    async def _connect(self) -> RobustConnection:
        self._connection_kwargs["connection_class"] = self._make
        return await super()._connect()

    def _make(self, url: URL, **options: Any) -> BareConnection:
        self.newest = BareConnection(url, **options)
        return self.newest

    async def leave(self) -> None:
        """Drop this connection and be ready for another, whatever becomes of this one."""
        connection = self.newest
        self.newest = self._connection = self._channel = None
        self.config.disconnect()
        if connection is not None:
            await connection.leave()


class Publishing:
    """Keeps `broker` connected while `run` runs; its publishers are made once. The first loss ends
    the connection.

    `alarm` is why RabbitMQ holds back what we publish; `has_tried` is set once it has connected or
    could not.
    """

    def __init__(self, url: str, topology: Topology) -> None:
        self.alarm: str | None = None
        self._url = url
        self._topology = topology
        self._fault: BrokerUnavailable | None = BrokerUnavailable(cause="not connected yet")
        self._lost = asyncio.Event()
        self._connection: RobustConnection | None = None
        self._unconfirmed_since: float | None = None
        self._dead_letters_backoff = Backoff()
        self._declare_dead_letters_at = 0.0
        self.has_tried = asyncio.Event()
        self.broker = PublishingBroker(
            str(
                URL(url).update_query(
                    name="manman-status processor: publishing", heartbeat=HEARTBEAT_SECONDS
                )
            ),
            timeout=ANSWER_WITHIN_SECONDS,
            app_id="manman-status",
            logger=None,
        )

    @property
    def problem(self) -> str | None:
        """The reason why nothing can be published; None when it can, or when only an alarm holds it
        back."""
        return None if self._connection else str(self._fault or "not connected")

    async def run(self) -> None:
        """Connect again and again until it is cancelled."""
        backoff = Backoff()
        while True:
            began = monotonic()
            try:
                await self._open()
                if backoff.failures:
                    log.info("publishing_again", failed_seconds=backoff.failing_seconds)
                await self._watch()
            except OtherArguments as error:
                self._fault = BrokerUnavailable(cause=str(error))
            except BrokerUnavailable as error:
                self._fault = error
            finally:
                self.has_tried.set()
                self.alarm = None
                await self.close()
            if monotonic() - began > 2 * ANSWER_WITHIN_SECONDS:
                backoff = Backoff()
            delay = backoff.failed()
            if backoff.is_worth_saying:
                log.warning("not_publishing", error=str(self._fault))
            await asyncio.sleep(delay)

    async def confirmed(
        self, publishing: Coroutine[Any, Any, T], *, within_seconds: float = CONFIRM_SECONDS
    ) -> T:
        """Await what FastStream publishes until RabbitMQ has confirmed it. Raises
        BrokerUnavailable: it may have arrived all the same."""
        if self._connection is None:
            publishing.close()
            raise self._fault or BrokerUnavailable(cause="not connected")
        if self.alarm:  # each attempt that is written now would be published at its end
            publishing.close()
            raise held_back(self.alarm)
        try:
            # FastStream's own `timeout` does not count the time in which it waits for a channel.
            async with asyncio.timeout(within_seconds):
                return await answered(publishing)
        except TimeoutError as error:
            if self.alarm:
                raise held_back(self.alarm) from error
            raise BrokerUnavailable(cause=f"no confirmation within {within_seconds:g} s") from error
        except IncorrectState as error:  # FastStream is not connected any more
            raise self._fault or BrokerUnavailable(cause="the connection was lost") from error
        except CONNECTION_EXCEPTIONS as error:
            raise fault_of(error, self._url, right="write to") from error

    async def publish_canary(self, body: bytes, **where: Any) -> None:
        """Publish a canary, which is worth nothing if it is late. Raises BrokerUnavailable. A
        connection on which RabbitMQ confirms none, without an alarm, is dead, and is ended."""
        try:
            await self.confirmed(
                self.broker.publish(body, content_type="application/json", **where),
                within_seconds=CANARY_CONFIRM_SECONDS,
            )
        except BrokerUnavailable:
            self._note_unconfirmed()
            raise
        self._unconfirmed_since = None

    def _note_unconfirmed(self) -> None:
        if self._connection is None or self.alarm:
            self._unconfirmed_since = None
        elif self._unconfirmed_since is None:
            self._unconfirmed_since = monotonic()
        elif monotonic() - self._unconfirmed_since > CANARY_MISSING_SECONDS:
            cause = f"no confirmation for {CANARY_MISSING_SECONDS:g} s"
            self._lose(self._lost, BrokerUnavailable(cause=cause))

    async def declare_dead_letters(self) -> None:
        """Declare the dead-letter queue again after a dead letter came back unroutable. Raises
        BrokerUnavailable; nothing changes when all is there."""
        if self._connection is None:
            raise self._fault or BrokerUnavailable(cause="not connected")
        if self.alarm:
            raise held_back(self.alarm)
        await self._declare_dead_letters(self._connection)

    async def close(self) -> None:
        """Close the connection, at once where the broker does not answer."""
        self._connection = None
        await self.broker.leave()

    async def _open(self) -> None:
        self._lost = lost = asyncio.Event()
        self._fault, self._unconfirmed_since = None, None
        try:
            connection = await within(2 * ANSWER_WITHIN_SECONDS, self.broker.connect())
        except CONNECTION_EXCEPTIONS as error:
            raise fault_of(error, self._url) from error
        connection.close_callbacks.add(lambda _, error: self._lose(lost, error))
        default = await self.broker.declare_exchange(RabbitExchange())
        default.channel.close_callbacks.add(lambda _, error: self._lose(lost, error))
        # Before anything can be published: during an alarm RabbitMQ reads nothing more after the
        # first message.
        await declare_outbound(connection, self._topology)
        self._declare_dead_letters_at = 0.0
        await self._keep_dead_letters(connection)
        self._connection = connection

    async def _watch(self) -> None:
        """Watch the connection until it is lost, and raise BrokerUnavailable then."""
        self.has_tried.set()
        while not self._lost.is_set() and self._connection is not None:
            self._log_alarm(await alarm_of(self._connection))
            if not self.alarm:  # RabbitMQ reads nothing from this connection then
                await self._keep_dead_letters(self._connection)
            try:
                async with asyncio.timeout(LOOK_EVERY_SECONDS):
                    await self._lost.wait()
            except TimeoutError:
                continue
        raise self._fault or BrokerUnavailable(cause="the connection was lost")

    def miss_dead_letters(self) -> None:
        """Have the dead-letter queue declared again soon, as it is missing."""
        self._declare_dead_letters_at = min(self._declare_dead_letters_at, monotonic())

    async def _declare_dead_letters(self, connection: Connection) -> None:
        try:
            await declare_dead_letters(connection, self._topology)
        except OtherArguments as error:
            raise BrokerUnavailable(cause=str(error)) from error

    async def _keep_dead_letters(self, connection: Connection) -> None:
        if monotonic() < self._declare_dead_letters_at:
            return
        try:
            await self._declare_dead_letters(connection)
        except BrokerUnavailable as error:
            self._declare_dead_letters_at = monotonic() + self._dead_letters_backoff.failed()
            if self._dead_letters_backoff.is_worth_saying:
                log.warning("dead_letter_queue_missing", error=str(error))
        else:
            self._declare_dead_letters_at = inf
            self._dead_letters_backoff = Backoff()

    def _log_alarm(self, alarm: str | None) -> None:
        if alarm and not self.alarm:
            log.warning(
                "broker_alarm",
                reason=alarm,
                meaning=(
                    "RabbitMQ holds back what is published: no canaries, so nobody is marked LOST"
                    " meanwhile"
                ),
            )
        elif self.alarm and not alarm:
            log.info("broker_alarm_ended")
        self.alarm = alarm

    def _lose(self, lost: asyncio.Event, error: BaseException | None) -> None:
        if lost.is_set() or lost is not self._lost:
            return
        if isinstance(error, BrokerUnavailable):
            self._fault = error
        elif error is None or isinstance(error, asyncio.CancelledError):
            self._fault = BrokerUnavailable(cause="the connection was lost")
        else:
            self._fault = fault_of(error, self._url)
        lost.set()
