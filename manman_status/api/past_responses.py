"""What answers about a past time look like, as in `responses.py`. What is not kept is no field of
them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta

from manman_status.api.answers import Answer
from manman_status.api.responses import ServerNumbers, Transition, list_content
from manman_status.domain.fleet import ObservationState, OverallStatus, overall_status
from manman_status.domain.status import ACTIVE, TERMINAL, Health, Reason, StatusType

if TYPE_CHECKING:
    from manman_status.store.past import Moment, PastFleet, PastPage

SETTLED = b"private, max-age=3600"
IsBlind: TypeAlias = Annotated[
    bool, Meta(description="The fleet was not observed then: a status is what was known last.")
]
SinceThen: TypeAlias = Annotated[
    datetime | None,
    Meta(description="Null, with reason and evidence: since before transitions are kept."),
]


class PastWorker(msgspec.Struct):
    worker_id: int
    created_date: datetime
    end_date: datetime | None
    health: Annotated[
        Health | None,
        Meta(
            description="Null of one that was active: its beats are not kept. `unknown` when blind."
        ),
    ]
    status: StatusType
    status_since: SinceThen
    reason: Reason | None
    evidence: dict[str, Any] | None
    labels: Annotated[dict[str, str], Meta(description="Those it has now.")]
    active_servers: int


class PastServerInstance(msgspec.Struct):
    instance_id: int
    worker_id: int | None
    game_server_config_id: int | None
    created_date: datetime
    end_date: datetime | None
    status: StatusType
    is_active: bool
    status_since: SinceThen
    reason: Reason | None
    evidence: dict[str, Any] | None


class PastWorkerList(msgspec.Struct):
    items: list[PastWorker]
    next_cursor: str | None
    is_blind: IsBlind
    as_of: datetime


class PastServerInstanceList(msgspec.Struct):
    items: list[PastServerInstance]
    next_cursor: str | None
    is_blind: IsBlind
    as_of: datetime


class PastWorkerDetail(PastWorker):
    """Its server instances and transitions are those of then."""

    server_instances: list[PastServerInstance]
    transitions: list[Transition]
    is_blind: IsBlind
    as_of: datetime


class PastServerInstanceDetail(PastServerInstance):
    transitions: list[Transition]
    is_blind: IsBlind
    as_of: datetime


class PastWorkerNumbers(msgspec.Struct):
    total_active: int
    unhealthy: Annotated[int, Meta(description="Those that were LOST.")]
    terminated: int


class PastSystem(msgspec.Struct):
    timestamp: datetime
    overall_status: Annotated[
        OverallStatus,
        Meta(description="By statuses alone: who was late, and not LOST yet, counts as healthy."),
    ]
    workers: PastWorkerNumbers
    servers: ServerNumbers
    is_blind: IsBlind


def past_page_answer(
    page: PastPage, moment: Moment, *, kind: str, filters: msgspec.Struct
) -> Answer:
    return past_answer(list_content(page.items, page.last_id, kind=kind, filters=filters), moment)


def past_answer(content: str, moment: Moment) -> Answer:
    """`content` is a JSON object without its end."""
    dated = msgspec.json.encode({"is_blind": moment.is_blind, "as_of": moment.at}).removeprefix(
        b"{"
    )
    return _of_then(b"%b,%b" % (content.encode(), dated), moment)


def past_system_answer(fleet: PastFleet, moment: Moment) -> Answer:
    active, lost = sum(fleet.workers[status] for status in ACTIVE), fleet.workers[StatusType.LOST]
    state = ObservationState.BLIND if moment.is_blind else ObservationState.OK
    system = PastSystem(
        timestamp=moment.at,
        overall_status=overall_status(state, healthy=active, late=0, unhealthy=lost, unknown=0),
        workers=PastWorkerNumbers(active, lost, sum(fleet.workers[status] for status in TERMINAL)),
        servers=ServerNumbers(sum(fleet.servers[status] for status in ACTIVE), fleet.servers),
        is_blind=moment.is_blind,
    )
    return _of_then(msgspec.json.encode(system), moment)


def _of_then(body: bytes, moment: Moment) -> Answer:
    """What was does not change, once the transactions of then are over."""
    cache_control = SETTLED if moment.is_settled else b"no-cache"
    return Answer(body, lasting=body, lag_seconds=0.0, cache_control=cache_control)
