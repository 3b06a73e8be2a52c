"""Transitions in their order, for the feed."""

from __future__ import annotations

from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from manman_status.domain.status import Entity, StatusType
from manman_status.errors import ManManStatusError
from manman_status.store.epochs import Epoch
from manman_status.store.health import OBSERVATION, Observation
from manman_status.store.reads import TRANSITION_ITEM, observation_of

if TYPE_CHECKING:
    from manman_status.store.pool import Connection


class RevisionDropped(ManManStatusError):  # noqa: N818
    """Transition {revision} is no longer kept; the oldest that is kept is {oldest}."""

    def __init__(self, *, revision: int, oldest: int) -> None:
        self.oldest = oldest
        super().__init__(revision=revision, oldest=oldest)


class BeginAnew(ManManStatusError):  # noqa: N818
    """Position {position} is of a history that a restore replaced: read the fleet anew, or go on
    after {resume_from}"""

    def __init__(
        self, *, position: Position, resume_from: Position, oldest: int, **more: object
    ) -> None:
        self.resume_from = resume_from
        self.oldest = oldest
        super().__init__(position=position, resume_from=resume_from, **more)


class NotGivenOut(BeginAnew):
    """Revision {position} is not given out yet, the newest is {newest}: begin anew, or go on after
    {resume_from}"""


class Position(msgspec.Struct, frozen=True):
    """The position of a reader: it has all up to `revision` of the history `epoch`; None is the
    current one."""

    epoch: str | None
    revision: int

    def __str__(self) -> str:
        return str(self.revision) if self.epoch is None else f"{self.epoch}-{self.revision}"


class Latest(msgspec.Struct, frozen=True):
    """The newest revision that was given out, until when the fleet was observed, and which server
    says so."""

    observation: Observation
    epoch: Epoch
    is_replica: bool
    read_at: datetime

    @property
    def revision(self) -> int:
        return self.observation.revision


class Change(msgspec.Struct, frozen=True, dict=True):
    """A transition as watchers receive it. `item` is its JSON object, on one line."""

    epoch: str
    revision: int
    entity: Entity
    new_status: StatusType
    worker_id: int | None
    group: str | None
    item: str

    @cached_property
    def event(self) -> bytes:
        """The change as a Server-Sent Event, encoded once for all watchers."""
        return b"id: %b-%d\nevent: transition\ndata: %b\n\n" % (
            self.epoch.encode(),
            self.revision,
            self.item.encode(),
        )


LATEST = f"""WITH {OBSERVATION}
SELECT as_of, lag_seconds, observed.revision, observed.epoch, previous_epoch, epoch_begins_after,
       pg_is_in_recovery() AS is_replica, now() AS read_at
  FROM observed, revision_counter"""


async def read_latest(connection: Connection) -> Latest:
    (row,) = await connection.fetch(LATEST)
    epoch = Epoch(row["epoch"], row["previous_epoch"], row["epoch_begins_after"])
    return Latest(observation_of(row), epoch, row["is_replica"], row["read_at"])


OLDEST = (
    "SELECT coalesce((SELECT min(revision) FROM transitions), revision + 1) FROM revision_counter"
)


async def read_oldest(connection: Connection) -> int:
    """The first transition that is still kept, or the next when there is none."""
    oldest: int = await connection.fetchval(OLDEST)
    return oldest


# The limit is innermost: rows of the day's partition, in the order of their index, and only these
# are looked up.
CHANGES = f"""SELECT revision, entity, new_status, worker_id, "group", row_to_json(c)::text AS item
    FROM (
    SELECT {TRANSITION_ITEM}, worker_id,
        (SELECT labels ->> 'group' FROM workers w WHERE w.worker_id = o.worker_id) AS "group"
    FROM (
        SELECT *, CASE entity WHEN '{Entity.WORKER}' THEN entity_id ELSE (
            SELECT worker_id FROM server_instances s WHERE s.instance_id = t.entity_id
        ) END AS worker_id
        FROM (SELECT * FROM transitions WHERE revision > $1 ORDER BY revision LIMIT $2) t
    ) o
) c ORDER BY revision"""


async def read_changes(
    connection: Connection, *, after: int, limit: int
) -> tuple[Latest, list[Change]]:
    """The first that follow `after`, in order and up to where one is missing; and what
    `read_latest` said before.

    Worker and group are those that the subject has now. Raises RevisionDropped when the very next
    one is missing: revisions have no gaps, and retention drops days.
    """
    latest = await read_latest(connection)
    if latest.revision <= after:
        return latest, []
    rows = await connection.fetch(CHANGES, after, limit)
    oldest = rows[0]["revision"] if rows else latest.revision + 1
    if oldest != after + 1:
        raise RevisionDropped(revision=after + 1, oldest=oldest)
    return latest, [
        Change(
            latest.epoch.name,
            row["revision"],
            Entity(row["entity"]),
            StatusType(row["new_status"]),
            *row[3:],
        )
        for place, row in enumerate(rows, start=after + 1)
        if row["revision"] == place
    ]
