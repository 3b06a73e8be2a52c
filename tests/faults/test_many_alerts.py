"""More alerts, groups and silences than anybody can look at: people are notified all the same, and
once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import psutil
import pytest

from manman_status.alerts.rule import OPEN_AT_ONCE
from manman_status.alerts.silences import LASTING_AT_ONCE
from manman_status.wire.control import SilenceRequested
from tests.conftest import run_sql
from tests.faults.liveness import Observed
from tests.fleet import Fleet, Worker
from tests.kinds import Eventually, StartRole
from tests.messaging import Publisher
from tests.odd_messages import HEARTBEAT, command

# Two workers a group, as if the sweep had just marked them LOST: too few in each for the guard.
ALL_ARE_LOST = """
INSERT INTO workers (worker_id, created_date, last_heartbeat, status, status_since, reason, labels)
SELECT 1000 + n, now(), now(), 'LOST', now(), 'heartbeat_expired', jsonb_build_object('group', 'g'
    || n / 2)
  FROM generate_series(0, {workers} - 1) n;
WITH counter AS (
    UPDATE revision_counter SET revision = revision + {workers} RETURNING revision - {workers} AS
        before
)
INSERT INTO transitions (revision, at, entity, entity_id, old_status, new_status, reason)
SELECT before + 1 + n, now(), 'worker', 1000 + n, 'RUNNING', 'LOST', 'heartbeat_expired'
  FROM counter, generate_series(0, {workers} - 1) n;
"""
END = "UPDATE workers SET status = 'COMPLETE', status_since = now(), end_date = now()"
KNOWN_FOR_AN_HOUR = """
INSERT INTO workers (worker_id, created_date, status, status_since, reason)
SELECT n, now() - interval '1 hour', 'COMPLETE', now() - interval '1 hour', 'graceful' FROM
    generate_series(1, 100) n
"""
SILENCES = """
INSERT INTO silences (silence_id, created_at, ends_at, created_by, why, group_name, worker_id,
    labels)
SELECT 'silence' || n, now(), now() + interval '1 hour', '', 'many',
       CASE WHEN n % 3 = 0 THEN 'gone' || n END,
       CASE WHEN n % 3 = 1 THEN 10000000 + n END,
       CASE WHEN n % 3 = 2 THEN jsonb_build_object('env', 'test', 'host', 'h' || n) ELSE '{{}}' END
  FROM generate_series(1, {silences}) n
"""
REFUSE_MARKS = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'injected' USING ERRCODE = '57014'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON deliveries FOR EACH ROW
  WHEN (NEW.channel <> 'broker') EXECUTE FUNCTION refuse();
"""
ACCEPT_MARKS = "DROP TRIGGER refuse ON deliveries; DROP FUNCTION refuse"
JUDGED = "SELECT judged_revision >= revision FROM alert_progress, revision_counter"
UNNOTIFIED = """
SELECT count(*) FROM alerts a WHERE resolved_at IS NULL AND part_of IS NULL
   AND NOT EXISTS (SELECT FROM deliveries d WHERE d.alert_id = a.alert_id
                      AND channel <> 'broker' AND told_at > a.opened_at)
"""


@pytest.fixture
def start_notifying(start_quick: StartRole, sink: Any) -> StartRole:
    async def start(**settings: Any) -> Any:
        return await start_quick(**{"notify_urls": sink.url, "notify_wait_seconds": 1, **settings})

    return start


async def all_notified(observed: Observed) -> Any:
    return await observed.value(JUDGED) and not await observed.value(UNNOTIFIED)


@pytest.mark.parametrize("workers", [20_000, pytest.param(200_000, marks=pytest.mark.slow)])
async def test_a_flood_of_lost_workers_is_few_alerts_and_few_messages(
    workers: Any,
    start_notifying: StartRole,
    observed: Observed,
    eventually: Eventually,
    sink: Any,
    database: str,
) -> None:
    """However many there are, each message is sent once, and what has no alert of its own is
    counted by one."""
    processor = await start_notifying(notify_wait_seconds=5)
    memory = psutil.Process(processor.pid).memory_info
    await eventually(lambda: observed.value("SELECT judged_at IS NOT NULL FROM alert_progress"))
    before = memory().rss
    await run_sql(database, ALL_ARE_LOST.format(workers=workers))
    await eventually(lambda: all_notified(observed), within_seconds=300)
    assert await observed.value("SELECT count(*) FROM alerts") == OPEN_AT_ONCE + 1
    [fold] = await observed.rows(
        "SELECT summary, severity FROM alerts WHERE key = 'worker_lost:more:0'"
    )
    more = workers - OPEN_AT_ONCE

    async def counts_all() -> bool:
        evidence = (
            "SELECT (evidence ->> 'workers')::int, (evidence ->> 'groups')::int FROM alerts WHERE"
            " key = $1"
        )
        return [tuple(row) for row in await observed.rows(evidence, "worker_lost:more:0")] == [
            (more, more // 2)
        ]

    await eventually(counts_all)
    assert fold["summary"].startswith("and ")
    listed = [message for message in sink.messages if "more workers are lost" in message["message"]]
    assert listed
    assert "more groups" in sink.titles[0]
    assert len(sink.messages) <= 3
    assert memory().rss - before < 150 * 2**20
    assert "idle" not in processor.log
    await run_sql(database, END)
    await eventually(
        lambda: observed.value("SELECT count(*) = 0 FROM alerts WHERE resolved_at IS NULL")
    )


async def test_a_flood_of_new_ids_is_one_alert_until_it_has_passed(
    start_notifying: StartRole,
    observed: Observed,
    eventually: Eventually,
    sink: Any,
    publish: Publisher,
    database: str,
) -> None:
    """The fleet has been known for longer. While the rules are behind, what they have not seen yet
    is no part of the fleet that was known before."""
    await start_notifying()
    await run_sql(database, KNOWN_FOR_AN_HOUR)
    for first in range(1_000_000, 1_012_000, 1_000):
        beats = [
            command("HEARTBEAT", str(i), interval_seconds=600) for i in range(first, first + 1_000)
        ]
        await publish(beats, HEARTBEAT)
    await eventually(lambda: sink.messages)
    assert "new workers within a minute" in sink.titles[0]
    await eventually(lambda: observed.value("SELECT count(*) = 12100 FROM workers"))
    await eventually(lambda: observed.value(JUDGED))
    looked_at = await observed.value("SELECT clock_timestamp()")
    await eventually(lambda: observed.value("SELECT judged_at > $1 FROM alert_progress", looked_at))
    assert await observed.value("SELECT state FROM alerts") == "open"
    counted = "SELECT (statistics -> 'new_ids' ->> 'worker')::int >= 12000 FROM processors"
    await eventually(lambda: observed.value(counted))


@pytest.fixture
async def unmarked(
    start_notifying: StartRole,
    fleet: Fleet,
    observed: Observed,
    eventually: Eventually,
    database: str,
) -> Any:
    """A processor that has notified people of worker 1 and cannot mark it."""
    processor = await start_notifying()
    fleet.add(Worker(1), Worker(2))
    await eventually(lambda: observed.value("SELECT count(*) = 2 FROM workers"))
    await run_sql(database, REFUSE_MARKS)
    fleet.workers[1].go_silent()
    await eventually(lambda: processor.log.count("notification_not_marked"))
    return processor


async def messages_of_worker_1(
    fleet: Fleet, observed: Observed, eventually: Eventually, sink: Any
) -> int:
    """The number of messages about worker 1 once people know of worker 2, too."""
    await eventually(lambda: all_notified(observed))
    fleet.workers[2].go_silent()
    await eventually(lambda: "worker 2" in "".join(sink.titles))
    return len([title for title in sink.titles if "worker 1" in title])


@pytest.mark.usefixtures("unmarked")
async def test_a_mark_that_fails_does_not_send_the_message_again(
    fleet: Fleet, observed: Observed, eventually: Eventually, sink: Any, database: str
) -> None:
    await eventually(lambda: observed.value(UNNOTIFIED))
    await run_sql(database, ACCEPT_MARKS)
    assert await messages_of_worker_1(fleet, observed, eventually, sink) == 1


async def test_kill_between_message_and_mark_repeats_one_message(
    unmarked: Any,
    start_notifying: StartRole,
    fleet: Fleet,
    observed: Observed,
    eventually: Eventually,
    sink: Any,
    database: str,
) -> None:
    unmarked.kill()
    await run_sql(database, ACCEPT_MARKS)
    await start_notifying()
    await eventually(lambda: len(sink.messages) == 2)
    assert await messages_of_worker_1(fleet, observed, eventually, sink) == 2


async def test_people_are_notified_beside_as_many_silences_as_may_be(
    start_notifying: StartRole,
    observed: Observed,
    eventually: Eventually,
    sink: Any,
    publish: Publisher,
    database: str,
    dead_letters: Callable[..., Awaitable[Any]],
) -> None:
    """An alert that no silence covers is sent at once; more silences are refused with a reason."""
    await start_notifying()
    await run_sql(database, SILENCES.format(silences=LASTING_AT_ONCE - 1))
    covers = SilenceRequested(silence_id="covers", seconds=600, why="known", group="g0")
    await publish.control(covers)
    await eventually(
        lambda: observed.value("SELECT count(*) = 1 FROM silences WHERE silence_id = 'covers'")
    )
    await publish.control(
        SilenceRequested(silence_id="onemore", seconds=600, why="one more", group="g1")
    )
    await run_sql(database, ALL_ARE_LOST.format(workers=4_000))
    await eventually(lambda: len(sink.messages))
    unnotified = f"{UNNOTIFIED} AND coalesce(group_name, '') <> 'g0'"
    await eventually(
        lambda: observed.value(unnotified.replace("SELECT count(*)", "SELECT count(*) = 0"))
    )
    assert await observed.value(UNNOTIFIED) == 2, "those of the silenced group"
    assert not await observed.value("SELECT count(*) FROM silences WHERE silence_id = 'onemore'")

    async def refused() -> list[Any]:
        return [headers["x-manman-error"] for _, headers in await dead_letters()]

    [reason] = await eventually(refused)
    assert "5000 silences" in reason
