"""StatusInfo in the order of its arrival.

A StatusInfo has a date and no count, and the dates of one sender do not always rise: they stand
still, or go back a little when several threads report. A queue keeps the order of arrival, so that
order decides: each StatusInfo of an entity counts as dated at least 1 µs after the one that was
applied before it. From there on it is an event with a date like any other, and the registers of
`domain/merge.py` do not care when they get it.

Two kinds of StatusInfo are not applied:

- A *copy* has the date and the status of one that was applied. Each row remembers the newest ones,
  so what is redelivered, sent twice or replayed changes nothing.
- *Old news* is dated more than `REORDERED_WITHIN` before the newest that was applied, further back
  than threads alone explain. So is an active status that is dated before an applied end: a late
  message cannot revive what has ended. The end of a server instance is never old news.

Invariant: what is no longer remembered is old news. A row forgets what is dated more than
`REORDERED_WITHIN` before its newest, and the oldest of a full memory; while a memory is full,
nothing as old as its oldest counts. So the rows are a function of the order in which the
StatusInfo of an entity came first, however often and however late each comes again.

Dates that are too far ahead to be true (`as_received`) count at their receipt. They are remembered
as they were sent, apart from the others, so that neither makes the others old news.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TypeVar

import msgspec

from manman_status.domain.events import SAME_CLOCK, ServerStatusReported, WorkerStatusReported
from manman_status.domain.rows import Applied, Reported, ServerInstance, Worker
from manman_status.domain.status import ACTIVE, TERMINAL

REORDERED_WITHIN = 1_000_000
"""µs by which the dates of one sender may go back."""

REMEMBERED = 16
"""The number that a row remembers of each kind. More than that within `REORDERED_WITHIN` is a
flood."""

StatusInfo = TypeVar("StatusInfo", bound=WorkerStatusReported | ServerStatusReported)


def in_arrival_order(
    row: Worker | ServerInstance, event: StatusInfo, received_at: int, *, is_final: bool = False
) -> StatusInfo | None:
    """Remember this StatusInfo and date it after the one before. None for a copy and for old news.

    `event` is as it was received (`as_received`). One that `is_final` is never old news.
    """
    reported = row.reported or Reported()
    latest = max((one.counted_at for one in (*reported.dated, *reported.ahead)), default=0)
    counted_at = max(event.time(received_at), latest + 1)
    if event.ahead_at is None:
        as_of = event.sent_at or counted_at
        known, others = reported.dated, reported.ahead
        dates = [*(one.as_of for one in known), *(one.counted_at for one in others)]
    else:
        as_of = event.ahead_at
        known, others = (
            [one for one in reported.ahead if one.as_of - as_of < SAME_CLOCK],
            reported.dated,
        )
        dates = [one.as_of for one in known]
    newest = max(dates, default=as_of)
    if not is_final and (
        as_of < newest - REORDERED_WITHIN or _is_settled(known, as_of, event.status)
    ):
        return None
    horizon = max(newest, as_of) - REORDERED_WITHIN
    reported_as = event.reported_as if isinstance(event, ServerStatusReported) else ""
    kept = [
        *(one for one in known if one.as_of >= horizon),
        Applied(as_of, event.status, counted_at, reported_as),
    ]
    kept = sorted(kept, key=attrgetter("as_of"))[-REMEMBERED:]
    row.reported = Reported(kept, others) if event.ahead_at is None else Reported(others, kept)
    return msgspec.structs.replace(event, sent_at=counted_at, ahead_at=None)


def _is_settled(known: list[Applied], as_of: int, status: str) -> bool:
    """True for a copy of one of these, for an active status dated before an end, and for what is as
    old as the oldest of a full memory."""
    if len(known) >= REMEMBERED and as_of <= known[0].as_of:
        return True
    return any(
        (as_of, status) == (one.as_of, one.status)
        or (status in ACTIVE and one.status in TERMINAL and as_of < one.as_of)
        for one in known
    )
