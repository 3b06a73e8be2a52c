"""The ordering contract, one behaviour a test."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from manman_status.domain.conclusions import crash_missing, lose_worker
from manman_status.domain.events import (
    ServerStarted,
    ServerStatusReported,
    ServerStopped,
    WorkerStarted,
    WorkerStatusReported,
    WorkerStopped,
    microseconds,
)
from manman_status.domain.merge import merge
from manman_status.domain.rows import Receipt, Rows
from manman_status.domain.status import Entity, Reason, StatusType
from manman_status.domain.status_info import REMEMBERED
from tests.builders import BASE, START, heartbeat, inventory

LATER = BASE + 1_000_000  # the next incarnation
INSTANCE = 31


class History:
    """Events and conclusions, one a second, applied to one set of rows."""

    def __init__(self, *events: Any) -> None:
        self.rows = Rows()
        self.seconds = 0
        for event in events:
            self.take(event)

    @property
    def now(self) -> Any:
        return START + timedelta(seconds=self.seconds)

    def take(self, event: Any) -> Any:
        self.seconds += 1
        merge(self.rows, event, Receipt(self.now, microseconds(self.now)))
        return self

    def lose(self) -> Any:
        self.seconds += 1
        lose_worker(self.rows, self.worker, self.now, {"deadline": "passed"})
        return self

    def crash_missing(self) -> Any:
        self.seconds += 1
        crash_missing(self.rows, self.instance, self.now, {"deadline": "passed"})
        return self

    @property
    def worker(self) -> Any:
        return self.rows.workers[1]

    @property
    def instance(self) -> Any:
        return self.rows.instances[INSTANCE]

    @property
    def statuses(self) -> tuple[Any, Any]:
        """Published statuses of the worker and of its instance."""
        published: dict[Entity, list[Any]] = {Entity.WORKER: [], Entity.SERVER_INSTANCE: []}
        for transition in self.rows.transitions:
            published[transition.entity].append(
                (str(transition.new_status), str(transition.reason))
            )
        return published[Entity.WORKER], published[Entity.SERVER_INSTANCE]


def counted(seq: Any, incarnation: Any = BASE) -> dict[str, Any]:
    return {"incarnation": incarnation, "seq": seq}


def beat(seq: Any, *servers: Any, incarnation: Any = BASE) -> Any:
    return heartbeat(servers=inventory(*servers), **counted(seq, incarnation))


def up(seq: Any, incarnation: Any = BASE) -> Any:
    return ServerStarted(worker_id=1, instance_id=INSTANCE, **counted(seq, incarnation))


def down(seq: Any, code: Any = None, incarnation: Any = BASE) -> Any:
    return ServerStopped(
        worker_id=1, instance_id=INSTANCE, exit_code=code, **counted(seq, incarnation)
    )


def status(entity: Any) -> tuple[Any, Any]:
    return entity.status, entity.reason


RUNNING = StatusType.RUNNING, Reason.REPORTED
RECOVERED = StatusType.RUNNING, Reason.RECOVERED
STOPPED = StatusType.COMPLETE, Reason.GRACEFUL


def test_a_reported_end_absorbs_everything_after_it() -> None:
    history = History(up(1), down(2, code=1), up(3), beat(4, INSTANCE), down(5, code=0))
    assert status(history.instance) == (StatusType.CRASHED, Reason.EXIT_CODE)
    assert history.instance.evidence == {"exit_code": 1}
    assert history.statuses[1] == [("RUNNING", "reported"), ("CRASHED", "exit_code")]


@pytest.mark.parametrize(
    ("code", "end", "evidence"),
    [
        (None, STOPPED, {}),
        (0, STOPPED, {"exit_code": 0}),
        (137, (StatusType.CRASHED, Reason.EXIT_CODE), {"exit_code": 137}),
        (-9, (StatusType.CRASHED, Reason.EXIT_CODE), {"exit_code": -9}),
    ],
)
def test_the_exit_code_decides_how_an_instance_ended(code: Any, end: Any, evidence: Any) -> None:
    history = History(down(1, code))
    assert (status(history.instance), history.instance.evidence) == (end, evidence)
    assert history.instance.end_date == history.now


def test_the_first_of_two_ends_stands_even_when_it_comes_last() -> None:
    assert History(down(5, code=0), down(2, code=1)).instance.exit_code == 1


def test_an_older_incarnation_cannot_revive_a_worker() -> None:
    history = History(beat(9, incarnation=LATER), WorkerStopped(worker_id=1, **counted(10, LATER)))
    history.take(beat(99)).take(WorkerStarted(worker_id=1, **counted(100)))
    assert status(history.worker) == STOPPED
    assert history.statuses[0] == [("RUNNING", "reported"), ("COMPLETE", "graceful")]


def test_an_older_incarnation_cannot_lift_lost() -> None:
    history = History(beat(1, incarnation=LATER)).lose().take(beat(99))
    assert status(history.worker) == (StatusType.LOST, Reason.HEARTBEAT_EXPIRED)


def test_an_older_incarnation_cannot_revive_its_servers() -> None:
    history = (
        History(beat(1, INSTANCE), beat(1, incarnation=LATER))
        .crash_missing()
        .take(beat(2, INSTANCE))
        .take(up(3))
    )
    assert status(history.instance) == (StatusType.CRASHED, Reason.SUPERSEDED)


def test_a_stale_beat_does_not_renew_the_deadline() -> None:
    history = History(beat(5))
    received = history.worker.last_heartbeat
    assert history.take(beat(4)).worker.last_heartbeat == received
    assert history.take(beat(6)).worker.last_heartbeat == history.now


def test_a_beat_that_was_stored_late_takes_nothing_back() -> None:
    rows = Rows()
    for seconds in (10, 3):
        merge(rows, heartbeat(), Receipt(START + timedelta(seconds=seconds), BASE + seconds))
    assert rows.workers[1].last_heartbeat == START + timedelta(seconds=10)


def test_a_heartbeat_lifts_lost() -> None:
    history = History(beat(1)).lose()
    lost_at = history.now
    history.take(beat(2))
    assert status(history.worker) == RECOVERED
    assert history.worker.evidence == {
        "incarnation": BASE,
        "was": Reason.HEARTBEAT_EXPIRED,
        "since": lost_at,
    }
    assert history.worker.status_since == history.worker.last_heartbeat == history.now


def test_a_repeated_heartbeat_does_not_lift_lost() -> None:
    assert History(beat(1)).lose().take(beat(1)).worker.status is StatusType.LOST


def test_inventory_recovers_instances_of_a_lost_worker() -> None:
    history = History(beat(1, INSTANCE)).lose()
    assert status(history.instance) == (StatusType.LOST, Reason.WORKER_LOST)
    assert history.instance.evidence == {"worker_id": 1, "deadline": "passed"}
    assert history.instance.end_date is None
    assert status(history.take(beat(2, INSTANCE)).instance) == RECOVERED
    assert history.statuses[1] == [
        ("RUNNING", "reported"),
        ("LOST", "worker_lost"),
        ("RUNNING", "recovered"),
    ]


def test_an_ended_instance_is_not_lost_with_its_worker() -> None:
    assert status(History(up(1), down(2), beat(3)).lose().instance) == STOPPED


def test_heartbeat_without_inventory_recovers_instances() -> None:
    history = History(up(1), heartbeat(**counted(2))).lose().take(heartbeat(**counted(3)))
    assert status(history.instance) == RECOVERED


def test_new_life_without_inventory_recovers_no_instance() -> None:
    history = History(up(1), heartbeat(**counted(2))).lose().take(heartbeat(**counted(1, LATER)))
    assert status(history.worker) == RECOVERED
    assert history.instance.status is StatusType.LOST


def test_instance_unlisted_at_recovery_is_missing() -> None:
    history = History(beat(1, INSTANCE)).lose().take(beat(2))
    assert history.instance.status is StatusType.LOST
    assert history.instance.missing_since == history.now


def test_a_late_end_replaces_an_inferred_one() -> None:
    history = History(beat(1, INSTANCE), beat(3)).crash_missing()
    assert status(history.instance) == (StatusType.CRASHED, Reason.MISSING_FROM_INVENTORY)
    assert status(history.take(down(2)).instance) == STOPPED
    assert [published for published, _ in history.statuses[1]] == ["RUNNING", "CRASHED", "COMPLETE"]


def test_a_late_end_replaces_lost() -> None:
    history = History(beat(2, INSTANCE)).lose()
    history.take(WorkerStopped(worker_id=1, **counted(1))).take(down(1, code=2))
    assert status(history.worker) == STOPPED
    assert status(history.instance) == (StatusType.CRASHED, Reason.EXIT_CODE)
    assert history.worker.end_date is not None


def test_listed_instance_runs_before_its_start_arrives() -> None:
    history = History(beat(2, INSTANCE))
    assert status(history.instance) == RUNNING
    assert history.instance.worker_id == 1
    assert len(history.take(up(1)).rows.transitions) == 2  # one of the worker, one of the instance


def test_unlisted_instance_is_missing_from_then_on() -> None:
    history = History(beat(1, INSTANCE), beat(2))
    assert (status(history.instance), history.instance.missing_since) == (RUNNING, history.now)
    since = history.now
    assert history.take(beat(3)).instance.missing_since == since


def test_an_instance_that_is_listed_again_is_not_missing() -> None:
    assert History(beat(1, INSTANCE), beat(2), beat(3, INSTANCE)).instance.missing_since is None


def test_differing_inventories_hide_no_missing_instance() -> None:
    """Two processes repeat one incarnation. What the ended one listed last removes the mark, and
    the living one's next inventory, which says what it said before, sets it again."""
    history = History(beat(2, INSTANCE), beat(3), beat(3, INSTANCE))
    assert history.instance.missing_since is None
    assert history.take(beat(4)).instance.missing_since == history.now


def test_late_inventory_removes_nothing() -> None:
    assert History(beat(1), up(3), beat(2)).instance.missing_since is None
    assert History(beat(3, INSTANCE), beat(2)).instance.missing_since is None


def test_a_late_start_of_what_is_no_longer_listed_is_missing() -> None:
    history = History(beat(2), up(1))
    assert (status(history.instance), history.instance.missing_since) == (RUNNING, history.now)


def test_a_missing_instance_that_is_listed_after_all_recovers() -> None:
    history = History(beat(1, INSTANCE), beat(2)).crash_missing().take(beat(3, INSTANCE))
    assert status(history.instance) == RECOVERED
    assert (history.instance.end_date, history.instance.missing_since) == (None, None)


def test_a_new_incarnation_supersedes_what_it_does_not_list() -> None:
    history = History(beat(1, INSTANCE), beat(1, incarnation=LATER)).crash_missing()
    assert status(history.instance) == (StatusType.CRASHED, Reason.SUPERSEDED)


def test_a_heartbeat_without_servers_says_nothing_about_them() -> None:
    assert History(beat(1, INSTANCE), heartbeat(**counted(2))).instance.missing_since is None


def test_an_instance_of_one_worker_is_not_missed_by_another() -> None:
    history = History(beat(1, INSTANCE), heartbeat(worker=2, servers=inventory(), **counted(5)))
    assert history.instance.missing_since is None


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(WorkerStarted(worker_id=1), id="undated"),
        pytest.param(WorkerStarted(worker_id=1, **counted(1, LATER)), id="of a later incarnation"),
    ],
)
def test_worker_started_begins_a_new_life(start: Any) -> None:
    history = History(beat(1), WorkerStopped(worker_id=1, sent_at=BASE + 1, **counted(2)), start)
    assert status(history.worker) == RUNNING
    assert history.worker.end_date is None
    assert history.worker.last_heartbeat == history.now
    assert history.statuses[0] == [
        ("RUNNING", "reported"),
        ("COMPLETE", "graceful"),
        ("RUNNING", "reported"),
    ]


@pytest.mark.parametrize(
    "late", [heartbeat(), beat(3), up(3), WorkerStarted(worker_id=1, **counted(3))]
)
def test_a_heartbeat_alone_does_not_begin_a_new_life(late: Any) -> None:
    history = History(beat(1), WorkerStopped(worker_id=1, **counted(2)), late)
    assert status(history.worker) == STOPPED


def test_a_heartbeat_alone_does_not_end_a_reported_end_by_time() -> None:
    history = History(
        heartbeat(), WorkerStatusReported(worker_id=1, status=StatusType.CRASHED), heartbeat()
    )
    assert status(history.worker) == (StatusType.CRASHED, Reason.REPORTED)


@pytest.mark.parametrize("begins", [beat(1, incarnation=LATER), up(1, incarnation=LATER)])
def test_any_event_of_a_later_incarnation_begins_a_new_life(begins: Any) -> None:
    history = History(beat(1), WorkerStopped(worker_id=1, **counted(2)), begins)
    assert status(history.worker) == RUNNING
    assert history.worker.evidence == {"incarnation": LATER}


def info(status: Any, at: Any) -> Any:
    return WorkerStatusReported(worker_id=1, status=status, sent_at=at)


SECOND = 1_000_000


@pytest.mark.parametrize(("as_of", "alive"), [(BASE - 1, False), (BASE, True), (BASE + 1, True)])
def test_status_info_dated_after_the_end_begins_a_life(as_of: Any, alive: Any) -> None:
    history = History(info(StatusType.COMPLETE, BASE), info(StatusType.INITIALIZING, as_of))
    assert history.worker.status is (StatusType.INITIALIZING if alive else StatusType.COMPLETE)


@pytest.mark.parametrize("back", [1, SECOND])
def test_status_info_dated_back_a_little_counts_in_order(back: Any) -> None:
    """Also an end: it was sent after what it is dated before."""
    statuses = [
        StatusType.CREATED,
        StatusType.INITIALIZING,
        StatusType.RUNNING,
        StatusType.COMPLETE,
    ]
    dates = [BASE + back, BASE + back, BASE, BASE + 1]
    history = History(*map(info, statuses, dates))
    assert [status for status, _ in history.statuses[0]] == statuses
    assert history.worker.evidence == {"as_of": "2023-11-14T22:13:20.000001Z"}  # as it was sent


@pytest.mark.parametrize("old", [StatusType.INITIALIZING, StatusType.COMPLETE])
def test_status_info_that_is_dated_long_before_changes_nothing(old: Any) -> None:
    history = History(info(StatusType.RUNNING, BASE), info(old, BASE - SECOND - 1))
    assert history.statuses[0] == [("RUNNING", "reported")]


def test_copies_of_a_life_change_nothing_in_the_next() -> None:
    life = [
        info(StatusType.CREATED, BASE),
        info(StatusType.RUNNING, BASE),
        info(StatusType.COMPLETE, BASE),
    ]
    history = History(*life, info(StatusType.RUNNING, BASE + SECOND // 2), *life)
    assert [status for status, _ in history.statuses[0]] == [
        "CREATED",
        "RUNNING",
        "COMPLETE",
        "RUNNING",
    ]
    history.take(info(StatusType.COMPLETE, BASE + 2 * SECOND))
    assert (
        len(history.worker.reported.dated) == 1
    )  # what is old news by its date need not be remembered


@pytest.mark.parametrize("at", [None, microseconds(START) + 365 * 86_400 * SECOND])
def test_status_info_that_counts_at_its_receipt_keeps_its_order(at: Any) -> None:
    """Places in a large batch reach beyond the time at which the next one begins."""
    rows = Rows()
    for status, order in (
        (StatusType.CREATED, 900),
        (StatusType.COMPLETE, 500),
        (StatusType.RUNNING, 500),
    ):
        merge(rows, info(status, at), Receipt(START, microseconds(START) + order))
    assert [transition.new_status for transition in rows.transitions] == [
        "CREATED",
        "COMPLETE",
        "RUNNING",
    ]


def test_more_copies_than_a_row_remembers_change_nothing() -> None:
    """A row remembers a bounded number of the events it has applied."""
    flapping = [
        info(StatusType.RUNNING if n % 2 else StatusType.INITIALIZING, BASE + n)
        for n in range(3 * REMEMBERED)
    ]
    history = History(*flapping, *flapping, *flapping[REMEMBERED:])
    assert [status for status, _ in history.statuses[0]] == [event.status for event in flapping]
    assert len(history.worker.reported.dated) == REMEMBERED


@pytest.mark.parametrize("back", [1, 3_600 * SECOND])
def test_status_info_of_an_instance_ends_it_however_it_is_dated(back: Any) -> None:
    statuses = [StatusType.RUNNING, StatusType.COMPLETE, StatusType.CRASHED, StatusType.RUNNING]
    history = History(
        *(
            ServerStatusReported(instance_id=INSTANCE, status=each, sent_at=BASE - n * back)
            for n, each in enumerate(statuses)
        )
    )
    assert [status for status, _ in history.statuses[1]] == ["RUNNING", "COMPLETE"]


def test_status_info_dated_before_the_loss_does_not_lift_it() -> None:
    history = History(heartbeat()).lose()
    info = WorkerStatusReported(
        worker_id=1,
        status=StatusType.RUNNING,
        sent_at=microseconds(history.now - timedelta(seconds=1)),
    )
    assert history.take(info).worker.status is StatusType.LOST


def test_status_info_dated_after_the_loss_lifts_it() -> None:
    history = History(heartbeat()).lose()
    info = WorkerStatusReported(
        worker_id=1,
        status=StatusType.RUNNING,
        sent_at=microseconds(history.now + timedelta(seconds=1)),
    )
    assert status(history.take(info).worker) == RECOVERED
    assert history.worker.last_heartbeat == history.now


@pytest.mark.parametrize("event", [up(1), ServerStarted(worker_id=1, instance_id=INSTANCE)])
def test_worker_known_from_its_servers_never_beat(event: Any) -> None:
    history = History(event)
    assert history.worker.last_heartbeat is None
    assert status(history.instance) == RUNNING
    if event.incarnation is None:
        assert status(history.worker) == (StatusType.CREATED, Reason.NEVER_BEAT)
        assert History(event, heartbeat()).statuses[0] == [
            ("CREATED", "never_beat"),
            ("RUNNING", "reported"),
        ]


def test_a_worker_known_from_status_info_alone_is_not_watched() -> None:
    history = History(WorkerStatusReported(worker_id=1, status=StatusType.RUNNING))
    assert (status(history.worker), history.worker.last_heartbeat) == (RUNNING, None)


def test_an_instance_known_from_status_info_alone_has_no_worker() -> None:
    history = History(ServerStatusReported(instance_id=INSTANCE, status=StatusType.INITIALIZING))
    assert (history.instance.status, history.instance.worker_id) == (StatusType.INITIALIZING, None)
    assert history.take(up(1)).instance.worker_id == 1


def test_what_a_beat_does_not_say_stays() -> None:
    history = History(
        heartbeat(labels={"group": "a"}, interval_seconds=2.0, **counted(1)),
        heartbeat(**counted(2)),
    )
    assert (history.worker.labels, history.worker.interval_seconds) == ({"group": "a"}, 2.0)
    assert history.take(heartbeat(labels={}, **counted(3))).worker.labels == {}


def test_labels_of_a_late_beat_do_not_count() -> None:
    history = History(
        heartbeat(labels={"group": "b"}, **counted(2)),
        heartbeat(labels={"group": "a"}, **counted(1)),
    )
    assert history.worker.labels == {"group": "b"}


def test_repeated_beats_make_no_transition() -> None:
    history = History(*(beat(seq, INSTANCE) for seq in range(1, 20)))
    assert len(history.rows.transitions) == 2


def test_a_clock_that_is_wrong_changes_nothing() -> None:
    hour = 3_600_000_000
    beats = [
        heartbeat(sent_at=BASE + off, **counted(seq))
        for seq, off in enumerate((0, hour, -hour), start=1)
    ]
    history = History(*beats)
    assert history.worker.last_heartbeat == history.now
