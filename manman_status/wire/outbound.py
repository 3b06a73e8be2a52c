"""Messages that the processor publishes: status changes, in the shape of ManMan's
`ExternalStatusInfo`, and alerts."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Protocol, TypeAlias

import msgspec
from msgspec import Meta

from manman_status.domain.alert import AlertState, NotifiedAlert, Severity
from manman_status.domain.status import CONCLUDED, CONCLUDED_BY, Entity, Reason, StatusType

Time: TypeAlias = Annotated[datetime, Meta(tz=True)]


class StatusChange(msgspec.Struct, tag_field="entity_type", kw_only=True):
    """ManMan's `ExternalStatusInfo`, with `at`, `old_status`, `reason` and `evidence` beside."""

    identifier: str
    status_type: StatusType
    as_of: Annotated[
        Time,
        Meta(
            description=(
                "The time that the report has, else that of the processor; later than in every"
                " message before about the same entity."
            )
        ),
    ]
    at: Annotated[Time, Meta(description="The time at which the change was stored.")]
    status_info_id: Annotated[int, Meta(description="The transition's revision.")]
    old_status: StatusType | None
    reason: Reason
    evidence: Annotated[dict[str, Any], Meta(description="Whatever decided it.")]


class WorkerChange(StatusChange, tag="worker", kw_only=True):
    """The status of a worker has changed."""

    class_name: Annotated[
        Literal["worker", "StatusEventProcessor"],
        Meta(description="The entity when it was reported, else who concluded it."),
    ]
    worker_id: int


class ServerChange(StatusChange, tag="game_server_instance", kw_only=True):
    """The status of a server instance has changed."""

    class_name: Annotated[
        Literal["game_server_instance", "StatusEventProcessor"],
        Meta(description="The entity when it was reported, else who concluded it."),
    ]
    game_server_instance_id: int


class Alert(msgspec.Struct, kw_only=True):
    """An alert as it is now."""

    alert_id: int
    key: str
    rule: str
    severity: Severity
    state: AlertState
    version: Annotated[int, Meta(description="Counts its changes.")]
    summary: str
    group: Annotated[
        str | None,
        Meta(description="Null when it is of no one group, empty for the workers without one."),
    ]
    worker_id: int | None
    instance_id: int | None
    game_server_config_id: int | None
    part_of: Annotated[int | None, Meta(description="The alert that is its cause.")]
    silenced_by: str | None
    evidence: dict[str, Any]
    opened_at: Time
    acknowledged_at: Time | None
    acknowledged_by: str | None
    resolved_at: Time | None
    resolution: str | None


class StatusMessage(msgspec.Struct, frozen=True):
    """A message about a status change or an alert, ready to be published.

    `message_id` is epoch and revision, or alert and version, so that a repetition can be known.
    """

    routing_key: str
    body: bytes
    message_id: str
    timestamp: datetime
    traceparent: str | None = None


class Publish(Protocol):
    """A publisher of status changes and alerts."""

    async def __call__(self, message: StatusMessage) -> None:
        """Return once the broker has confirmed it. Raises BrokerUnavailable: then it may have
        arrived all the same."""


def status_message(
    *,
    epoch: str,
    revision: int,
    at: datetime,
    as_of: datetime,
    entity: Entity,
    entity_id: int,
    old_status: StatusType | None,
    new_status: StatusType,
    reason: Reason,
    evidence: dict[str, Any],
    traceparent: str | None = None,
) -> StatusMessage:
    """Build the message about one transition."""
    change: dict[str, Any] = {
        "identifier": str(entity_id),
        "status_type": new_status,
        "as_of": as_of,
        "at": at,
        "status_info_id": revision,
        "old_status": old_status,
        "reason": reason,
        "evidence": evidence,
        "class_name": CONCLUDED_BY if reason in CONCLUDED else entity,
    }
    # ManMan's model refuses a message that has both of these ids.
    body = (
        WorkerChange(worker_id=entity_id, **change)
        if entity == Entity.WORKER
        else ServerChange(game_server_instance_id=entity_id, **change)
    )
    return StatusMessage(
        f"{entity}.{entity_id}.status",
        msgspec.json.encode(body),
        f"{epoch}-{revision}",
        at,
        traceparent,
    )


def alert_message(alert: NotifiedAlert) -> StatusMessage:
    """Build the message about an alert as it is now."""
    body = Alert(
        alert_id=alert.alert_id,
        key=alert.key,
        rule=alert.rule,
        severity=alert.severity,
        state=alert.state,
        version=alert.version,
        summary=alert.summary,
        group=alert.subject.group,
        worker_id=alert.subject.worker_id,
        instance_id=alert.subject.instance_id,
        game_server_config_id=alert.subject.game_server_config_id,
        part_of=alert.part_of,
        silenced_by=alert.silenced_by,
        evidence=alert.evidence,
        opened_at=alert.opened_at,
        acknowledged_at=alert.acknowledged_at,
        acknowledged_by=alert.acknowledged_by,
        resolved_at=alert.resolved_at,
        resolution=alert.resolution,
    )
    return StatusMessage(
        f"alert.{alert.severity}.{alert.rule}",
        msgspec.json.encode(body),
        f"alert-{alert.alert_id}-{alert.version}",
        alert.since,
    )
