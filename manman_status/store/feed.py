"""Transitions in their order, for those who watch."""

# ruff: noqa: S608 - the SQL is put together from constants; what a request says is a parameter, always

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from manman_status.domain.status import Entity, StatusType
from manman_status.errors import ManManStatusError
from manman_status.store.health import OBSERVATION, Observation
from manman_status.store.reads import TRANSITION_ITEM, observation_of

if TYPE_CHECKING:
    from manman_status.store.pool import Connection


class RevisionDropped(ManManStatusError):  # noqa: N818
    """Transition {revision} is no longer kept; the oldest that is kept is {oldest}."""

    def __init__(self, *, revision: int, oldest: int) -> None:
        self.oldest = oldest
        super().__init__(revision=revision, oldest=oldest)


class Change(msgspec.Struct, frozen=True, dict=True):
    """A transition as it is told. `item` is its JSON object, on one line."""

    revision: int
    entity: Entity
    new_status: StatusType
    worker_id: int | None
    group: str | None
    item: str

    @cached_property
    def event(self) -> bytes:
        """As a Server-Sent Event: encoded once, for all who are told."""
        return b"id: %d\nevent: transition\ndata: %b\n\n" % (self.revision, self.item.encode())


LATEST = f"WITH {OBSERVATION} SELECT as_of, lag_seconds, revision FROM observed"


async def read_latest(connection: Connection) -> Observation:
    """The newest revision that was given out, and until when the fleet was observed."""
    (row,) = await connection.fetch(LATEST)
    return observation_of(row)


# The limit is innermost: rows of the day's partition, in the order of their index, and only these are looked up.
CHANGES = f"""SELECT revision, entity, new_status, worker_id, "group", row_to_json(c)::text AS item FROM (
    SELECT {TRANSITION_ITEM}, worker_id,
        (SELECT labels ->> 'group' FROM workers w WHERE w.worker_id = o.worker_id) AS "group"
    FROM (
        SELECT *, CASE entity WHEN '{Entity.WORKER}' THEN entity_id ELSE (
            SELECT worker_id FROM server_instances s WHERE s.instance_id = t.entity_id
        ) END AS worker_id
        FROM (SELECT * FROM transitions WHERE revision > $1 ORDER BY revision LIMIT $2) t
    ) o
) c ORDER BY revision"""


async def read_changes(connection: Connection, *, after: int, limit: int) -> tuple[Observation, list[Change]]:
    """The first that follow `after`, in order and up to where one is missing; and what `read_latest` said before.

    Worker and group are those that the subject has now. Raises RevisionDropped when the very next one is missing:
    revisions have no gaps, and retention drops days.
    """
    latest = await read_latest(connection)
    if latest.revision <= after:
        return latest, []
    rows = await connection.fetch(CHANGES, after, limit)
    oldest = rows[0]["revision"] if rows else latest.revision + 1
    if oldest != after + 1:
        raise RevisionDropped(revision=after + 1, oldest=oldest)
    return latest, [
        Change(row["revision"], Entity(row["entity"]), StatusType(row["new_status"]), *row[3:])
        for place, row in enumerate(rows, start=after + 1)
        if row["revision"] == place
    ]
