"""Queries about queues, on a connection of their own.

The broker answers in order: on a connection that reads, an answer comes behind every message that
was sent before it, and under a backlog that takes longer than a query may. During an alarm RabbitMQ
ignores connections that publish. So this connection does neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

import structlog

from manman_status.backoff import LONGEST_SECONDS, Backoff
from manman_status.cancellation import within
from manman_status.errors import BrokerRefuses, BrokerUnavailable, describe
from manman_status.processor.broker.connection import HEARTBEAT_SECONDS
from manman_status.processor.broker.declare import BROKER_FAULTS
from manman_status.reporter.connection import open_connection

if TYPE_CHECKING:
    from aio_pika import Connection

log = structlog.get_logger()

T = TypeVar("T")

ANSWER_TO_QUERY_SECONDS = 1.0
MOVES_EVERY_SECONDS = 1.0


class Queries:
    """Keeps a connection for queries open while `run` runs. The first fault ends the connection."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Connection | None = None
        self._lost = asyncio.Event()

    async def run(self) -> None:
        """Connect again and again until it is cancelled."""
        backoff = Backoff()
        while True:
            began = monotonic()
            try:
                await self._stay_connected()
            except BrokerUnavailable as error:
                log.debug("no_connection_for_queries", error=str(error))
            if monotonic() - began > LONGEST_SECONDS:
                backoff = Backoff()
            await asyncio.sleep(backoff.failed())

    async def _stay_connected(self) -> None:
        self._lost.clear()
        async with open_connection(
            self._url, name="manman-status processor: queries", heartbeat=HEARTBEAT_SECONDS
        ) as connection:
            connection.close_callbacks.add(lambda *_: self._lost.set())
            self._connection = connection
            try:
                while not self._lost.is_set():
                    await self._wait()
            finally:
                self._connection = None

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(MOVES_EVERY_SECONDS):
                await self._lost.wait()
        except TimeoutError:
            pass

    @property
    def connection(self) -> Connection:
        """The connection. Raises BrokerUnavailable."""
        if self._connection is None:
            raise BrokerUnavailable(cause="not connected")
        return self._connection

    async def answer(self, query: Callable[[Connection], Awaitable[T]]) -> T:
        """Return the answer, or raise BrokerUnavailable after `ANSWER_TO_QUERY_SECONDS` at the
        latest. A query that is not answered ends the connection: its channel cannot be used again,
        and RabbitMQ would end the connection when the answer came to another's. A refusal does
        not."""
        connection = self.connection
        try:
            return await within(ANSWER_TO_QUERY_SECONDS, query(connection))
        except BrokerRefuses:
            raise
        except (*BROKER_FAULTS, BrokerUnavailable) as error:
            if connection is self._connection:
                self._lost.set()
            raise BrokerUnavailable(cause=f"a query failed: {describe(error)}") from error
