"""Each rule on a scene made by hand: what it finds, of what that is a part, and when it is over."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manman_status.alerts.judging.judgement import judge
from manman_status.alerts.notifying.due import News, due_notification
from manman_status.alerts.notifying.message import Tone, compose
from manman_status.alerts.rule import OPEN_AT_ONCE
from manman_status.alerts.rules import RULES, causes_first
from manman_status.alerts.rules.crash_loop import CRASHES, CrashLoop, take_turns
from manman_status.alerts.rules.crashes import Crash, Crashes, crash_of
from manman_status.alerts.rules.dead_letters import DeadLetters
from manman_status.alerts.rules.duplicate_worker import Duplicate, DuplicateWorker
from manman_status.alerts.rules.flapping import (
    FLAP_WINDOW,
    HIGH_PERCENT,
    LOW_PERCENT,
    Flapping,
    Flip,
    changing_percent,
)
from manman_status.alerts.rules.fleet_guard import FleetGuard, Held
from manman_status.alerts.rules.new_workers import Arrivals, NewWorkers, recent
from manman_status.alerts.rules.unwatched_workers import UnwatchedWorkers
from manman_status.alerts.rules.worker_lost import Aftermath, Unlisted, WorkerLost
from manman_status.alerts.scene import Change, Memory, Minute, Scene, WorkerNow
from manman_status.domain.alert import AlertState, NotifiedAlert, Severity, Subject
from manman_status.domain.fleet import UNWATCHED_AT_MOST
from manman_status.domain.status import Entity, Reason, StatusType
from manman_status.processor.statistics import Statistics
from tests.builders import START

NOW = START + timedelta(hours=1)


def worker(worker_id: int = 7, *, status: Any = StatusType.LOST, **labels: Any) -> Any:
    return WorkerNow(worker_id, status, labels)


def lost(of: Any, *, lost_servers: int = 0, held_since: Any = None) -> Any:
    return Change(
        at=NOW,
        entity=Entity.WORKER,
        entity_id=of.worker_id,
        old_status=StatusType.RUNNING,
        new_status=StatusType.LOST,
        reason=Reason.HEARTBEAT_EXPIRED,
        worker=of,
        lost_servers=lost_servers,
        held_since=held_since,
    )


def crashed(instance_id: int = 31, *, on: Any = None, config: Any = None, **fields: Any) -> Any:
    sent: dict[str, Any] = {
        "at": NOW,
        "old_status": StatusType.RUNNING,
        "new_status": StatusType.CRASHED,
        "reason": Reason.EXIT_CODE,
        "exit_code": 137,
    }
    return Change(
        entity=Entity.SERVER_INSTANCE,
        entity_id=instance_id,
        worker=on,
        game_server_config_id=config,
        **sent | fields,
    )


READ_BY: dict[str, tuple[Any, Any]] = {
    "crashes": (CrashLoop, Crashes),
    "flips": (Flapping, dict),
    "guards": (FleetGuard, lambda guards: {each.group: each for each in guards}),
    "duplicates": (DuplicateWorker, dict),
    "dead_letters": (DeadLetters, lambda waiting: waiting),
    "unlisted": (WorkerLost, Aftermath),
    "next_lives": (WorkerLost, lambda lives: Aftermath(next_lives=lives)),
    "arrivals": (NewWorkers, lambda arrivals: arrivals),
    "unwatched": (UnwatchedWorkers, lambda number: number),
}


def look(**fields: Any) -> Scene:
    """A scene of which one rule each has read the fields of `READ_BY`."""
    read: dict[Any, Any] = {
        rule: made(fields.pop(name)) for name, (rule, made) in READ_BY.items() if name in fields
    }
    return Scene(read=read, **fields)


def scene(*changes: Any, now: Any = NOW, **fields: Any) -> Any:
    workers = {change.worker.worker_id: change.worker for change in changes if change.worker}
    instances = {
        change.entity_id: change.new_status
        for change in changes
        if change.entity is Entity.SERVER_INSTANCE
    }
    crashes = [crash_of(change) for change in changes if change.entity is Entity.SERVER_INSTANCE]
    given: dict[str, Any] = {
        "workers": workers,
        "instances": instances,
        "crashes": crashes,
        "lag_seconds": 0.5,
    } | fields
    return look(now=now, changes=changes, **given)


def remembered(seen: Scene) -> Memory:
    return DeadLetters().remember(seen.memory, seen)


def opened(judgement: Any) -> dict[str, Any]:
    """Keys of what opened and is not over, each with its cause."""
    return {
        finding.key: cause
        for finding, cause in judgement.opened
        if finding.key not in judgement.over
    }


def later(first: Any, **fields: Any) -> Any:
    """A scene in which all that is open after `first` still is."""
    judge(first)
    given: dict[str, Any] = {"now": NOW + timedelta(seconds=1), "lag_seconds": 0.5}
    return look(open=first.open, **given | fields)


def test_quiet_scene_opens_nothing() -> None:
    assert judge(scene()).opened == []


def test_a_lost_worker_is_critical_when_servers_went_with_it() -> None:
    [(alone, _)] = judge(scene(lost(worker()))).opened
    [(loaded, _)] = judge(scene(lost(worker(group="eu"), lost_servers=40))).opened
    assert (alone.severity, loaded.severity) == (Severity.WARNING, Severity.CRITICAL)
    assert "40 of its servers" in loaded.summary
    assert loaded.subject == Subject(group="eu", worker_id=7, labels={"group": "eu"})


def test_lost_alert_ends_when_the_next_life_of_its_host_runs() -> None:
    first = scene(lost(worker(host="h1")))
    assert judge(later(first, workers={7: worker(host="h1")}, next_lives={9: 10})).over == {}
    over = judge(later(first, workers={7: worker(host="h1")}, next_lives={7: 8})).over
    assert over == {"worker_lost:7": "worker 8 runs on its host now"}


def test_lost_alert_ends_when_the_worker_changes() -> None:
    first = scene(lost(worker()))
    assert judge(later(first, workers={7: worker()})).over == {}
    assert (
        "worker_lost:7" in judge(later(first, workers={7: worker(status=StatusType.RUNNING)})).over
    )
    assert judge(later(scene(lost(worker())), workers={})).over == {
        "worker_lost:7": "it is forgotten"
    }


def test_late_end_of_a_lost_worker_keeps_its_alert() -> None:
    first = scene(lost(worker(), lost_servers=40))
    judge(first)
    late = msgspec.structs.replace(
        lost(worker(status=StatusType.CRASHED)),
        old_status=StatusType.LOST,
        new_status=StatusType.CRASHED,
    )
    judgement = judge(scene(late, open=first.open))
    assert (judgement.opened, judgement.found_again, judgement.over) == ([], [], {})


def left_behind(instance_id: int, on: Any) -> Any:
    return crashed(
        instance_id,
        on=on,
        new_status=StatusType.LOST,
        reason=Reason.WORKER_LOST,
        was_left=True,
        exit_code=None,
    )


def said_that_it_crashed(of: Any) -> Any:
    return msgspec.structs.replace(lost(of), new_status=StatusType.CRASHED, reason=Reason.REPORTED)


def test_servers_of_a_crashed_worker_are_part_of_its_alert() -> None:
    dead = worker(status=StatusType.CRASHED)
    first = scene(said_that_it_crashed(dead))
    [(alone, _)] = judge(first).opened
    assert alone.severity is Severity.WARNING
    judgement = judge(scene(left_behind(31, dead), left_behind(32, dead), open=first.open))
    assert opened(judgement) == {
        "server_crashed:31": "worker_lost:7",
        "server_crashed:32": "worker_lost:7",
    }
    [loaded] = judgement.found_again
    assert loaded.severity is Severity.CRITICAL
    assert "worker 7 crashed, and 2 of its servers with it" in loaded.summary
    gone = dict.fromkeys((31, 32, 33), StatusType.LOST)
    [more] = judge(scene(left_behind(33, dead), open=first.open, instances=gone)).found_again
    assert "3 of its servers" in more.summary
    back = {7: worker(status=StatusType.RUNNING)}
    over = judge(look(now=NOW, open=first.open, lag_seconds=0.5, workers=back, instances=gone)).over
    assert sorted(over) == [*(f"server_crashed:{i}" for i in gone), "worker_lost:7"]


def test_servers_of_a_stopped_worker_have_own_alerts() -> None:
    ended = worker(status=StatusType.COMPLETE)
    assert opened(judge(scene(left_behind(31, ended)))) == {"server_crashed:31": None}


def test_worker_back_within_one_look_is_no_news() -> None:
    judgement = judge(scene(lost(worker(status=StatusType.RUNNING))))
    assert opened(judgement) == {}
    assert list(judgement.over) == ["worker_lost:7"]


@pytest.mark.parametrize("said", ["true", "1", "yes", "since noon"])
def test_a_draining_worker_may_be_lost_and_its_servers_dropped(said: Any) -> None:
    drained = worker(drain=said)
    dropped = crashed(on=drained, reason=Reason.MISSING_FROM_INVENTORY)
    assert opened(judge(scene(lost(drained), dropped))) == {}


@pytest.mark.parametrize("said", ["false", "0", "no", ""])
def test_worker_with_drain_off_raises_alerts(said: Any) -> None:
    assert opened(judge(scene(lost(worker(drain=said))))) == {"worker_lost:7": None}


def test_crash_on_a_draining_worker_is_an_alert() -> None:
    assert opened(judge(scene(crashed(on=worker(drain="true", status=StatusType.RUNNING))))) == {
        "server_crashed:31": None
    }


def test_crash_ends_after_a_while_or_when_it_runs_again() -> None:
    first = scene(crashed(config=3))
    [(finding, _)] = judge(first).opened
    assert "exit code 137" in finding.summary
    again = {"instances": {31: StatusType.RUNNING}}
    still = {"instances": {31: StatusType.CRASHED}}
    assert judge(later(scene(crashed()), **again)).over == {"server_crashed:31": "it runs again"}
    assert judge(later(scene(crashed()), **still)).over == {}
    assert (
        "server_crashed:31"
        in judge(later(scene(crashed()), now=NOW + timedelta(minutes=10), **still)).over
    )


def test_server_lost_with_its_worker_is_no_crash() -> None:
    """The next life does not list it."""
    of_a_lost_one = crashed(old_status=StatusType.LOST, reason=Reason.SUPERSEDED)
    of_a_living_one = crashed(32, old_status=StatusType.RUNNING, reason=Reason.SUPERSEDED)
    assert opened(judge(scene(of_a_lost_one, of_a_living_one))) == {"server_crashed:32": None}


def test_server_left_by_its_worker_is_an_alert() -> None:
    left = crashed(
        new_status=StatusType.LOST, reason=Reason.WORKER_LOST, was_left=True, exit_code=None
    )
    [(finding, _)] = judge(scene(left)).opened
    assert "left it behind" in finding.summary


def test_three_crashes_of_a_config_are_one_loop() -> None:
    hosts = [worker(i, status=StatusType.RUNNING, group="eu") for i in (1, 2, 3)]
    judgement = judge(scene(*(crashed(30 + host.worker_id, on=host, config=3) for host in hosts)))
    loop = "crash_loop:config:3"
    assert opened(judgement) == {
        loop: None,
        "server_crashed:31": loop,
        "server_crashed:32": loop,
        "server_crashed:33": loop,
    }
    assert judgement.opened[0][0].subject.group == "eu"


def test_loop_names_its_worker_while_it_is_on_one() -> None:
    """Its worker and group are dropped when it spreads."""
    hosts = [
        worker(i, status=StatusType.RUNNING, group=group)
        for i, group in ((1, "eu"), (2, "eu"), (3, "us"))
    ]
    first = scene(*(crashed(i, on=hosts[0], config=3) for i in (31, 32, 33)))
    [(loop, _), *_] = judge(first).opened
    assert loop.key == "crash_loop:config:3"
    assert loop.subject == Subject(
        group="eu", worker_id=1, game_server_config_id=3, labels={"group": "eu"}
    )

    def spread(to: Any) -> Any:
        crashes = [Crash(NOW, 1, 3)] * 3 + [Crash(NOW, host.worker_id, 3) for host in to]
        known = {"workers": {host.worker_id: host for host in hosts}, "instances": first.instances}
        [found] = judge(later(first, crashes=crashes, **known)).found_again
        return found.subject

    assert spread([hosts[1]]) == Subject(group="eu", game_server_config_id=3)
    assert spread(hosts[1:]) == Subject(game_server_config_id=3)


def test_crashes_on_one_worker_are_a_loop_of_the_worker() -> None:
    host = worker(status=StatusType.RUNNING)
    crashes = [
        crashed(100 + 10 * config + i, on=host, config=config)
        for config in (1, 2, 3)
        for i in (1, 2, 3)
    ]
    loops = [
        finding.key for finding, _ in judge(scene(*crashes)).opened if finding.rule == "crash_loop"
    ]
    assert loops == ["crash_loop:worker:7"]


def test_what_a_worker_no_longer_lists_all_at_once_is_no_loop() -> None:
    host = worker(status=StatusType.RUNNING)
    gone = [
        crashed(i, on=host, config=3, reason=Reason.MISSING_FROM_INVENTORY) for i in range(1, 41)
    ]
    assert {finding.rule for finding, _ in judge(scene(*gone)).opened} == {"server_crashed"}
    before = [
        Crash(NOW - timedelta(minutes=age), 7, 3, was_inferred=True)
        for age in (2, 4)
        for _ in range(40)
    ]
    again = scene(*gone, crashes=[*before, *map(crash_of, gone)])
    assert "crash_loop:config:3" in opened(judge(again))


def loops_of_all_that_is_left(crashes: Any, known: Any) -> Any:
    """The literal meaning: pick the worst of what is left, again and again."""
    left, found = list(crashes), []
    while left:
        crashes_of: dict[Any, Any] = {}
        for crash in left:
            for culprit in crash.culprits:
                crashes_of.setdefault(culprit, []).append(crash)
        numbers = {
            culprit: (
                sum(not crash.was_inferred for crash in some)
                + len({(crash.worker_id, crash.at) for crash in some if crash.was_inferred})
            )
            for culprit, some in crashes_of.items()
        }
        looping = [culprit for culprit in numbers if culprit in known] or [
            c for c in numbers if numbers[c] >= CRASHES
        ]
        if not looping:
            break
        worst = min(looping, key=lambda culprit: (-numbers[culprit], culprit))
        found.append((worst, crashes_of[worst]))
        left = [crash for crash in left if worst not in crash.culprits]
    return found


few = st.one_of(st.none(), st.integers(1, 4))
ages = st.integers(0, 3).map(lambda minutes: NOW - timedelta(minutes=minutes))


@given(
    st.lists(st.builds(Crash, ages, few, few, st.booleans()), max_size=40),
    st.sets(st.tuples(st.sampled_from(["config", "worker"]), st.integers(1, 4)), max_size=3),
)
def test_each_crash_is_that_of_the_worst_that_is_left(crashes: Any, known: Any) -> None:
    assert list(take_turns(crashes, known)) == loops_of_all_that_is_left(crashes, known)


class CountedCrash:
    """A crash that counts how often somebody looks whose it is."""

    looks = 0
    was_inferred = False

    def __init__(self, number: int) -> None:
        self.at = NOW
        self.worker_id, self.game_server_config_id = number % 1_000, number // 10

    @property
    def culprits(self) -> list[Any]:
        CountedCrash.looks += 1
        return [("config", self.game_server_config_id), ("worker", self.worker_id)]


def test_many_crashes_are_judged_in_linear_time() -> None:
    """Each crash is looked at a few times."""
    mass = scene(crashes=[CountedCrash(number) for number in range(10_000)])
    judgement = judge(mass)
    assert len(judgement.opened) == 1_000
    judge(later(mass, crashes=mass.seen(CrashLoop).all))
    assert CountedCrash.looks <= 20 * 10_000


def test_few_or_slow_crashes_are_no_loop() -> None:
    def loops(*ages: Any) -> list[Any]:
        crashes = [Crash(NOW - timedelta(minutes=age), 7, 3) for age in ages]
        return [finding.key for finding, _ in judge(scene(crashes=crashes)).opened]

    assert loops(0, 1) == []
    assert loops(0, 5, 11) == []
    assert loops(0, 5, 9) == ["crash_loop:config:3"]


def test_loop_ends_after_a_window_without_crashes() -> None:
    host = worker(status=StatusType.RUNNING)
    first = scene(*(crashed(i, on=host, config=3) for i in (1, 2, 3)))
    crashes = [Crash(NOW, 7, 3)] * 3
    known: dict[str, Any] = {
        "workers": {7: host},
        "instances": dict.fromkeys((1, 2, 3), StatusType.CRASHED),
        "crashes": crashes,
    }
    assert judge(later(first, now=NOW + timedelta(minutes=9), **known)).over == {}
    over = judge(later(first, now=NOW + timedelta(minutes=10), **known)).over
    assert sorted(over) == ["crash_loop:config:3", *(f"server_crashed:{i}" for i in (1, 2, 3))]


def flips(*seconds_ago: Any) -> list[Any]:
    return [
        Flip(NOW - timedelta(seconds=ago), bool(place % 2)) for place, ago in enumerate(seconds_ago)
    ]


def test_repeatedly_lost_worker_flaps() -> None:
    often = flips(170, 140, 110, 80, 50, 0)
    judgement = judge(scene(lost(worker()), flips={7: often}))
    assert opened(judgement) == {"flapping:7": None, "worker_lost:7": "flapping:7"}


def test_a_worker_that_is_lost_now_and_then_does_not_flap() -> None:
    assert opened(judge(scene(lost(worker()), flips={7: flips(500, 450, 0)}))) == {
        "worker_lost:7": None
    }


def test_flapping_is_over_below_the_low_threshold_and_not_before() -> None:
    first = scene(lost(worker()), flips={7: flips(170, 140, 110, 80, 50, 0)})
    known: dict[str, Any] = {"workers": {7: worker()}}
    between = later(first, flips={7: flips(100, 50, 10)}, **known)
    assert LOW_PERCENT < changing_percent(between.seen(Flapping)[7], between.now) < HIGH_PERCENT
    assert judge(between).over == {}
    steady = look(now=NOW, open=between.open, lag_seconds=0.5, flips={7: flips(590)}, **known)
    assert judge(steady).over == {"flapping:7": "it is steady"}


@given(st.lists(st.floats(0, 599), max_size=60))
def test_flapping_percentage_grows_with_each_change(ages: Any) -> None:
    found = [Flip(NOW - timedelta(seconds=age), is_up=True) for age in ages]
    percent = changing_percent(found, NOW)
    assert 0 <= percent <= 100.0001
    assert changing_percent(found[1:], NOW) <= percent + 1e-9


def test_a_newer_change_weighs_more() -> None:
    assert changing_percent(flips(0), NOW) > changing_percent(flips(590), NOW) > 0
    assert changing_percent(flips(FLAP_WINDOW.total_seconds()), NOW) == 0


def held_group(*, since: Any = START) -> Any:
    return Held("eu", 9, 20, is_releasing=True, holding_since=since)


INCIDENT = f"fleet_guard:eu:{START.isoformat()}"


def test_held_group_is_one_incident_with_its_lost_as_parts() -> None:
    guard = held_group()
    first = scene(lost(worker(1, group="eu")), lost(worker(2, group="us")), guards=[guard])
    assert opened(judge(first)) == {
        INCIDENT: None,
        "worker_lost:1": INCIDENT,
        "worker_lost:2": None,
    }
    again = look(
        now=NOW,
        open=first.open,
        guards=[guard],
        lag_seconds=0.5,
        workers={1: worker(1), 2: worker(2)},
    )
    [found] = judge(again).found_again
    assert "10 of 20 workers of group eu" in found.summary


def test_group_incident_lasts_until_all_are_back() -> None:
    """It is open while the guard holds, and while anyone of the group is missing."""
    first = scene(lost(worker(1, group="eu")), guards=[held_group()])
    assert judge(later(first, workers={1: worker(1, group="eu")})).over == {}
    back = look(
        now=NOW, open=first.open, lag_seconds=0.5, workers={1: worker(1, status=StatusType.RUNNING)}
    )
    assert sorted(judge(back).over) == [INCIDENT, "worker_lost:1"]


@pytest.fixture
def one_that_never_returns() -> dict[str, Any]:
    """The guard has opened, and of those that were lost in it one is left."""
    dead = worker(1, group="eu")
    first = scene(lost(dead), guards=[held_group()])
    judge(first)
    return {"open": first.open, "workers": {1: dead}}


def test_lost_after_the_hold_is_an_alert_of_its_own(
    one_that_never_returns: Any,
) -> None:
    """A worker that is lost as the hold begins is part of the incident."""
    last, other = worker(2, group="eu"), worker(3, group="eu")
    known = one_that_never_returns | {"workers": {1: worker(1, group="eu"), 2: last, 3: other}}
    judgement = judge(scene(lost(last, held_since=START), lost(other), **known))
    assert opened(judgement) == {"worker_lost:2": INCIDENT, "worker_lost:3": None}


def test_a_group_that_is_held_again_is_another_incident(one_that_never_returns: Any) -> None:
    again = held_group(since=START + timedelta(minutes=30))
    dead, other = worker(1, group="eu"), worker(2, group="eu")
    known = one_that_never_returns | {"workers": {1: dead, 2: other}}
    judgement = judge(scene(lost(other), guards=[again], **known))
    [incident, part] = opened(judgement).items()
    assert incident[0] not in {INCIDENT, *judgement.over}
    assert part == ("worker_lost:2", incident[0])


@pytest.mark.parametrize(
    ("lag", "severity"),
    [(None, None), (5, None), (14, None), (16, Severity.WARNING), (31, Severity.CRITICAL)],
)
def test_late_monitoring_is_a_warning_and_blind_critical(lag: Any, severity: Any) -> None:
    found = judge(scene(lag_seconds=lag)).opened
    assert [finding.severity for finding, _ in found] == [severity] * (severity is not None)


def test_what_was_critical_stays_so_until_it_is_over() -> None:
    first = scene(lag_seconds=31.0)
    draining = later(first, lag_seconds=20.0)
    [found] = judge(draining).found_again
    assert found.severity is Severity.CRITICAL
    assert "late, nothing of the last 20 s" in found.summary
    [found] = judge(look(now=NOW, open=draining.open, lag_seconds=18.0)).found_again
    assert found.severity is Severity.CRITICAL


def test_an_observer_is_over_only_when_it_sees_well() -> None:
    first = scene(lag_seconds=31.0)
    worse = later(first, lag_seconds=6.0)
    assert judge(worse).over == {}
    assert list(judge(look(now=NOW, open=worse.open, lag_seconds=4.0)).over) == ["observer"]


def test_gap_in_judging_is_no_processor() -> None:
    """The blindness of that time is part of the alert."""
    first = scene(unjudged_seconds=600, lag_seconds=600)
    assert opened(judge(first)) == {"no_processor": None, "observer": "no_processor"}
    soon = later(first, lag_seconds=0.5)
    assert list(judge(soon).over) == ["observer"]
    later_on = look(
        now=NOW + timedelta(minutes=1), open=soon.open, lag_seconds=0.5, unjudged_seconds=1.0
    )
    assert list(judge(later_on).over) == ["no_processor"]


def test_the_very_first_look_is_no_gap() -> None:
    assert judge(scene(unjudged_seconds=None)).opened == []


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (1, "1 worker reports but never"),
        (3, "3 workers report but never"),
        (UNWATCHED_AT_MOST, "5,000 or more workers report but never"),
    ],
)
def test_unwatched_workers_are_one_info_with_the_remedy(number: Any, words: Any) -> None:
    first = scene(unwatched=number)
    [(finding, _)] = judge(first).opened
    assert (finding.key, finding.severity) == ("unwatched_workers", Severity.INFO)
    assert finding.summary.startswith(words)
    assert "`manman-status bridge`" in finding.summary
    assert list(judge(later(first, unwatched=1)).over) == []
    assert judge(later(first, unwatched=0)).over == {
        "unwatched_workers": "every worker that reports is watched"
    }


def test_dead_letters_are_news_when_they_become_more() -> None:
    first = scene(dead_letters=2, memory=Memory(2))
    assert judge(first).opened == []
    more = scene(dead_letters=3, memory=remembered(first))
    [(finding, _)] = judge(more).opened
    assert finding.evidence == {"waiting": 3, "arrived": 1}
    memory = remembered(more)
    assert memory == Memory(3, NOW)

    def over(now: Any, waiting: Any) -> Any:
        return judge(
            look(
                now=now, open=dict(more.open), lag_seconds=0.5, dead_letters=waiting, memory=memory
            )
        ).over

    assert over(NOW + timedelta(minutes=9), 3) == {}
    assert over(NOW + timedelta(minutes=9), None) == {}
    assert over(NOW + timedelta(minutes=10), 3) == {"dead_letters": "none arrived for 10 minutes"}
    assert over(NOW, 0) == {"dead_letters": "the queue is empty"}


def test_new_dead_letters_are_news_again() -> None:
    taken = scene(dead_letters=0, memory=Memory(3, NOW))
    assert opened(judge(scene(dead_letters=1, memory=remembered(taken)))) == {"dead_letters": None}


def test_letters_that_are_listed_and_returned_stay_one_alert() -> None:
    statistics, memory = Statistics(), Memory()
    sent: list[Any] = []
    open_alerts: dict[str, Any] = {}
    for turn, waiting in enumerate([0, 3, 0, 0, 3, 3, 0, 0, 0, 0]):
        statistics.note_dead_letters(waiting, now=5.0 * turn)
        now = NOW + timedelta(seconds=5 * turn)
        seen = scene(
            now=now, dead_letters=statistics.dead_letters_waiting, memory=memory, open=open_alerts
        )
        judgement, memory, open_alerts = judge(seen), remembered(seen), seen.open
        sent += [(turn, "opened") for _ in judgement.opened] + [
            (turn, why) for why in judgement.over.values()
        ]
    assert sent == [(1, "opened"), (9, "the queue is empty")]


def test_rules_judge_alike_in_whatever_order_they_stand() -> None:
    """Causes are judged before their parts, though `RULES` has them the other way round."""
    incident = scene(lost(worker(1, group="eu")), guards=[held_group()])
    assert opened(judge(incident, RULES[::-1])) == {INCIDENT: None, "worker_lost:1": INCIDENT}


def test_a_rule_is_part_of_the_causes_it_declares_alone() -> None:
    """A cause that a rule forgot to declare is never one, whatever the order: its test fails."""

    class Forgetful(WorkerLost):
        causes = ()  # type: ignore[assignment]

    rules = [Forgetful() if isinstance(rule, WorkerLost) else rule for rule in RULES[:-1]]
    incident = scene(lost(worker(1, group="eu")), guards=[held_group()])
    without = [rule for rule in rules if rule.name != "server_crashed"]
    assert opened(judge(incident, without)) == {INCIDENT: None, "worker_lost:1": None}


def test_a_cause_that_is_not_registered_is_refused() -> None:
    with pytest.raises(KeyError):
        causes_first([WorkerLost()])


def test_each_rule_has_its_own_name() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)


def notified_alert(alert_id: int = 1, **fields: Any) -> Any:
    given: dict[str, Any] = {
        "key": f"worker_lost:{alert_id}",
        "rule": "worker_lost",
        "severity": Severity.WARNING,
        "state": AlertState.OPEN,
        "version": 1,
        "summary": f"worker {alert_id} is silent: look at it",
        "subject": Subject(group="eu", worker_id=alert_id),
        "evidence": {},
        "part_of": None,
        "parts": 0,
        "opened_at": START,
        "acknowledged_at": None,
        "acknowledged_by": None,
        "resolved_at": None,
        "resolution": None,
        "silenced_by": None,
        "notified_version": 0,
        "notified_severity": None,
        "notified_at": None,
    }
    return NotifiedAlert(alert_id=alert_id, **given | fields)


NOTIFIED: dict[str, Any] = {"notified_severity": Severity.WARNING, "notified_at": START}
OVER: dict[str, Any] = {
    "state": AlertState.RESOLVED,
    "resolved_at": NOW,
    "resolution": "it is RUNNING now",
}


@pytest.mark.parametrize(
    ("alert", "news"),
    [
        (notified_alert(), News.OPENED),
        (notified_alert(silenced_by="s"), None),
        (notified_alert(**OVER), None),
        (notified_alert(**OVER, **NOTIFIED), News.RESOLVED),
        (notified_alert(**OVER, **NOTIFIED, silenced_by="s"), News.RESOLVED),
        (notified_alert(**NOTIFIED), News.REMINDER),
        (notified_alert(**NOTIFIED, state=AlertState.ACKNOWLEDGED), None),
        (notified_alert(**NOTIFIED, severity=Severity.CRITICAL), News.WORSE),
        (
            notified_alert(**NOTIFIED, severity=Severity.CRITICAL, state=AlertState.ACKNOWLEDGED),
            News.WORSE,
        ),
        (notified_alert(notified_severity=Severity.CRITICAL, notified_at=NOW), None),
    ],
)
def test_what_is_news_to_whom(alert: Any, news: Any) -> None:
    assert due_notification(alert, NOW, remind_seconds=3600) is news


def test_without_reminders_an_open_alert_is_sent_once() -> None:
    assert (
        due_notification(notified_alert(**NOTIFIED), NOW + timedelta(days=30), remind_seconds=0)
        is None
    )


def test_one_alert_is_its_own_title() -> None:
    message = compose([(News.OPENED, notified_alert())])
    assert message.title == "[warning] eu: worker 1 is silent"
    assert "look at it" in message.body
    assert message.tone is Tone.WARNING


def test_a_burst_is_one_message_with_the_worst_first_and_a_bound() -> None:
    burst = [(News.OPENED, notified_alert(i)) for i in range(1, 41)]
    burst[30] = (News.OPENED, notified_alert(99, severity=Severity.CRITICAL))
    message = compose(burst)
    assert message.title == "[critical] 40 alerts in eu: 1 critical, 39 warning"
    assert message.body.startswith("critical: eu: worker 99")
    assert message.body.endswith("and 20 more: `manman-status alerts list`")
    assert message.tone is Tone.CRITICAL


def test_what_is_over_says_why_and_how_long_it_was() -> None:
    message = compose([(News.RESOLVED, notified_alert(**OVER))])
    assert message.title == "[over] eu: worker 1 is silent"
    assert "it is RUNNING now, after 1 h 0 min" in message.body
    assert message.tone is Tone.GOOD


def duplicate(of: Any, **rival_labels: Any) -> Any:
    return Duplicate(of, 2000, 1000, rival_labels, NOW - timedelta(minutes=1))


def test_two_processes_with_one_id_are_a_warning() -> None:
    """It is over once one of them is silent."""
    twice = scene(
        duplicates={
            7: duplicate(worker(status=StatusType.RUNNING, group="eu", host="h1"), host="h2")
        }
    )
    [(finding, cause)] = judge(twice).opened
    assert (finding.key, finding.severity, cause) == ("duplicate_worker:7", Severity.WARNING, None)
    assert "incarnations 2000 and 1000, host h1 and h2)" in finding.summary
    assert finding.evidence["differing_labels"] == {"group": ("eu", ""), "host": ("h1", "h2")}
    assert (finding.subject.group, finding.subject.worker_id) == ("eu", 7)
    assert judge(later(twice, duplicates=twice.seen(DuplicateWorker))).over == {}
    assert judge(later(twice)).over == {"duplicate_worker:7": "no two processes beat as it now"}


def flood(number: int, *, first: int = 1, known: Any = None, **fields: Any) -> Any:
    """The scene in which so many workers, two of a group, are lost at once, beside those of the
    scene `known`."""
    gone = [worker(i, group=f"g{i // 2}") for i in range(first, first + number)]
    workers = {each.worker_id: each for each in gone} | (dict(known.workers) if known else {})
    return scene(*map(lost, gone), workers=workers, open=known.open if known else {}, **fields)


MORE = "worker_lost:more:0"


def test_what_a_rule_finds_beyond_its_bound_is_one_alert() -> None:
    first = flood(OPEN_AT_ONCE + 100)
    judgement = judge(first)
    assert len(judgement.opened) == OPEN_AT_ONCE + 1
    finding, cause = judgement.opened[-1]
    assert (finding.key, cause) == (MORE, None)
    assert finding.summary.startswith("and 100 more workers are lost, in 51 groups")
    again = judge(
        flood(50, first=10_000, known=first, memory=judgement.memory, unlisted=Unlisted(150, 76))
    )
    assert not again.opened
    assert not again.over
    [found] = again.found_again
    assert found.summary.startswith("and 150 more workers are lost, in 76 groups")


def test_the_alert_for_all_the_others_is_over_when_none_is_left() -> None:
    first = flood(OPEN_AT_ONCE + 1)
    memory = judge(first).memory
    still = scene(workers=first.workers, open=first.open, memory=memory, unlisted=Unlisted(1, 1))
    assert not judge(still).over
    none_left = scene(
        workers=first.workers, open=first.open, memory=memory, unlisted=Unlisted(0, 0)
    )
    over = judge(none_left)
    assert over.over == {MORE: "each lost worker has an alert of its own"}
    assert over.memory.folded == {}


def test_lost_worker_has_its_own_alert_once_there_is_room() -> None:
    first = flood(OPEN_AT_ONCE + 1)
    memory = judge(first).memory
    full = flood(1, first=20_000, known=first, memory=memory, unlisted=Unlisted(2, 2))
    assert not judge(full).opened
    full.end("worker_lost:1")
    again = flood(1, first=20_001, known=full, memory=memory, unlisted=Unlisted(2, 2))
    assert [finding.key for finding, _ in judge(again).opened] == ["worker_lost:20001"]


def test_unlisted_crashes_end_after_a_quiet_time() -> None:
    gone = [crashed(i, on=None) for i in range(OPEN_AT_ONCE + 7)]
    first = scene(*gone)
    judgement = judge(first)
    assert judgement.opened[-1][0].summary.startswith(
        "and 7 more alerts of the rule server_crashed"
    )
    key = "server_crashed:more:0"
    later = scene(now=NOW + timedelta(minutes=9), open=dict(first.open), memory=judgement.memory)
    assert key not in judge(later).over
    much_later = scene(
        now=NOW + timedelta(minutes=10), open=dict(first.open), memory=judgement.memory
    )
    assert judge(much_later).over[key] == "no more have come for 10 minutes"


def minutes(*numbers: Any) -> Any:
    """The newest last, and not over yet."""
    begun = [NOW.replace(second=0) - timedelta(minutes=ago) for ago in range(len(numbers))]
    return [Minute(at, number) for at, number in zip(begun, reversed(numbers), strict=True)][::-1]


@pytest.mark.parametrize(
    ("new", "before", "is_alert"),
    [
        ((1_001,), 1_000, True),
        ((1_000,), 10, False),
        ((5_000, 9), 4_999, True),
        ((5_000,), 5_000, False),
        ((50_000, 50_000), 0, False),
        ((), None, False),
    ],
)
def test_doubling_the_fleet_in_a_minute_is_an_alert(new: Any, before: Any, is_alert: Any) -> None:
    """Not of a fleet that nothing was known of: that is a first start."""
    found = scene(arrivals=Arrivals(minutes(*new), before))
    assert opened(judge(found)) == ({"new_workers": None} if is_alert else {})
    over = scene(now=NOW + timedelta(minutes=1), open=found.open, arrivals=Arrivals(minutes(7)))
    assert judge(over).over.keys() == ({"new_workers"} if is_alert else set())


def test_minutes_are_added_up_and_forgotten_after_ten() -> None:
    known = minutes(*range(1, 11))
    assert recent(known, [Minute(known[-1].at, 5)], NOW)[-1].new_workers == 15
    assert len(recent(known, (), NOW + timedelta(minutes=5))) == 5
