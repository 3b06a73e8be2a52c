"""Uptime by days that were summed up is that of all changes, read one by one."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from manman_status.domain.status import StatusType
from manman_status.leadership import LEASE, Leadership, Term
from manman_status.processor.leader.uptime_days import UptimeDays
from manman_status.store.forgetting import forget_worker
from manman_status.store.leases import LeaseLost, hold_lease
from manman_status.store.pool import create_pool
from manman_status.store.uptime import Uptime, read_fleet_uptime
from manman_status.store.uptime_days import make_some, read_window
from manman_status.store.writes import append_transitions

if TYPE_CHECKING:
    from manman_status.store.pool import Connection
    from tests.integration.api.conftest import Rows
    from tests.kinds import Eventually, StartRole

HOUR, DAY = 3600.0, 86_400.0
BLIND_AFTER = 30.0
RETENTION_DAYS = 30
GROUPS = ("eu", "us", "")
STATUSES = (*("RUNNING", "LOST") * 3, "COMPLETE", "CRASHED", "CREATED")


class History:
    """Workers that change, as rows and transitions, whatever the clock says when they do."""

    def __init__(self, rows: Rows, seed: int) -> None:
        self.rows = rows
        self.connection: Connection = rows.connection
        self.chance = random.Random(seed)
        self.statuses: dict[int, str] = {}

    async def change(self, worker_id: int, ago: float, new: str) -> None:
        old = self.statuses.get(worker_id)
        at = self.rows.ago(ago)
        if old is None:
            labels = {"group": group} if (group := self.chance.choice(GROUPS)) else {}
            await self.rows.worker(
                worker_id, created_date=at, status=new, status_since=at, labels=labels
            )
        else:
            await self.connection.execute(
                "UPDATE workers SET status = $2, status_since = $3 WHERE worker_id = $1",
                worker_id,
                new,
                at,
            )
        await self.rows.transition("worker", worker_id, at=at, old_status=old, new_status=new)
        self.statuses[worker_id] = new

    async def live(self, workers: range, *, days: float = 35, changes: int = 8) -> None:
        """Insert a life in the order of time, as transitions come to be."""
        times = sorted(
            (
                (self.chance.uniform(0, days * DAY), each)
                for each in workers
                for _ in range(self.chance.randint(0, changes))
            ),
            reverse=True,
        )
        for ago, worker_id in times:
            new = self.chance.choice(
                [status for status in STATUSES if status != self.statuses.get(worker_id)]
            )
            await self.change(worker_id, ago, new)

    async def gap(self, ago: float, until: float) -> None:
        began, ended = self.rows.ago(ago), self.rows.ago(until)
        await self.connection.execute("INSERT INTO observation_gaps VALUES ($1, $2)", began, ended)

    async def group(self, worker_id: int, group: str) -> None:
        await self.connection.execute(
            "UPDATE workers SET labels = $2 WHERE worker_id = $1", worker_id, {"group": group}
        )

    async def forget(self, worker_id: int) -> None:
        async with self.connection.transaction():
            ends = await forget_worker(self.connection, worker_id, {})
            await append_transitions(self.connection, ends or ())
        self.rows.revision = await self.connection.fetchval("SELECT revision FROM revision_counter")
        del self.statuses[worker_id]

    async def make(self, *, pieces: int | None = None, changes_at_once: int = 7) -> int:
        """Sum up all that is over, or so many pieces; how many."""
        done = 0
        while pieces is None or done < pieces:
            async with self.connection.transaction():
                window = await read_window(self.connection, (RETENTION_DAYS + 1) * DAY)
                if not await make_some(
                    self.connection,
                    window,
                    retention_days=RETENTION_DAYS,
                    changes_at_once=changes_at_once,
                ):
                    break
            done += 1
        return done

    async def read(self, group: str | None, seconds: float) -> Uptime:
        return await read_fleet_uptime(self.connection, group, window_seconds=seconds)

    async def is_exact(self, *lengths: float) -> None:
        """Windows of these and of other lengths, with days and without."""
        for seconds in (
            *lengths,
            RETENTION_DAYS * DAY,
            *(self.chance.uniform(2, RETENTION_DAYS) * DAY for _ in range(4)),
        ):
            for group in (None, *GROUPS, "nobody"):
                transaction = self.connection.transaction()
                await transaction.start()  # now() stays
                by_days = await self.read(group, seconds)
                await self.connection.execute("DELETE FROM uptime_days")
                one_by_one = await self.read(group, seconds)
                await transaction.rollback()
                assert (by_days.figures, by_days.workers) == (
                    one_by_one.figures,
                    one_by_one.workers,
                ), (group, seconds)


@pytest.fixture(params=range(2))
def history(rows: Rows, request: pytest.FixtureRequest) -> History:
    return History(rows, request.param)


async def is_read_from_days(history: History, seconds: float = RETENTION_DAYS * DAY) -> bool:
    """True when all whole days are read from sums: their deleted rows are not missed."""
    transaction = history.connection.transaction()
    await transaction.start()
    before = await history.read(None, seconds)
    end = before.window.end
    midnights = [
        end - end % (DAY * 1e6),
        before.window.begin + DAY * 1e6 - before.window.begin % (DAY * 1e6),
    ]
    removed = await history.connection.execute(
        "DELETE FROM transitions WHERE at < to_timestamp($1) AND at >= to_timestamp($2)",
        *(us / 1e6 for us in midnights),
    )
    assert removed != "DELETE 0"
    after = await history.read(None, seconds)
    await transaction.rollback()
    return before.figures == after.figures


async def test_uptime_by_days_is_exact(history: History) -> None:
    """Also half made, piece by piece, with blind times here and there."""
    for _ in range(4):
        began = history.chance.uniform(1, 20) * DAY
        await history.gap(began, began - history.chance.uniform(0.02, 2) * DAY / 3)
    await history.live(range(1, 25))
    await history.make(pieces=9)
    await history.is_exact()
    await history.make(pieces=20)
    await history.is_exact()
    await history.make()
    await history.is_exact()
    assert await is_read_from_days(history)
    assert await history.make() == 0


async def test_a_change_that_comes_late_counts_at_once(history: History) -> None:
    await history.live(range(1, 15))
    await history.make()
    for worker_id in (3, 50):  # a known one and a new one
        await history.change(
            worker_id, 5 * DAY, "LOST" if history.statuses.get(worker_id) != "LOST" else "RUNNING"
        )
        await history.is_exact()
        await history.make(pieces=1)
        await history.is_exact()
    await history.make()
    await history.is_exact()


async def test_a_gap_that_grows_after_the_day_counts_at_once(history: History) -> None:
    await history.live(range(1, 15))
    await history.gap(9.4 * DAY, 9.2 * DAY)
    await history.make()
    await history.connection.execute(
        "UPDATE observation_gaps SET ended_at = $1", history.rows.ago(6.3 * DAY)
    )
    await history.is_exact()
    await history.make()
    await history.is_exact()
    assert await is_read_from_days(history)


async def test_a_worker_counts_to_the_group_that_it_has_now(history: History) -> None:
    await history.live(range(1, 15))
    await history.make()
    for worker_id in (2, 5, 6):
        await history.group(worker_id, history.chance.choice(("eu", "us", "new")))
    await history.is_exact()
    await history.make(pieces=1)
    await history.is_exact()
    await history.make()
    await history.is_exact()
    assert await is_read_from_days(history)


async def test_who_is_forgotten_counts_no_more_and_may_begin_anew(history: History) -> None:
    await history.live(range(1, 15))
    await history.make()
    for worker_id in sorted(history.statuses)[:3]:
        await history.forget(worker_id)
    await history.is_exact()
    await history.make()
    await history.is_exact()
    for worker_id in (1, 2, 3):
        if worker_id not in history.statuses:
            await history.change(worker_id, 2 * HOUR, "RUNNING")
            await history.change(worker_id, HOUR, "LOST")
    await history.is_exact()
    await history.make()
    await history.is_exact()


async def test_who_was_forgotten_before_days_were_made_is_found(history: History) -> None:
    """The database is one of the release before."""
    await history.live(range(1, 8))
    for worker_id in sorted(history.statuses)[:3]:
        await history.connection.execute("DELETE FROM workers WHERE worker_id = $1", worker_id)
        del history.statuses[worker_id]
        await history.change(worker_id, 3 * DAY - worker_id, "RUNNING")
    await history.make()
    await history.is_exact()


async def test_ended_workers_that_the_retention_deletes_change_no_sum(history: History) -> None:
    await history.change(1, 40 * DAY, "RUNNING")
    await history.change(1, 35 * DAY, "COMPLETE")
    await history.live(range(2, 12))
    await history.make()
    await history.connection.execute("DELETE FROM workers WHERE worker_id = 1")
    await history.is_exact()
    assert await is_read_from_days(history)


async def test_uptime_is_exact_after_the_clock_stepped(history: History) -> None:
    """Back by hours, over midnight and by days: workers change before the times of their last
    changes."""
    await history.live(range(1, 15))
    await history.make()
    for back in (0.3 * HOUR, 7 * HOUR, 31 * HOUR, 5 * DAY):
        for worker_id in history.chance.sample(sorted(history.statuses), 4):
            status = history.statuses[worker_id]
            await history.change(
                worker_id, back + 9 * DAY, "LOST" if status != "LOST" else "RUNNING"
            )
            await history.change(worker_id, back + 8 * DAY, "COMPLETE")
        await history.is_exact()
        await history.make(pieces=2)
        await history.is_exact()
    await history.make()
    await history.is_exact()


async def test_steps_of_the_clock_before_days_were_made_are_found(history: History) -> None:
    """Within a day and over midnight; some windows begin between a change and one that came
    later."""
    await history.live(range(1, 10))
    for worker_id in (1, 4, 7, 20):
        day = 9 * DAY + worker_id * HOUR
        for ago, new in (
            (day, "LOST"),
            (day + 5 * HOUR, "RUNNING"),
            (day + 2 * DAY, "LOST"),
            (day, "RUNNING"),
        ):
            if ago > day + DAY and worker_id in {4, 7}:
                break
            if history.statuses.get(worker_id) != new:
                await history.change(worker_id, ago, new)
    await history.make()
    await history.is_exact(*(9 * DAY + (hours + 2.5) * HOUR for hours in (1, 4, 7, 20)))


async def test_losses_of_many_over_midnight_are_all_counted(history: History) -> None:
    """Made in pieces of two changes."""
    for ago, new in ((20, "RUNNING"), (12, "LOST"), (10, "RUNNING"), (8, "LOST"), (5, "COMPLETE")):
        for worker_id in range(1, 8):
            await history.change(worker_id, ago * DAY - worker_id, new)
    await history.make(changes_at_once=2)
    await history.is_exact()
    assert await is_read_from_days(history)


async def test_what_is_dated_ahead_counts_as_of_now(history: History) -> None:
    """The clock was ahead and went back: days that are still to come were made, too."""
    await history.live(range(1, 10))
    for worker_id in (1, 2, 3, 20):
        await history.change(
            worker_id, -2 * DAY, "LOST" if history.statuses.get(worker_id) != "LOST" else "RUNNING"
        )
    for worker_id in (2, 20):
        await history.change(worker_id, HOUR, "COMPLETE")
    await history.connection.execute(
        "INSERT INTO uptime_days (day, through_revision, is_complete) VALUES ($1, 0, true)",
        (history.rows.now + timedelta(days=2)).date(),
    )
    await history.is_exact()
    await history.make()
    await history.is_exact()


async def test_days_beyond_the_retention_are_deleted(history: History) -> None:
    await history.live(range(1, 5))
    await history.make()
    old: datetime = history.rows.ago(31 * DAY)
    await history.connection.execute(
        "INSERT INTO uptime_days (day, through_revision) VALUES ($1, 0)", old.date()
    )
    await history.make()
    days = await history.connection.fetch("SELECT day, is_complete FROM uptime_days ORDER BY day")
    assert len(days) == RETENTION_DAYS
    assert all(day["is_complete"] for day in days)
    assert days[0]["day"] > old.date()


async def test_a_processor_sums_up_the_days_by_itself(
    rows: Rows, start_processor: StartRole, eventually: Eventually
) -> None:
    """One is killed in the middle of it, and the next goes on."""
    history = History(rows, 1)
    await history.live(range(1, 10))
    complete = "SELECT count(*) FROM uptime_days WHERE is_complete"

    async def some_are_made() -> bool:
        return bool(await rows.connection.fetchval(complete))

    async def all_are_made() -> bool:
        return bool(await rows.connection.fetchval(complete) == RETENTION_DAYS)

    first = await start_processor(blind_after_seconds=BLIND_AFTER, lease_seconds=2)
    await eventually(some_are_made)
    first.kill()
    await start_processor(blind_after_seconds=BLIND_AFTER, lease_seconds=2)
    await eventually(all_are_made)
    await history.is_exact()


async def test_who_leads_no_more_sums_up_nothing(rows: Rows, database: str) -> None:
    await History(rows, 1).live(range(1, 5))
    async with create_pool(database, application="test", size=1, timeout_seconds=30) as pool:
        token = await hold_lease(rows.connection, LEASE, "one", seconds=60)
        assert isinstance(token, int)
        await rows.connection.execute("UPDATE leases SET token = token + 1")
        days = UptimeDays(
            Leadership(pool, "one", lease_seconds=60),
            retention_days=RETENTION_DAYS,
        )
        with pytest.raises(LeaseLost):
            await days.make_some(Term(pool, token))
    assert not await rows.connection.fetch("SELECT FROM uptime_days")


def test_all_statuses_take_part() -> None:
    assert set(STATUSES) | {"INITIALIZING"} == set(StatusType)
