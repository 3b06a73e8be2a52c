"""The shapes of answers, and how they are sent. The structs are the documented shapes; a test
decodes into them what PostgreSQL wrote. A field that is not kept for past times is no field of the
structs of past times."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import msgspec
from litestar.openapi.datastructures import ResponseSpec
from msgspec import Meta

from manman_status.api.answers import Answer
from manman_status.api.cursors import write_cursor
from manman_status.domain.alert import AlertState
from manman_status.domain.clock import ClockStep
from manman_status.domain.fleet import (
    UNWATCHED_AT_MOST,
    ObservationState,
    OverallStatus,
    overall_status,
)
from manman_status.domain.liveness import Thresholds
from manman_status.domain.status import ACTIVE, TERMINAL, Entity, Health, Reason, StatusType
from manman_status.store.health import Doubt
from manman_status.store.observation import QueueState
from manman_status.store.past import Moment
from manman_status.store.system_reads import GROUPS_SHOWN, GUARDS_SHOWN

if TYPE_CHECKING:
    from manman_status.store.details import Detail
    from manman_status.store.feed import Position
    from manman_status.store.health import Observation
    from manman_status.store.past import PastDetail, PastFleet, PastPage
    from manman_status.store.reads import Page
    from manman_status.store.system_reads import Fleet


class Transition(msgspec.Struct):
    revision: int
    at: datetime
    as_of: Annotated[
        datetime,
        Meta(description="As published: the time that the report has, else `at`; it rises."),
    ]
    entity: Entity
    entity_id: int
    old_status: StatusType | None
    new_status: StatusType
    reason: Reason
    evidence: dict[str, Any]


class Change(Transition):
    """A transition with the worker it is of, and that worker's label `group`, as they are known
    when it is told."""

    worker_id: int | None
    group: str | None


class Worker(msgspec.Struct):
    worker_id: int
    created_date: datetime
    end_date: datetime | None
    last_heartbeat: datetime | None
    is_healthy: bool
    health: Health
    status: StatusType
    status_since: datetime
    reason: Reason
    evidence: dict[str, Any]
    interval_seconds: float
    deadline: datetime | None
    labels: dict[str, str]
    active_servers: int


class ServerInstance(msgspec.Struct):
    instance_id: int
    worker_id: int | None
    game_server_config_id: int | None
    created_date: datetime
    end_date: datetime | None
    status: StatusType
    is_active: bool
    status_since: datetime
    reason: Reason
    evidence: dict[str, Any]


class WorkerList(msgspec.Struct):
    items: list[Worker]
    next_cursor: str | None
    revision: int
    epoch: str
    as_of: datetime


class ServerInstanceList(msgspec.Struct):
    items: list[ServerInstance]
    next_cursor: str | None
    revision: int
    epoch: str
    as_of: datetime


class TransitionList(msgspec.Struct):
    items: list[Transition]
    next_cursor: str | None
    revision: int
    epoch: str
    as_of: datetime


class ChangeList(msgspec.Struct):
    items: list[Change]
    revision: Annotated[int, Meta(description="All up to here were looked at.")]
    epoch: Annotated[
        str,
        Meta(
            description=(
                "The history that the revision belongs to: `<epoch>-<revision>` is `since` of the"
                " next."
            )
        ),
    ]
    as_of: datetime


class WorkerDetail(Worker):
    """Its server instances are all that are active and the newest that ended, its transitions the
    newest."""

    server_instances: list[ServerInstance]
    transitions: list[Transition]
    revision: int
    epoch: str
    as_of: datetime


class ServerInstanceDetail(ServerInstance):
    transitions: list[Transition]
    revision: int
    epoch: str
    as_of: datetime


class WorkerNumbers(msgspec.Struct):
    total_active: int
    healthy: int
    late: int
    unhealthy: int
    unknown: int
    terminated: int


class GroupNumbers(msgspec.Struct):
    """Numbers of the workers of a group that have not ended."""

    group: Annotated[str, Meta(description="The label `group`; empty for the workers without one.")]
    healthy: int = 0
    late: int = 0
    unhealthy: int = 0
    unknown: int = 0


class ServerNumbers(msgspec.Struct):
    total_active: int
    by_status: dict[StatusType, int]


class Histogram(msgspec.Struct):
    bounds: list[float]
    counts: Annotated[
        list[int],
        Meta(
            description="How many were at most each bound and above the one before, then above all."
        ),
    ]
    sum: float


class Processor(msgspec.Struct):
    """A processor that reported within five minutes. Its counters began at its start."""

    processor_id: str
    host: str
    version: str
    started_at: datetime
    last_seen: datetime
    reads: Annotated[list[str], Meta(description="The queues that RabbitMQ gives to it.")] = []
    events: Annotated[dict[str, dict[str, int]], Meta(description="By kind and outcome.")] = {}
    batches: int = 0
    transitions: int = 0
    transitions_by: Annotated[
        dict[Entity, dict[StatusType, dict[Reason, int]]],
        Meta(description="By what, its new status and the reason."),
    ] = {}
    new_ids: Annotated[
        dict[Entity, int],
        Meta(description="Workers and server instances that nothing was known of before."),
    ] = {}
    redelivered: Annotated[
        int, Meta(description="Messages that the broker had to give out again.")
    ] = 0
    miscounts: Annotated[
        int, Meta(description="Counts of the fleet that were wrong, and were counted anew.")
    ] = 0
    batch_events: Annotated[
        Histogram | None, Meta(description="Events a batch; canaries are none.")
    ] = None
    batch_seconds: Histogram | None = None
    last_batch_ms: float = 0.0
    longest_batch_ms: float = 0.0
    queue_depths: dict[str, int] = {}
    broker_alarm: Annotated[
        str | None,
        Meta(description="Why RabbitMQ holds back what it publishes; null while it does not."),
    ] = None
    broker_problems: Annotated[
        dict[str, str],
        Meta(description="Why a queue is not read, or, as `publishing`, why nothing is published."),
    ] = {}
    dead_letters_waiting: int | None = None
    dead_letters_unsent: Annotated[
        int | None,
        Meta(description="Dead letters that the broker has not taken yet. Null unless it leads."),
    ] = None
    notifications: Annotated[
        dict[str, dict[str, int]], Meta(description="By channel and outcome.")
    ] = {}
    sweep_ms: Annotated[float | None, Meta(description="Null unless it leads.")] = None
    relay_backlog: Annotated[int | None, Meta(description="Null unless it leads.")] = None


class Queue(msgspec.Struct):
    """A queue that processors read."""

    queue: str
    state: Annotated[
        QueueState,
        Meta(
            description=(
                "`active`; `leaving`, while it may still be bound; `retired`, while what is left in"
                " it is read; `closing`, until it is deleted."
            )
        ),
    ]
    observed_through: Annotated[
        datetime | None,
        Meta(
            description="All that was put on it before is known here; null when nothing is proven."
        ),
    ]
    lag_seconds: float | None


class Bridge(msgspec.Struct):
    """A bridge that reports the workers of another system's database."""

    name: str
    observed_through: Annotated[
        datetime | None,
        Meta(description="All that it read before is known here; null when nothing is proven yet."),
    ]
    lag_seconds: float | None


class FleetGuard(msgspec.Struct):
    """A group of which so much fell silent at once that its workers are held, not given up."""

    group: Annotated[str, Meta(description="The label `group`; empty for the workers without one.")]
    holding_since: datetime
    held: Annotated[int, Meta(description="Overdue workers of the group that are not given up.")]
    group_size: int
    releasing_since: Annotated[
        datetime | None,
        Meta(description="Since when they are given up little by little; null while all are held."),
    ]


class ObservationQuality(msgspec.Struct):
    state: Annotated[
        ObservationState,
        Meta(description="While it is `blind`, the health of every active worker is `unknown`."),
    ]
    reason: Annotated[
        Doubt | None,
        Meta(
            description=(
                "Why no worker is marked LOST until the recovery grace was observed:"
                " `clock_stepped`, the database's clock stepped; `heartbeats_dropped`, RabbitMQ"
                " dropped heartbeats, since a queue was full or was not read for too long. Null"
                " otherwise."
            )
        ),
    ]
    observed_through: Annotated[
        datetime | None,
        Meta(
            description=(
                "All that was sent before is known here; null when nothing was ever observed."
            )
        ),
    ]
    lag_seconds: float | None
    clock_step: Annotated[
        ClockStep | None,
        Meta(
            description=(
                "When the database's clock stepped last, in the new time, and by how many seconds:"
                " negative is back. Null if it never did."
            )
        ),
    ]
    queues: Annotated[
        list[Queue],
        Meta(
            description=(
                "`observed_through` is the least of those that are active or leaving, and of the"
                " bridges': the one that is furthest behind comes first."
            )
        ),
    ]
    bridges: Annotated[
        list[Bridge], Meta(description="The one that is furthest behind comes first.")
    ]
    processors: Annotated[
        list[Processor], Meta(description="Those that reported within five minutes.")
    ]
    guard: Annotated[
        list[FleetGuard] | None,
        Meta(
            description=(
                "Groups of which so much fell silent at once that their workers are held; null"
                f" without any. The {GUARDS_SHOWN} that hold the most."
            )
        ),
    ]
    guards_total: Annotated[int, Meta(description="How many groups are held.")]
    thresholds: Annotated[
        Thresholds,
        Meta(description="When silence counts, in seconds: the leading processor's settings."),
    ]


class AlertNumbers(msgspec.Struct):
    """Numbers of the alerts that are neither resolved nor part of another. Acknowledged alerts are
    counted apart."""

    critical: int
    warning: int
    info: int
    acknowledged: int


class System(msgspec.Struct):
    timestamp: datetime
    overall_status: OverallStatus
    workers: WorkerNumbers
    unwatched_workers: Annotated[
        int,
        Meta(
            description=(
                "Workers that report but never sent a heartbeat, though they had time: whether"
                f" they live is unknown. Counted up to {UNWATCHED_AT_MOST:,}."
            )
        ),
    ]
    groups: Annotated[
        list[GroupNumbers],
        Meta(description=f"The {GROUPS_SHOWN} largest groups, the largest first."),
    ]
    groups_total: Annotated[int, Meta(description="How many groups there are.")]
    servers: ServerNumbers
    alerts: AlertNumbers
    observation: ObservationQuality


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


class StatusInfo(msgspec.Struct):
    """ManMan's `ExternalStatusInfo`. Just one of the two ids is set."""

    class_name: Annotated[
        str, Meta(description="`worker` or `game_server_instance` if reported, else who concluded.")
    ]
    status_type: StatusType
    as_of: datetime
    status_info_id: Annotated[
        int, Meta(description="The transition's revision; -1 when it is no longer kept.")
    ]
    worker_id: int | None
    game_server_instance_id: int | None


class Ok(msgspec.Struct):
    status: Literal["ok"] = "ok"


def documented(
    shape: Any, *, media_type: str = "application/json", changes: bool = False
) -> dict[int, ResponseSpec]:
    """Describe a good answer for the schema. One that always `changes` is never answered by 304."""
    answers = {
        200: ResponseSpec(
            shape, generate_examples=False, description="As asked.", media_type=media_type
        )
    }
    if not changes:
        answers[304] = ResponseSpec(
            None,
            description=(
                "Nothing is new since the answer with this ETag but times and what processors"
                " counted."
            ),
        )
    return answers


def page_answer(
    page: Page | PastPage, *, kind: str, filters: msgspec.Struct, **times: datetime | None
) -> Answer:
    """`times` are fields beside `as_of` that, like it, leave the ETag as it is."""
    last_id = page.last_id
    cursor = None if last_id is None else write_cursor(kind, filters, last_id)
    content = {"items": [*map(msgspec.Raw, page.items)], "next_cursor": cursor}
    return _answer(content, page.observation, times)


def changes_answer(items: list[str], position: Position, observation: Observation) -> Answer:
    reached = msgspec.structs.replace(observation, epoch=position.epoch, revision=position.revision)
    return _answer({"items": [*map(msgspec.Raw, items)]}, reached, {})


def detail_answer(detail: Detail | PastDetail, **times: datetime | None) -> Answer:
    fields = msgspec.json.decode(detail.item, type=dict[str, msgspec.Raw])
    return _answer(fields, detail.observation, times)


def status_info_answer(detail: Detail) -> Answer:
    """The item alone: ManMan's shape has no place for anything else."""
    body = detail.item.encode()
    return Answer(body, lasting=body, lag_seconds=detail.observation.lag_seconds)


def _answer(
    content: Mapping[str, Any], observation: Observation | Moment, times: dict[str, datetime | None]
) -> Answer:
    if isinstance(observation, Moment):
        dated = {"is_blind": observation.is_blind, "as_of": observation.as_of}
        return _past_answer({**content, **dated}, observation)
    lasting = {**content, "revision": observation.revision, "epoch": observation.epoch}
    return Answer(
        msgspec.json.encode({**lasting, "as_of": observation.as_of, **times}),
        lasting=msgspec.json.encode(lasting),
        lag_seconds=observation.lag_seconds,
    )


def _past_answer(content: Any, moment: Moment) -> Answer:
    """The past does not change, once the transactions of then are over."""
    body = msgspec.json.encode(content)
    cache_control = SETTLED if moment.is_settled else b"no-cache"
    return Answer(body, lasting=body, lag_seconds=0.0, cache_control=cache_control)


def _alert_numbers(fleet: Fleet) -> AlertNumbers:
    numbers: Counter[str] = Counter()
    for _, severity, state, number in fleet.alerts:
        numbers[state if state == AlertState.ACKNOWLEDGED else severity] += number
    return AlertNumbers(**{name: numbers[name] for name in AlertNumbers.__struct_fields__})


def _group_numbers(fleet: Fleet) -> list[GroupNumbers]:
    sizes: Counter[str] = Counter()
    healths: dict[str, dict[str, int]] = defaultdict(dict)
    for group, health, number in fleet.workers:
        sizes[group] += number
        healths[group][health] = number
    largest = sorted(sizes, key=lambda group: (-sizes[group], group))
    return [GroupNumbers(group, **healths[group]) for group in largest]


def overall_of(fleet: Fleet) -> OverallStatus:
    health = fleet.workers_by_health
    return overall_status(
        fleet.observation.state,
        healthy=health[Health.HEALTHY],
        late=health[Health.LATE],
        unhealthy=health[Health.UNHEALTHY],
        unknown=health[Health.UNKNOWN],
    )


def system_answer(fleet: Fleet) -> Answer:
    observation = fleet.observation
    system = System(
        timestamp=observation.as_of,
        overall_status=overall_of(fleet),
        workers=WorkerNumbers(fleet.active_workers, **fleet.workers_by_health),
        unwatched_workers=fleet.unwatched_workers,
        groups=_group_numbers(fleet),
        groups_total=fleet.groups_total,
        servers=ServerNumbers(
            sum(fleet.servers_by_status[status] for status in ACTIVE), fleet.servers_by_status
        ),
        alerts=_alert_numbers(fleet),
        observation=ObservationQuality(
            state=observation.state,
            observed_through=None if observation.lag_seconds is None else observation.as_of,
            lag_seconds=observation.lag_seconds,
            reason=observation.doubt,
            clock_step=observation.clock_step,
            queues=msgspec.convert(fleet.queues, list[Queue]),
            bridges=msgspec.convert(fleet.bridges, list[Bridge]),
            processors=msgspec.convert(fleet.processors, list[Processor]),
            guard=msgspec.convert(fleet.guards, list[FleetGuard]) or None,
            guards_total=fleet.guards_total,
            thresholds=fleet.thresholds,
        ),
    )
    seen = system.observation
    running = [processor.processor_id for processor in seen.processors]
    numbers = (
        system.workers,
        system.unwatched_workers,
        system.groups,
        system.groups_total,
        system.servers,
        system.alerts,
    )
    lasting = msgspec.json.encode(
        (
            system.overall_status,
            numbers,
            seen.state,
            seen.reason,
            seen.clock_step,
            seen.guard,
            running,
        )
    )
    return Answer(msgspec.json.encode(system), lasting=lasting, lag_seconds=observation.lag_seconds)


def past_system_answer(fleet: PastFleet, moment: Moment) -> Answer:
    active, lost = sum(fleet.workers[status] for status in ACTIVE), fleet.workers[StatusType.LOST]
    state = ObservationState.BLIND if moment.is_blind else ObservationState.OK
    system = PastSystem(
        timestamp=moment.as_of,
        overall_status=overall_status(state, healthy=active, late=0, unhealthy=lost, unknown=0),
        workers=PastWorkerNumbers(active, lost, sum(fleet.workers[status] for status in TERMINAL)),
        servers=ServerNumbers(sum(fleet.servers[status] for status in ACTIVE), fleet.servers),
        is_blind=moment.is_blind,
    )
    return _past_answer(system, moment)
