"""Words of the page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from manman_status.api.page.words import clock, server_why, span, transition_why, worker_why
from manman_status.api.responses import ServerInstance, Transition, Worker
from manman_status.domain.status import Entity, Health, Reason, StatusType

NOW = datetime(2026, 11, 24, 12, 4, 0, tzinfo=UTC)
RECEIVED = datetime(2026, 11, 24, 12, 3, 20, tzinfo=UTC)
SILENCE = {
    "last_heartbeat": RECEIVED.isoformat(),
    "observed_through": (RECEIVED + timedelta(seconds=32)).isoformat(),
}


def worker(
    health: Any, status: Any = StatusType.RUNNING, reason: Any = Reason.REPORTED, **fields: Any
) -> Any:
    plausible: dict[str, Any] = {
        "worker_id": 7,
        "created_date": NOW,
        "end_date": None,
        "last_heartbeat": RECEIVED,
        "is_healthy": health is Health.HEALTHY,
        "status_since": NOW - timedelta(minutes=5),
        "evidence": {},
        "interval_seconds": 10.0,
        "deadline": RECEIVED + timedelta(seconds=30),
        "labels": {},
        "active_servers": 0,
    }
    return Worker(health=health, status=status, reason=reason, **(plausible | fields))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (worker(Health.HEALTHY), "Heard at 12:03:20; beats every 10 s."),
        (
            worker(Health.HEALTHY, reason=Reason.RECOVERED),
            (
                "Came back at 11:59:00 after it had been taken for lost. Heard at 12:03:20; beats"
                " every 10 s."
            ),
        ),
        (
            worker(Health.LATE, deadline=NOW + timedelta(seconds=5)),
            (
                "Silent since 12:03:20; four beats of 10 s missed. Lost when nothing is heard until"
                " 12:04:05."
            ),
        ),
        (
            worker(Health.LATE),
            (
                "Silent since 12:03:20; four beats of 10 s missed. Not given up: we were away"
                " ourselves until just now."
            ),
        ),
        (
            worker(Health.UNHEALTHY),
            (
                "Silent since 12:03:20; four beats of 10 s missed. Overdue; the next sweep gives it"
                " up, or a guard holds."
            ),
        ),
        (
            worker(Health.UNHEALTHY, StatusType.LOST, Reason.HEARTBEAT_EXPIRED, evidence=SILENCE),
            (
                "Silent since 12:03:20; three beats of 10 s missed; heard everything else until"
                " 12:03:52."
            ),
        ),
        (
            worker(Health.UNKNOWN, last_heartbeat=None),
            (
                "Has never sent a heartbeat, so its silence means nothing: known only from what was"
                " reported of it."
            ),
        ),
        (
            worker(Health.UNKNOWN),
            (
                "Nobody has listened since 12:04:00, so nothing is known of it now. Last heard at"
                " 12:03:20."
            ),
        ),
        (
            worker(
                Health.TERMINATED,
                StatusType.COMPLETE,
                Reason.GRACEFUL,
                end_date=NOW - timedelta(days=1),
            ),
            "Stopped in order at 23 Nov 2026, 12:04:00.",
        ),
    ],
)
def test_why_a_worker_is_as_it_is(given: Any, words: Any) -> None:
    assert worker_why(given, NOW) == words


@pytest.mark.parametrize(
    ("status", "reason", "evidence", "words"),
    [
        (StatusType.RUNNING, Reason.REPORTED, {}, "Running since 12:03:20."),
        (
            StatusType.RUNNING,
            Reason.REPORTED,
            {"reported_as": "stopping"},
            "Running since 12:03:20. Its host reports it as stopping.",
        ),
        (StatusType.LOST, Reason.REPORTED, {}, "Reported as lost at 12:03:20."),
        (StatusType.RUNNING, Reason.RECOVERED, {}, "Its worker told of it again at 12:03:20."),
        (StatusType.COMPLETE, Reason.GRACEFUL, {}, "Stopped in order at 12:03:20."),
        (
            StatusType.CRASHED,
            Reason.EXIT_CODE,
            {"exit_code": 137},
            "Ended at 12:03:20 with exit code 137.",
        ),
        (
            StatusType.LOST,
            Reason.WORKER_LOST,
            SILENCE,
            "Its worker fell silent at 12:03:20 and was lost at 12:03:20.",
        ),
        (
            StatusType.LOST,
            Reason.WORKER_LOST,
            {},
            "Its worker ended without a word of it; lost at 12:03:20.",
        ),
        (
            StatusType.CRASHED,
            Reason.MISSING_FROM_INVENTORY,
            {"missing_since": RECEIVED.isoformat()},
            "Its worker lists it no longer since 12:03:20, and reported no end.",
        ),
        (StatusType.CRASHED, Reason.SUPERSEDED, {}, "Its worker began anew without it."),
    ],
)
def test_why_a_server_instance_is_as_it_is(
    status: Any, reason: Any, evidence: Any, words: Any
) -> None:
    is_active = status is StatusType.RUNNING
    assert (
        server_why(
            ServerInstance(1, 7, None, NOW, None, status, is_active, RECEIVED, reason, evidence),
            NOW,
        )
        == words
    )


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_of_a_change_has_words(reason: Any) -> None:
    change = Transition(
        1, NOW, NOW, Entity.WORKER, 7, None, StatusType.LOST, reason, SILENCE | {"exit_code": 3}
    )
    assert transition_why(change)
    assert "_" not in transition_why(change)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0.0 s"),
        (0.44, "0.4 s"),
        (3.9, "3 s"),
        (60, "1 min"),
        (250, "4 min 10 s"),
        (3600 + 59, "1 h"),
        (2 * 86_400 + 3 * 3600 + 5, "2 d 3 h"),
    ],
)
def test_span_is_shown_in_its_two_greatest_units(seconds: float, words: Any) -> None:
    assert span(seconds) == words


def test_a_time_has_its_day_when_that_is_another() -> None:
    assert clock(NOW, RECEIVED) == "12:04:00"
    assert clock(NOW - timedelta(days=1), NOW) == "23 Nov 2026, 12:04:00"
