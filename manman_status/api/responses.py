"""What an answer looks like, and how it is sent. The structs are the documented shapes; a test decodes into them
what PostgreSQL wrote."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from litestar.openapi.datastructures import ResponseSpec
from litestar.response.base import ASGIResponse

from manman_status.api.cursors import write_cursor
from manman_status.domain.fleet import ObservationState, OverallStatus, overall_status
from manman_status.domain.status import ACTIVE, Entity, Health, Reason, StatusType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from litestar import Request

    from manman_status.store.details import Detail
    from manman_status.store.health import Observation
    from manman_status.store.reads import Page
    from manman_status.store.system_reads import Fleet


class Transition(msgspec.Struct):
    revision: int
    at: datetime
    entity: Entity
    entity_id: int
    old_status: StatusType | None
    new_status: StatusType
    reason: Reason
    evidence: dict[str, Any]


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
    as_of: datetime


class ServerInstanceList(msgspec.Struct):
    items: list[ServerInstance]
    next_cursor: str | None
    revision: int
    as_of: datetime


class WorkerDetail(Worker):
    """Its server instances are all that are active and the newest that ended, its transitions the newest."""

    server_instances: list[ServerInstance]
    transitions: list[Transition]
    revision: int
    as_of: datetime


class ServerInstanceDetail(ServerInstance):
    transitions: list[Transition]
    revision: int
    as_of: datetime


class WorkerNumbers(msgspec.Struct):
    total_active: int
    healthy: int
    late: int
    unhealthy: int
    unknown: int
    terminated: int


class ServerNumbers(msgspec.Struct):
    total_active: int
    by_status: dict[StatusType, int]


class ObservationQuality(msgspec.Struct):
    state: ObservationState
    observed_through: datetime
    lag_seconds: float
    processors: list[dict[str, Any]]
    guard: dict[str, Any] | None


class System(msgspec.Struct):
    timestamp: datetime
    overall_status: OverallStatus
    workers: WorkerNumbers
    servers: ServerNumbers
    observation: ObservationQuality


class Ok(msgspec.Struct):
    status: Literal["ok"] = "ok"


def documented(shape: Any, *, media_type: str = "application/json", changes: bool = False) -> dict[int, ResponseSpec]:
    """For the schema: what comes when all is well. What always `changes` is never answered by 304."""
    answers = {200: ResponseSpec(shape, generate_examples=False, description="As asked.", media_type=media_type)}
    if not changes:
        answers[304] = ResponseSpec(None, description="Nothing but `as_of` is new since the answer with this ETag.")
    return answers


class Answer(msgspec.Struct, frozen=True):
    """Ready to send. Whoever has the `etag` has all of the body but the time it is of."""

    body: bytes
    etag: str
    age_seconds: int


def page_answer(page: Page, *, kind: str, filters: msgspec.Struct) -> Answer:
    cursor = "null" if page.last_id is None else f'"{write_cursor(kind, filters, page.last_id)}"'
    return _dated(f'{{"items":[{",".join(page.items)}],"next_cursor":{cursor}', page.observation)


def detail_answer(detail: Detail) -> Answer:
    return _dated(detail.item.removesuffix("}"), detail.observation)


def _dated(content: str, observation: Observation) -> Answer:
    """`content` is a JSON object without its end."""
    lasting = f'{content},"revision":{observation.revision}'.encode()
    as_of = msgspec.json.encode(observation.observed_through)
    return Answer(b'%b,"as_of":%b}' % (lasting, as_of), _etag(lasting), int(observation.lag_seconds))


def system_answer(fleet: Fleet) -> Answer:
    health, observation = fleet.workers_by_health, fleet.observation
    system = System(
        timestamp=observation.observed_through,
        overall_status=overall_status(
            healthy=health[Health.HEALTHY],
            late=health[Health.LATE],
            unhealthy=health[Health.UNHEALTHY],
            unknown=health[Health.UNKNOWN],
        ),
        workers=WorkerNumbers(fleet.active_workers, **health),
        servers=ServerNumbers(sum(fleet.servers_by_status[status] for status in ACTIVE), fleet.servers_by_status),
        observation=ObservationQuality(
            state=ObservationState.OK,
            observed_through=observation.observed_through,
            lag_seconds=observation.lag_seconds,
            processors=[],
            guard=None,
        ),
    )
    lasting = msgspec.json.encode((system.overall_status, system.workers, system.servers, system.observation.state))
    return Answer(msgspec.json.encode(system), _etag(lasting), int(observation.lag_seconds))


def _etag(lasting: bytes) -> str:
    return f'W/"{hashlib.sha256(lasting).hexdigest()[:32]}"'


def respond(request: Request[Any, Any, Any], answer: Answer) -> ASGIResponse:
    """304 without a body to an asker who has it already."""
    headers = {"etag": answer.etag, "age": str(answer.age_seconds), "cache-control": "no-cache"}
    if _has(answer.etag, request.headers.getall("if-none-match", [])):
        return ASGIResponse(status_code=304, headers=headers)
    return ASGIResponse(body=answer.body, media_type="application/json", headers=headers)


def _has(etag: str, given: Iterable[str]) -> bool:
    """Weak comparison, as RFC 9110 asks for it in If-None-Match."""
    tags = {tag.strip().removeprefix("W/") for line in given for tag in line.split(",")}
    return "*" in tags or etag.removeprefix("W/") in tags
