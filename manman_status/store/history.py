"""The transitions of one worker or server instance, the newest first."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING

import msgspec

from manman_status.domain.status import Entity, StatusType
from manman_status.errors import UnknownServerInstance, UnknownWorker
from manman_status.store.health import OBSERVATION
from manman_status.store.reads import TRANSITION_ITEM, Page, page_of

if TYPE_CHECKING:
    from manman_status.store.pool import Connection


class HistoryFilters(msgspec.Struct, frozen=True):
    entity: Entity
    entity_id: int
    new_status: StatusType | None = None
    since: datetime | None = None
    until: datetime | None = None


CONDITIONS = {"new_status": "new_status = ", "since": "at >= ", "until": "at < "}
ROW_EXISTS = {
    Entity.WORKER: "EXISTS (SELECT 1 FROM workers WHERE worker_id = $1)",
    Entity.SERVER_INSTANCE: "EXISTS (SELECT 1 FROM server_instances WHERE instance_id = $1)",
}


@cache
def history_query(entity: Entity, given: tuple[str, ...]) -> str:
    """$1 is the id, $2 the revision to begin below, $3 the limit, $4… the values of the conditions
    `given`."""
    conditions = [f"AND {CONDITIONS[name]}${number}" for number, name in enumerate(given, start=4)]
    return f"""WITH {OBSERVATION}
SELECT as_of, lag_seconds, revision, epoch, ids, items, {ROW_EXISTS[entity]} OR EXISTS (
    SELECT 1 FROM transitions WHERE entity = '{entity}' AND entity_id = $1
) AS known
FROM observed, (
    SELECT array_agg(id) AS ids, array_agg(item) AS items
    FROM (
        SELECT revision AS id,
            (SELECT row_to_json(i)::text FROM (SELECT {TRANSITION_ITEM}) i) AS item
        FROM transitions
        WHERE entity = '{entity}' AND entity_id = $1 AND revision < $2 {" ".join(conditions)}
        ORDER BY revision DESC LIMIT $3
    ) t
) page"""


async def list_transitions(
    connection: Connection, filters: HistoryFilters, *, before: int, limit: int
) -> Page:
    """List transitions of one worker or server instance with a revision less than `before`, the
    newest first. Raises UnknownWorker and UnknownServerInstance."""
    values = {name: value for name in CONDITIONS if (value := getattr(filters, name)) is not None}
    query = history_query(filters.entity, tuple(values))
    (row,) = await connection.fetch(query, filters.entity_id, before, limit + 1, *values.values())
    if not row["known"]:
        raise unknown(filters.entity, filters.entity_id)
    return page_of(row, limit)


def unknown(entity: Entity, entity_id: int) -> UnknownWorker | UnknownServerInstance:
    if entity is Entity.WORKER:
        return UnknownWorker(worker_id=entity_id)
    return UnknownServerInstance(instance_id=entity_id)
