"""Publishes every transition on the broker: at least once, and in order for each entity.

Invariant: no transition of an entity is published before the broker has confirmed the one before
it, to this leader or to an earlier one. The mark `sent_revision` moves only to a transition before
which everything is confirmed, and a leader begins behind the mark. A leader that dies between a
confirm and the mark leaves transitions that are published twice, never one that is skipped; and the
first arrivals of each entity are in order, whatever fails and whichever earlier leader still
publishes. The database is not held while the broker is waited for.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from itertools import takewhile

import asyncpg

from manman_status.errors import BrokerUnavailable
from manman_status.leadership import Leadership, LeaderTask, Term
from manman_status.processor.statistics import Statistics
from manman_status.store.relay import count_unsent, mark_sent, read_unsent
from manman_status.wire.outbound import Publish, status_message

AT_ONCE = 500
POLL_SECONDS = 0.5
"""Transitions of other processors are found by looking this often."""


class Relay(LeaderTask):
    """Publishes transitions while this processor leads, and marks them once they are confirmed."""

    failure_event = "relay_held_up"
    recovery_event = "relay_goes_on"

    def __init__(
        self,
        leadership: Leadership,
        publish: Publish,
        statistics: Statistics,
        *,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        super().__init__(leadership)
        self._poll_seconds = poll_seconds
        self._publish = publish
        self._statistics = statistics
        # Confirmed beyond the mark, while something before is not: these are not published again.
        # With the time, for another transition has the same revision after a backup was restored.
        self._confirmed: set[tuple[int, datetime]] = set()

    def stand_by(self) -> None:
        self._statistics.relay_backlog = None

    def failure_fields(self) -> dict[str, object]:
        return {"backlog": self._statistics.relay_backlog}

    async def round(self, term: Term) -> float:
        """Publish the oldest unsent transitions. Those that are confirmed are marked, also when the
        others fail. Raises BrokerUnavailable."""
        async with term.connection() as connection:
            backlog = self._statistics.relay_backlog = await count_unsent(connection)
            unsent = await read_unsent(connection, limit=AT_ONCE) if backlog else []
        keys = list(map(_key, unsent))
        self._confirmed.intersection_update(keys)
        failure = await self._send(unsent)
        sent = list(takewhile(self._confirmed.__contains__, keys))
        if sent:
            async with term.transaction() as connection:
                await mark_sent(connection, *sent[-1])
            self._statistics.relay_backlog = backlog - len(sent)
        if len(sent) < len(unsent):
            raise failure or BrokerUnavailable(cause="a confirm is missing")
        return 0 if len(unsent) == AT_ONCE else self._poll_seconds

    async def _send(self, unsent: Sequence[asyncpg.Record]) -> BrokerUnavailable | None:
        """Return when all are confirmed, or when one failed and every message on its way has an
        answer."""
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
