"""Changes, as they happen."""

from __future__ import annotations

from typing import Annotated

from litestar import get
from litestar.di import NamedDependency
from litestar.params import HeaderParameter, QueryParameter

from manman_status.api.errors import documented_problems
from manman_status.api.feed import ChangeFilters, Feed
from manman_status.api.parameters import (
    POSITION_PATTERN,
    From,
    Limit,
    QueryEntity,
    QueryGroups,
    QueryStatuses,
    QueryWorkerIds,
    Wait,
    parse_position,
    parse_seconds,
)
from manman_status.api.responses import ChangeList, documented
from manman_status.api.streams import EventStream, LongPoll


@get(
    "/events",
    operation_id="streamEvents",
    responses=documented(str, media_type="text/event-stream", changes=True)
    | documented_problems(watches=True),
)
async def events(
    feed: NamedDependency[Feed],
    from_: From = "now",
    worker_id: QueryWorkerIds = (),
    group: QueryGroups = (),
    entity: QueryEntity = None,
    new_status: QueryStatuses = (),
    last_event_id: Annotated[
        str | None,
        HeaderParameter(
            name="Last-Event-ID", description="As `from`, and before it: where a stream goes on."
        ),
    ] = None,
) -> EventStream:
    """Server-Sent Events, one for each transition, until either side ends it; resumed without gap
    and double."""
    filters = _filters(worker_id, group, entity, new_status)
    parameter, given = ("Last-Event-ID", last_event_id) if last_event_id else ("from", from_)
    after = None if given == "now" else parse_position(parameter, given)
    return EventStream(feed, filters, after=after)


@get(
    "/changes",
    operation_id="pollChanges",
    responses=documented(ChangeList) | documented_problems(watches=True),
)
async def changes(
    feed: NamedDependency[Feed],
    since: Annotated[
        str | None,
        QueryParameter(
            schema_extra={"pattern": f"^{POSITION_PATTERN}$"},
            description=(
                "The `<epoch>-<revision>` of the answer before; else from now on. A revision alone"
                " is of the"
                " epoch of now."
            ),
        ),
    ] = None,
    wait: Wait = "0",
    limit: Limit = 100,
    worker_id: QueryWorkerIds = (),
    group: QueryGroups = (),
    entity: QueryEntity = None,
    new_status: QueryStatuses = (),
) -> LongPoll:
    """The transitions after a revision: at once when there are any, else when there is one or
    `wait` has passed."""
    filters = _filters(worker_id, group, entity, new_status)
    position = None if since is None else parse_position("since", since)
    seconds = parse_seconds("wait", wait)
    return LongPoll(feed, filters, since=position, wait_seconds=seconds, limit=limit)


def _filters(
    worker_ids: QueryWorkerIds,
    groups: QueryGroups,
    entity: QueryEntity,
    new_statuses: QueryStatuses,
) -> ChangeFilters:
    return ChangeFilters(
        worker_ids=frozenset(worker_ids),
        groups=frozenset(groups),
        entity=entity,
        new_statuses=frozenset(new_statuses),
    )
