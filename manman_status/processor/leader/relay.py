"""Every transition is told to whoever listens on the broker: at least once, and in order for each
entity."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from itertools import takewhile

import asyncpg
import structlog

from manman_status.backoff import Backoff
from manman_status.errors import BrokerUnavailable, describe
from manman_status.leadership import LEASE, Leadership
from manman_status.processor.statistics import Statistics
from manman_status.store.leases import LeaseLost, check_lease
from manman_status.store.pool import DATABASE_ERRORS, Pool
from manman_status.store.relay import count_unsent, mark_sent, read_unsent
from manman_status.wire.outbound import Publish, status_message

log = structlog.get_logger()


class Relay:
    """Sends what is unsent while we lead, and marks it once it is confirmed.

    No transition of an entity is sent before the one before it is confirmed, by us or by an earlier
    leader. So first arrivals are in order, whatever fails and whoever else still sends. Nothing of
    the database is held meanwhile.

    `backlog` is how many transitions waited when we last looked, None while another leads.
    """

    def __init__(
        self,
        pool: Pool,
        publish: Publish,
        leadership: Leadership,
        statistics: Statistics,
        *,
        at_once: int = 500,
        poll_seconds: float = 0.5,
    ) -> None:
        self._pool = pool
        self._publish = publish
        self._leadership = leadership
        self._at_once = at_once
        self._poll_seconds = poll_seconds
        self._woken = asyncio.Event()
        # Beyond the mark: what was confirmed while something before it was not, and so is not sent
        # again. With its time, for another transition has the same revision after a backup was
        # restored.
        self._confirmed: set[tuple[int, datetime]] = set()
        self._statistics = statistics

    @property
    def backlog(self) -> int | None:
        return self._statistics.relay_backlog

    def wake(self) -> None:
        """Transitions were committed: look now. Those of other processors are found by looking
        often."""
        self._woken.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        backoff = Backoff()
        while True:
            if self._leadership.token is None:
                self._statistics.relay_backlog = None
            token = await self._leadership.wait()
            try:
                more = await self._relay(token)
            except LeaseLost:
                self._leadership.lost()
            except (BrokerUnavailable, *DATABASE_ERRORS) as error:
                delay = backoff.failed()
                if backoff.is_worth_saying:
                    log.warning(
                        "relay_held_up",
                        error=describe(error),
                        backlog=self.backlog,
                        failing_seconds=backoff.failing_seconds,
                    )
                await asyncio.sleep(delay)
            else:
                if backoff.failures:
                    log.info(
                        "relay_goes_on",
                        backlog=self.backlog,
                        failed_seconds=backoff.failing_seconds,
                    )
                    backoff = Backoff()
                if not more:
                    await self._wait_for_more()

    async def _wait_for_more(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._poll_seconds):
                await self._woken.wait()
        self._woken.clear()

    async def _relay(self, token: int) -> bool:
        """Send the oldest that are unsent; whether there may be more. What is confirmed is marked,
        also when the rest fails."""
        async with self._pool.acquire() as connection:
            backlog = self._statistics.relay_backlog = await count_unsent(connection)
            unsent = await read_unsent(connection, limit=self._at_once) if backlog else []
        keys = list(map(_key, unsent))
        self._confirmed.intersection_update(keys)
        failure = await self._send(unsent)
        sent = list(takewhile(self._confirmed.__contains__, keys))
        if sent:
            async with self._pool.acquire() as connection, connection.transaction():
                await check_lease(connection, LEASE, token)
                await mark_sent(connection, *sent[-1])
            self._statistics.relay_backlog = backlog - len(sent)
        if len(sent) < len(unsent):
            raise failure or BrokerUnavailable(cause="a confirm is missing")
        return len(unsent) == self._at_once

    async def _send(self, unsent: Sequence[asyncpg.Record]) -> BrokerUnavailable | None:
        """Returns when all are confirmed, or when one failed and those that were on their way have
        an answer too."""
        of_each = defaultdict(list)
        for transition in unsent:
            if _key(transition) not in self._confirmed:
                of_each[transition["entity"], transition["entity_id"]].append(transition)
        failures: list[BrokerUnavailable] = []
        async with asyncio.TaskGroup() as tasks:
            for transitions in of_each.values():
                tasks.create_task(self._send_in_order(transitions, failures))
        return failures[0] if failures else None

    async def _send_in_order(
        self, transitions: Sequence[asyncpg.Record], failures: list[BrokerUnavailable]
    ) -> None:
        for transition in transitions:
            if failures:
                return
            try:
                await self._publish(status_message(**transition))
            except BrokerUnavailable as error:
                failures.append(error)
            else:
                self._confirmed.add(_key(transition))


def _key(transition: asyncpg.Record) -> tuple[int, datetime]:
    return transition["revision"], transition["at"]
