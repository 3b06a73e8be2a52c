from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from manman_status.domain.status import Entity, Reason, StatusType
from manman_status.wire.outbound import status_message

AT = datetime(2026, 11, 23, 8, 0, 0, 500_000, tzinfo=UTC)
AS_OF = datetime(2026, 11, 23, 7, 0, tzinfo=UTC)


def transition(**changes: Any) -> Any:
    given = {
        "epoch": "0a1b2c3d",
        "revision": 41,
        "at": AT,
        "as_of": AS_OF,
        "entity": Entity.WORKER,
        "entity_id": 7,
        "old_status": None,
        "new_status": StatusType.RUNNING,
        "reason": Reason.REPORTED,
        "evidence": {},
    }
    return given | changes


def body(**changes: Any) -> Any:
    return json.loads(status_message(**transition(**changes)).body)


def test_worker_transition_has_all_that_consumers_read() -> None:
    """ManMan's consumers find every field that they read, and why."""
    message = status_message(
        **transition(
            old_status="RUNNING",
            new_status="LOST",
            reason="heartbeat_expired",
            evidence={"deadline": "x"},
        )
    )
    assert message.routing_key == "worker.7.status"
    assert json.loads(message.body) == {
        "class_name": "StatusEventProcessor",
        "entity_type": "worker",
        "identifier": "7",
        "status_type": "LOST",
        "as_of": "2026-11-23T07:00:00Z",
        "at": "2026-11-23T08:00:00.500000Z",
        "worker_id": 7,
        "status_info_id": 41,
        "old_status": "RUNNING",
        "reason": "heartbeat_expired",
        "evidence": {"deadline": "x"},
    }


def test_message_id_is_the_revision() -> None:
    message = status_message(**transition(revision=2**63 - 1))
    assert message.message_id == "0a1b2c3d-9223372036854775807"
    assert message.timestamp == AT


def test_server_transition_names_the_instance_alone() -> None:
    message = status_message(**transition(entity="game_server_instance", entity_id=31))
    assert message.routing_key == "game_server_instance.31.status"
    sent = json.loads(message.body)
    assert sent["game_server_instance_id"] == 31
    assert "worker_id" not in sent


@pytest.mark.parametrize("entity", list(Entity))
@pytest.mark.parametrize(
    "reason", [Reason.REPORTED, Reason.GRACEFUL, Reason.EXIT_CODE, Reason.RECOVERED]
)
def test_what_was_reported_carries_its_entity_as_class_name(entity: Any, reason: Any) -> None:
    assert body(entity=entity, reason=reason)["class_name"] == entity


@pytest.mark.parametrize(
    "reason",
    [
        Reason.HEARTBEAT_EXPIRED,
        Reason.WORKER_LOST,
        Reason.MISSING_FROM_INVENTORY,
        Reason.SUPERSEDED,
    ],
)
def test_conclusion_carries_the_status_processor_s_class(reason: Any) -> None:
    assert body(reason=reason)["class_name"] == "StatusEventProcessor"


def test_a_first_status_has_no_old_one() -> None:
    assert body(old_status=None)["old_status"] is None
