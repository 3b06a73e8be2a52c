"""The history that a revision belongs to.

A restored backup, or a standby that is promoted before it has everything, takes revisions back: the
numbers that were given out since then are given out again, for other transitions. So revisions are
compared within an epoch only. The epoch is a random name beside the counter. A processor changes it
in the transaction that finds the counter behind what that processor has seen, and so does `migrate
--new-epoch`, for the person who restores while no processor runs.

What both histories have is not known exactly. It ends before the last look at the old history, and
whatever is new came after that look, less a minute for clocks of two servers that differ. Too low a
bound repeats changes; too high a bound would lose them.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from manman_status.store.pool import Connection

SUSPECTED = "r"
"""No letter of a hexadecimal name."""


class Epoch(msgspec.Struct, frozen=True):
    """The transitions up to `begins_after` are those of the epoch `previous`, too."""

    name: str
    previous: str | None
    begins_after: int

    def has(self, epoch: str) -> bool:
        """True when revisions of that epoch are those of this one. Another api may have suspected a
        restore."""
        return epoch == self.name or epoch.partition(SUSPECTED)[0] == self.name

    def common(self, epoch: str, revision: int) -> int:
        """The last revision up to `revision` of that epoch that means the same in this one, as far
        as is known."""
        is_previous = self.previous in (epoch, epoch.partition(SUSPECTED)[0])
        return min(revision, self.begins_after) if is_previous else 0

    def suspect(self, begins_after: int) -> Epoch:
        """The name that an api gives a history that it has found behind, until a processor names
        it."""
        origin, _, number = self.name.partition(SUSPECTED)
        return Epoch(f"{origin}{SUSPECTED}{int(number or 0) + 1}", self.name, begins_after)


class Seen(msgspec.Struct, frozen=True):
    """The newest transition and the counter at one moment. `at` is the time of that transition;
    both are null when there is none."""

    epoch: str
    read_at: datetime
    counter: int
    revision: int | None
    at: datetime | None


LOOK = """
SELECT epoch, now() AS read_at, counter.revision AS counter, newest.revision, newest.at
  FROM revision_counter AS counter
  LEFT JOIN (SELECT revision, at FROM transitions ORDER BY revision DESC LIMIT 1) AS newest ON true
"""


async def look(connection: Connection) -> Seen:
    row = await connection.fetchrow(LOOK)
    assert row is not None
    return Seen(**row)


# Retention drops the oldest first: a transition that is gone while an older one is kept was
# replaced.
HAS_CHANGED = """
SELECT NOT EXISTS (SELECT 1 FROM transitions WHERE revision = $1 AND at = $2)
       AND EXISTS (SELECT 1 FROM transitions WHERE revision <= $1)
"""


async def continues(connection: Connection, before: Seen, now: Seen) -> bool:
    """True when what is seen now follows what was seen before, in the same epoch."""
    if now.counter < before.counter:
        return False
    if before.revision is None or (before.revision, before.at) == (now.revision, now.at):
        return True
    return not await connection.fetchval(HAS_CHANGED, before.revision, before.at)


# The minute allows for clocks of two servers that differ.
COMMON = """
SELECT coalesce(max(revision), 0) FROM transitions
 WHERE at <= $1::timestamptz - interval '1 minute'
"""


async def read_common(connection: Connection, read_at: datetime) -> int:
    """The greatest revision that surely was there at the last look, at `read_at`, at the history
    before."""
    revision: int = await connection.fetchval(COMMON, read_at)
    return revision


BEGIN_EPOCH = """
UPDATE revision_counter
   SET previous_epoch = epoch,
       epoch = substr(md5(random()::text || clock_timestamp()::text), 1, 8),
       epoch_begins_after = least(revision, $1::bigint)
 WHERE epoch = coalesce($2, epoch)
RETURNING epoch, previous_epoch, epoch_begins_after
"""


async def begin_epoch(connection: Connection, *, after: Seen, begins_after: int) -> Epoch | None:
    """Give the history a new name, unless another has done so since; then None."""
    row = await connection.fetchrow(BEGIN_EPOCH, begins_after, after.epoch)
    return Epoch(*row) if row else None


async def begin_restored(connection: Connection) -> Epoch:
    """The same for a person who has restored a backup: all that there is was there before."""
    row = await connection.fetchrow(BEGIN_EPOCH, None, None)
    assert row is not None
    return Epoch(*row)
