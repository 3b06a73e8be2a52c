"""Transitions to messages on the outbound exchange, in the shape of ManMan's `ExternalStatusInfo`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from manman_status.domain.status import INFERRED, Entity

CONCLUDED = "StatusEventProcessor"
"""What ManMan's own status processor names as the `class_name` of what it concluded by itself; what was reported to
it has the entity there."""


class StatusMessage(msgspec.Struct, frozen=True):
    """`message_id` is the revision: the same transition, sent again, is the same message."""

    routing_key: str
    body: bytes
    message_id: str
    timestamp: datetime
    traceparent: str | None = None


def status_message(
    *,
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
        "class_name": CONCLUDED if reason in INFERRED else entity,
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
    return StatusMessage(f"{entity}.{entity_id}.status", msgspec.json.encode(body), str(revision), at, traceparent)
