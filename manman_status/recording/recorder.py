"""Writes down what passes on the inbound exchange, from a queue of its own: nothing is taken from the processors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, TypeAlias

import msgspec
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, ChannelNotFoundEntity

from manman_status.backoff import Backoff
from manman_status.errors import BrokerUnavailable, CommandFailed
from manman_status.recording.lines import Line, encode_line, gap_line, message_line
from manman_status.wire.notices import CANARY_KEYS, GUARD_KEY
from manman_status.wire.topology import HEARTBEAT_KEYS, LIFECYCLE_KEYS

if TYPE_CHECKING:
    from aio_pika.abc import AbstractConnection, AbstractIncomingMessage

    Connect: TypeAlias = Callable[[], AbstractAsyncContextManager[AbstractConnection]]

OUR_OWN = frozenset({*CANARY_KEYS.values(), GUARD_KEY})
MOST_WAITING = 500_000
"""What the recorder's queue holds at most when the recorder is too slow. Beyond it the oldest are gone."""
FLUSH_EVERY_SECONDS = 0.5
PERSISTENT = 2


class Tally(msgspec.Struct):
    messages: int = 0
    gaps: int = 0
    workers: set[str] = msgspec.field(default_factory=set)


class Recorder:
    """Listens until it is stopped, through outages of the broker, each of which leaves a gap."""

    def __init__(self, connect: Connect, *, exchange: str, file: IO[bytes], complain: Callable[[str], None]) -> None:
        self._connect = connect
        self._exchange = exchange
        self._file = file
        self._complain = complain
        self._deaf_since: datetime | None = None
        self.tally = Tally()

    async def record(self, stop: asyncio.Event, *, listening: Callable[[], None]) -> None:
        """`listening` is called once, when nothing more is missed. Raises BrokerUnavailable when the broker is away at
        the start, and CommandFailed when nobody has ever declared the exchange."""
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

    async def _listen(self, stop: asyncio.Event, begun: Callable[[], None]) -> None:
        lost = asyncio.Event()
        async with self._connect() as connection:
            connection.close_callbacks.add(lambda *_: lost.set())
            try:
                await self._subscribe(connection)
            except ChannelNotFoundEntity:
                reason = f"there is no exchange {self._exchange}: the processor declares it when it starts"
                raise CommandFailed(reason) from None
            except CONNECTION_EXCEPTIONS as error:
                raise BrokerUnavailable(cause=str(error) or type(error).__name__) from error
            if self._deaf_since is not None:
                self._write(gap_line(self._deaf_since, datetime.now(UTC)))
                self.tally.gaps += 1
            begun()
            while not stop.is_set() and not lost.is_set():
                await _wait(stop, FLUSH_EVERY_SECONDS)
                self._file.flush()
            self._deaf_since = datetime.now(UTC)
            if lost.is_set():
                raise BrokerUnavailable(cause="the connection was lost")

    async def _subscribe(self, connection: AbstractConnection) -> None:
        channel = await connection.channel()
        exchange = await channel.get_exchange(self._exchange)
        queue = await channel.declare_queue(
            exclusive=True, arguments={"x-max-length": MOST_WAITING, "x-overflow": "drop-head"}
        )
        for key in (*HEARTBEAT_KEYS, *LIFECYCLE_KEYS):
            await queue.bind(exchange, key)
        await queue.consume(self._take, no_ack=True)

    async def _take(self, message: AbstractIncomingMessage) -> None:
        key = message.routing_key or ""
        if key in OUR_OWN:
            return
        self._write(message_line(datetime.now(UTC), key, message.body, persistent=message.delivery_mode == PERSISTENT))
        self.tally.messages += 1
        entity, _, rest = key.partition(".")
        if entity == "worker":
            self.tally.workers.add(rest.partition(".")[0])

    def _write(self, line: Line) -> None:
        self._file.write(encode_line(line))


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
