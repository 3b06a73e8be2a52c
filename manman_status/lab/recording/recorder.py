"""The recorder: writes down the messages on the inbound exchange, from a queue of its own, so that
the processors miss none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, TypeAlias

import aio_pika
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, ChannelNotFoundEntity

from manman_status.backoff import Backoff
from manman_status.cancellation import within
from manman_status.errors import BrokerUnavailable, CommandFailed
from manman_status.lab.recording.tape import Tape
from manman_status.reporter.causes import fault_of
from manman_status.reporter.connection import ANSWER_WITHIN_SECONDS

if TYPE_CHECKING:
    from aio_pika import Connection
    from aio_pika.abc import AbstractIncomingMessage

    Connect: TypeAlias = Callable[[], AbstractAsyncContextManager[Connection]]

MOST_WAITING = 500_000
"""Most messages in the recorder's queue when the recorder is too slow. Beyond it the oldest are
gone."""
FLUSH_EVERY_SECONDS = 0.5


class Recorder:
    """A recorder that listens until it is stopped, through outages of the broker, each of which
    leaves a gap."""

    def __init__(
        self,
        connect: Connect,
        *,
        exchange: str,
        keys: Sequence[str],
        tape: Tape,
        complain: Callable[[str], None],
    ) -> None:
        self._connect = connect
        self._exchange = exchange
        self._keys = keys
        self._tape = tape
        self._complain = complain

    async def record(self, stop: asyncio.Event, *, listening: Callable[[], None]) -> None:
        """Record until `stop`. `listening` is called once, when no message is missed any more.
        Raises BrokerUnavailable when the broker is unavailable at the start, and CommandFailed when
        the exchange was never declared."""
        backoff = Backoff()
        has_listened = False

        def begun() -> None:
            nonlocal backoff, has_listened
            backoff = Backoff()
            if not has_listened:
                listening()
            has_listened = True

        while not stop.is_set():
            try:
                await self._listen(stop, begun)
            except BrokerUnavailable as error:
                if not has_listened:
                    raise
                delay = backoff.failed()
                if backoff.is_worth_saying:
                    self._complain(f"{error}; what passes meanwhile is not recorded")
                await _wait(stop, delay)
            finally:
                self._tape.flush()

    async def _listen(self, stop: asyncio.Event, begun: Callable[[], None]) -> None:
        lost = asyncio.Event()
        async with self._connect() as connection:
            connection.close_callbacks.add(lambda *_: lost.set())
            try:
                await within(ANSWER_WITHIN_SECONDS, self._subscribe(connection))
            except ChannelNotFoundEntity:
                reason = (
                    f"there is no exchange {self._exchange}: the processor declares it when it"
                    " starts"
                )
                raise CommandFailed(reason) from None
            except CONNECTION_EXCEPTIONS as error:
                raise fault_of(error, str(connection.url)) from error
            begun()
            while not stop.is_set() and not lost.is_set():
                await _wait(stop, FLUSH_EVERY_SECONDS)
                self._tape.flush()
            if lost.is_set():
                raise BrokerUnavailable(cause="the connection was lost")

    async def _subscribe(self, connection: Connection) -> None:
        channel = await connection.channel()
        exchange = await channel.get_exchange(self._exchange)
        queue = await channel.declare_queue(
            exclusive=True, arguments={"x-max-length": MOST_WAITING, "x-overflow": "drop-head"}
        )
        for key in self._keys:
            await queue.bind(exchange, key)
        self._tape.begin()  # before the first message comes
        await queue.consume(self._take, no_ack=True)

    async def _take(self, message: AbstractIncomingMessage) -> None:
        self._tape.take(
            message.routing_key or "",
            message.body,
            persistent=message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT,
        )


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
