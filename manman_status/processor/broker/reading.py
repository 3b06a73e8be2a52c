"""The queues that this processor reads: all that are registered, each by a subscription of its own.

RabbitMQ gives a queue to one of its subscribers. A processor that is given more heartbeat queues
than its share closes the channel of one. The next in line gets that one, and does the same if it
has too many then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from math import ceil
from time import monotonic
from typing import TYPE_CHECKING, TypeAlias

import structlog

from manman_status.errors import BrokerUnavailable, PluginMissing, describe
from manman_status.processor.broker.declare import OtherArguments, declare_inbound, release
from manman_status.processor.broker.subscribers import Subscription
from manman_status.store.observation import QueueMark, QueueState
from manman_status.store.pool import DATABASE_ERRORS
from manman_status.wire.topology import Topology

if TYPE_CHECKING:
    from aio_pika import Connection

log = structlog.get_logger()

Subscribe: TypeAlias = Callable[[str, Callable[["Connection"], Awaitable[None]]], Subscription]
"""A maker of the subscription to a queue, which awaits the second argument whenever it has
connected."""

HAND_OVER_EVERY_SECONDS = 1.0
CAME_BACK_WITHIN_SECONDS = 10.0
IN_VAIN_SECONDS = 60.0
"""The time in which no queue is handed over after one came back at once: nobody else takes it."""


class Reading:
    """Reads what `follow` says, which may change at any time. `run` ends after `stop`, when what
    was read is settled."""

    def __init__(
        self,
        topology: Topology,
        subscribe: Subscribe,
        read_marks: Callable[[bool], Awaitable[list[QueueMark]]],
        *,
        given_within_seconds: float,
    ) -> None:
        """`read_marks` reads from the database what is to be read. When its argument is true, it
        also records there that a connection was lost, before what came meanwhile is read. A queue
        from which nothing came for `given_within_seconds`, no canary either, is another
        processor's."""
        self._topology = topology
        self._subscribe = subscribe
        self._read_marks = read_marks
        self._given_within_seconds = given_within_seconds
        self._marks: dict[str, QueueMark] = {}
        self._processors = 1
        self._running: dict[str, tuple[Subscription, asyncio.Task[None]]] = {}
        self._declared: dict[str, int] = {}
        self._handed_over: dict[str, float] = {}
        self._hand_over_at = 0.0
        self._subscribed: set[str] = set()
        self._changed = asyncio.Event()
        self._stopping = False

    @property
    def subscriptions(self) -> list[Subscription]:
        return [subscription for subscription, _ in self._running.values()]

    @property
    def queues(self) -> list[str]:
        """The queues into which workers' messages are put."""
        return _active(self._marks.values())

    @property
    def given(self) -> list[str]:
        """The queues that RabbitMQ gives to us."""
        within = self._given_within_seconds
        return [
            each.queue for each in self.subscriptions if each.reader.is_given(within_seconds=within)
        ]

    @property
    def is_connected(self) -> bool:
        return not any(each.reader.is_lost for each in self._needed)

    @property
    def losses(self) -> int:
        """Number of lost connections of the queues that count, as long as the same queues are
        read."""
        return sum(each.reader.losses for each in self._needed)

    @property
    def problems(self) -> dict[str, str]:
        """The reasons why queues are not read, by queue."""
        return {each.queue: each.reader.problem for each in self._needed if each.reader.problem}

    @property
    def _needed(self) -> list[Subscription]:
        """The subscriptions that count. The rest of a queue that nothing is put into is read as far
        as that goes."""
        return [each for each in self.subscriptions if each.queue in self.queues]

    def follow(self, marks: Sequence[QueueMark], *, processors: int) -> None:
        """Read these queues, which so many processors share."""
        self._marks = {mark.queue: mark for mark in marks}
        self._processors = max(processors, 1)
        self._changed.set()

    def stop(self) -> None:
        self._stopping = True
        self._changed.set()

    async def run(self) -> None:
        """Read until `stop`. Raises CommandFailed where something on the broker is declared
        otherwise."""
        async with asyncio.TaskGroup() as tasks:
            while not self._stopping:
                self._begin(tasks)
                self._end(tasks)
                await self._declare_again()
                self._share()
                await self._changed.wait()
                self._changed.clear()
            for subscription in self.subscriptions:
                subscription.stop()

    async def close(self) -> None:
        """Close all connections: messages that were not settled go back where they were."""
        await asyncio.gather(*(each.reader.close() for each in self.subscriptions))

    def _begin(self, tasks: asyncio.TaskGroup) -> None:
        """Subscribe to what is not read yet. Retired queues come last: their messages have to reach
        another queue first."""
        needed = {*self.queues}
        are_read = (
            all(each.reader.connection for each in self._needed) and needed <= self._running.keys()
        )
        if are_read and needed != self._subscribed:
            self._subscribed = needed
            log.info("queues_subscribed", queues=sorted(needed))
        for mark in self._marks.values():
            is_due = mark.queue in needed or (mark.state is not QueueState.CLOSING and are_read)
            if is_due and mark.queue not in self._running:
                subscription = self._subscribe(mark.queue, partial(self._declare, mark.queue))
                self._running[mark.queue] = subscription, tasks.create_task(subscription.run())

    def _end(self, tasks: asyncio.TaskGroup) -> None:
        for queue in [*self._running]:
            mark = self._marks.get(queue)
            if mark is None or mark.state is QueueState.CLOSING:
                tasks.create_task(self._let_go(*self._running.pop(queue)))
                self._declared.pop(queue, None)

    async def _let_go(self, subscription: Subscription, reading: asyncio.Task[None]) -> None:
        """Unbind and release a queue. It is about to have no reader, so nothing may be put into it,
        and we may have bound it again when we were slow."""
        connection = subscription.reader.connection
        if connection is not None:
            with suppress(BrokerUnavailable):
                await release(connection, self._topology, subscription.queue)
        subscription.stop()
        await asyncio.wait({reading})
        await subscription.reader.close()

    def _partitions(self, queues: Iterable[str]) -> int:
        return sum(self._topology.partition_of(queue) is not None for queue in queues)

    async def _declare(self, queue: str, connection: Connection) -> None:
        """Declare a queue before it is subscribed to.

        The database is queried before it is bound, since our marks may be old, and again after
        that, since we may have been slow: nothing may be put into a queue that does not count.
        """
        was_lost = queue in self._running and self._running[queue][0].reader.is_lost
        active = await self._active_now(note_cut=was_lost)
        if queue in active:
            partitions = self._partitions(active)
            await declare_inbound(connection, self._topology, queue, partitions=partitions)
            self._declared[queue] = partitions
            if queue in await self._active_now(note_cut=False):
                return
        if not await release(connection, self._topology, queue):
            raise BrokerUnavailable(cause="it is not there any more")

    async def _active_now(self, *, note_cut: bool) -> list[str]:
        try:
            marks = await self._read_marks(note_cut)
        except DATABASE_ERRORS as error:
            raise BrokerUnavailable(
                cause=f"the database has to be queried first: {describe(error)}"
            ) from error
        return _active(marks)

    async def _declare_again(self) -> None:
        """Bind the queues whose bindings are of another number of partitions."""
        for each in self._needed:
            connection = each.reader.connection
            if connection and self._declared.get(each.queue) not in {
                None,
                self._partitions(self.queues),
            }:
                try:
                    await self._declare(each.queue, connection)
                except (BrokerUnavailable, OtherArguments, PluginMissing) as error:
                    each.reader.end(str(error))

    def _share(self) -> None:
        """Hand over one queue when we are given more than our share, at most one at a time."""
        given = [queue for queue in self.given if self._topology.partition_of(queue) is not None]
        if (
            len(given) <= ceil(self._partitions(self.queues) / self._processors)
            or monotonic() < self._hand_over_at
        ):
            return
        lately = monotonic() - CAME_BACK_WITHIN_SECONDS
        came_back = any(self._handed_over.get(queue, 0.0) > lately for queue in given)
        self._hand_over_at = monotonic() + (
            IN_VAIN_SECONDS if came_back else HAND_OVER_EVERY_SECONDS
        )
        if not came_back:
            queue = given[-1]
            self._handed_over[queue] = monotonic()
            log.info("queue_handed_over", queue=queue, processors=self._processors)
            self._running[queue][0].reader.hand_over()


def _active(marks: Iterable[QueueMark]) -> list[str]:
    return [mark.queue for mark in marks if mark.state is QueueState.ACTIVE]
