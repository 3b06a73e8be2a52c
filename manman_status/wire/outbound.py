"""Transitions to messages on the outbound exchange, in the shape of ManMan's
`ExternalStatusInfo`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from manman_status.domain.alert import NotifiedAlert
from manman_status.domain.status import CONCLUDED as CONCLUDED_REASONS
from manman_status.domain.status import Entity

CONCLUDED = "StatusEventProcessor"
"""What ManMan's own status processor names as the `class_name` of what it concluded by itself; what
was reported to it has the entity there."""


class StatusMessage(msgspec.Struct, frozen=True):
    """`message_id` is epoch and revision, or alert and version: the same news, sent again, is the
    same message."""

    routing_key: str
    body: bytes
    message_id: str
    timestamp: datetime
    traceparent: str | None = None


def status_message(
    *,
    epoch: str,
    revision: int,
    at: datetime,
    entity: str,
    entity_id: int,
    old_status: str | None,
    new_status: str,
    reason: str,
    evidence: dict[str, Any],
    traceparent: str | None = None,
) -> StatusMessage:
    """The message that tells of one transition."""
    body = {
        "class_name": CONCLUDED if reason in CONCLUDED_REASONS else entity,
        "entity_type": entity,
        "identifier": str(entity_id),
        "status_type": new_status,
        "as_of": at,
        # ManMan's model refuses a message that has both of these.
        "worker_id" if entity == Entity.WORKER else "game_server_instance_id": entity_id,
        "status_info_id": revision,
        "old_status": old_status,
        "reason": reason,
        "evidence": evidence,
    }
    message_id = f"{epoch}-{revision}"
    return StatusMessage(
        f"{entity}.{entity_id}.status", msgspec.json.encode(body), message_id, at, traceparent
    )


def alert_message(alert: NotifiedAlert) -> StatusMessage:
    """The message that tells how an alert is now."""
    subject = alert.subject
    body = {
        "alert_id": alert.alert_id,
        "key": alert.key,
        "rule": alert.rule,
        "severity": alert.severity,
        "state": alert.state,
        "version": alert.version,
        "summary": alert.summary,
        "group": subject.group,
        "worker_id": subject.worker_id,
        "instance_id": subject.instance_id,
        "game_server_config_id": subject.game_server_config_id,
        "part_of": alert.part_of,
        "silenced_by": alert.silenced_by,
        "evidence": alert.evidence,
        "opened_at": alert.opened_at,
        "acknowledged_at": alert.acknowledged_at,
        "acknowledged_by": alert.acknowledged_by,
        "resolved_at": alert.resolved_at,
        "resolution": alert.resolution,
    }
    key = f"alert.{alert.severity}.{alert.rule}"
    return StatusMessage(
        key, msgspec.json.encode(body), f"alert-{alert.alert_id}-{alert.version}", alert.since
    )
