"""Compares the kept counts of the fleet with its rows, and counts the rows anew where they differ.

Triggers keep the counts in the transactions that change the rows (`store/counting.py`), so nothing
is wrong unless rows were written past the triggers: by a restore, a replica role or a person.
"""

from __future__ import annotations

from time import monotonic

import asyncpg
import structlog

from manman_status.leadership import Leadership, LeaderTask, Term
from manman_status.processor.statistics import Statistics
from manman_status.store.counting import compare_counts, recount_promptly

log = structlog.get_logger()

CHECK_EVERY_SECONDS = 3_600.0
LOOK_EVERY_SECONDS = 60.0
"""A part that does not move for minutes is taken for stuck."""


class CountCheck(LeaderTask):
    """Checks when this processor first leads, and then hourly. To compare takes no lock but that
    of a reader; to recount keeps writers waiting, as `manman-status migrate --recount` does."""

    failure_event = "fleet_not_recounted"
    longest_backoff_seconds = 60.0

    def __init__(self, leadership: Leadership, statistics: Statistics) -> None:
        super().__init__(leadership)
        self._statistics = statistics
        self._due_at = 0.0

    async def round(self, term: Term) -> float:
        if monotonic() >= self._due_at:
            await self._check(term)
            self._due_at = monotonic() + CHECK_EVERY_SECONDS
        return LOOK_EVERY_SECONDS

    async def _check(self, term: Term) -> None:
        try:
            async with term.connection() as connection:
                wrong = await compare_counts(connection)
        except (TimeoutError, asyncpg.QueryCanceledError):
            log.warning("fleet_counts_not_checked", meaning="to count all rows takes too long")
            return
        if wrong:
            async with term.transaction() as connection:
                await recount_promptly(connection)
            self._statistics.miscounts += len(wrong)
            log.error(
                "fleet_counts_healed",
                counts=len(wrong),
                first=str(wrong[0]),
                meaning="rows were written past the triggers; the counts are those of the rows now",
            )
