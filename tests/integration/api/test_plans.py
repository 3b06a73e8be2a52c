"""PostgreSQL answers each list query at 100,000 rows from an index, in order, touching little."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from manman_status.alerts.reading import (
    AlertFilters,
    AlertSelection,
    SilenceFilters,
    SilenceSelection,
    get_alert,
    list_alerts,
    list_silences,
)
from manman_status.domain.alert import Severity
from manman_status.domain.status import Health, StatusType
from manman_status.store.details import get_server, get_worker
from manman_status.store.pool import create_pool
from manman_status.store.reads import ServerFilters, WorkerFilters, list_servers, list_workers
from tests.integration.api.test_health import note_late

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from manman_status.dev.postgres import EmbeddedPostgres
    from manman_status.store.pool import Connection

ROWS = 100_000
LIMIT = 100
FILL = (
    "UPDATE observation SET blind_after_seconds = 86400",
    f"""INSERT INTO workers (worker_id, created_date, last_heartbeat, status, status_since, reason,
        labels)
        SELECT n, now(), CASE WHEN n % 50 > 0 THEN now() - (n % 25) * interval '1 s' END,
            CASE WHEN n % 10 < 2 THEN 'RUNNING' WHEN n % 10 = 2 THEN 'LOST' ELSE 'COMPLETE' END,
                now(), 'reported',
            jsonb_build_object('group', 'g' || n % 20, 'host', 'h' || n, 'version', '1.4.2')
        FROM generate_series(1, {ROWS}) n""",
    f"""INSERT INTO server_instances (instance_id, worker_id, game_server_config_id, created_date,
            status, status_since,
            reason)
        SELECT n, 1 + n * 7919::bigint % 5000, 1 + n % 211, now(),
            CASE WHEN n % 10 = 0 THEN 'RUNNING' WHEN n % 10 = 1 THEN 'LOST' ELSE 'COMPLETE' END,
                now(), 'reported'
        FROM generate_series(1, {ROWS}) n""",
    f"""INSERT INTO transitions (revision, at, entity, entity_id, new_status, reason)
        SELECT n, now(), 'worker', 1 + n % 1000, 'RUNNING', 'reported' FROM generate_series(1,
            {ROWS}) n""",
    # Of 200 alerts one is not resolved, and nine are part of it.
    f"""INSERT INTO alerts (key, rule, severity, state, summary, part_of, group_name, worker_id,
        opened_at, resolved_at)
        SELECT 'worker_lost:' || n, 'worker_lost', CASE WHEN n % 3 = 0 THEN 'critical' ELSE
            'warning' END,
            CASE WHEN n % 200 = 0 THEN 'open' ELSE 'resolved' END, '', CASE WHEN n > 200 AND n % 200
                < 10
            THEN nullif(n - n % 200, n) END, 'g' || n % 20, 1 + n % 5000, now(),
            CASE WHEN n % 200 > 0 THEN now() END
        FROM generate_series(1, {ROWS}) n""",
    """INSERT INTO silences (silence_id, created_at, ends_at, created_by, why, group_name)
        SELECT 's' || n, now(), now() + (n - 995.5) * interval '1 h', 'ann', '', 'g' || n % 20
        FROM generate_series(1, 1000) n""",
    # However long it took to write the rows.
    """UPDATE observation SET observed_through = (SELECT max(last_heartbeat) FROM workers),
        resumed_at = now() - interval '1 day'""",
    "VACUUM ANALYZE",
)


NARROW = {
    *("observation", "revision_counter", "transitions_default", "alert_progress"),
    *("sweeps", "late_workers", "unwatched_workers"),
}
"""Tables of a few rows, or of a few numbers for each of a few workers."""


class Plan:
    """The result of EXPLAIN for one query."""

    def __init__(self, root: dict[str, Any]) -> None:
        self.root = root
        self.nodes = list(self._walk(root))

    def _walk(self, node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield node
        for child in node.get("Plans", ()):
            yield from self._walk(child)

    @property
    def scanned_whole(self) -> set[str]:
        whole = {node["Relation Name"] for node in self.nodes if node["Node Type"] == "Seq Scan"}
        return whole - NARROW

    @property
    def sorted_rows(self) -> float:
        return sum(
            child["Actual Rows"]
            for node in self.nodes
            if "Sort" in node["Node Type"]
            for child in node["Plans"]
        )

    @property
    def rows_looked_at(self) -> float:
        """In the tables that grow, page and detail; not the counting of active servers, an
        index-only scan."""
        return sum(
            (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
            for node in self.nodes
            if node["Node Type"] in {"Index Scan", "Bitmap Heap Scan", "Seq Scan"}
            and node["Relation Name"] not in NARROW | {"silences"}
        )

    @property
    def buffers(self) -> int:
        return int(self.root["Shared Hit Blocks"] + self.root["Shared Read Blocks"])


class Explained:
    """A connection that keeps the plan of what it fetches."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.plan: Plan

    async def fetch(self, query: str, *values: Any) -> list[asyncpg.Record]:
        explained = await self.connection.fetchval(
            f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {query}", *values
        )
        self.plan = Plan(explained[0]["Plan"])
        return await self.connection.fetch(query, *values)


@pytest.fixture(scope="module")
async def crowded(postgres: EmbeddedPostgres, migrated_template: str) -> AsyncIterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    url = postgres.url.replace("/postgres", f"/{name}")
    server = await asyncpg.connect(postgres.url)
    await server.execute(f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
    connection = await asyncpg.connect(url)
    for statement in FILL:
        await connection.execute(statement)
    await connection.close()
    yield url
    await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await server.close()


@pytest.fixture
async def explained(crowded: str) -> AsyncIterator[Explained]:
    async with (
        create_pool(crowded, application="test", size=1, timeout_seconds=60) as pool,
        pool.acquire() as one,
    ):
        yield Explained(one)


@pytest.mark.parametrize(
    "filters",
    [
        WorkerFilters(),
        WorkerFilters(status=StatusType.RUNNING),
        WorkerFilters(status=StatusType.LOST),
        WorkerFilters(health=Health.HEALTHY),
        WorkerFilters(health=Health.TERMINATED),
        WorkerFilters(health=Health.HEALTHY, status=StatusType.RUNNING),
        WorkerFilters(health=Health.HEALTHY, status=StatusType.COMPLETE),
        WorkerFilters(labels={"version": "1.4.2"}),
    ],
    ids=str,
)
async def test_a_page_of_workers_comes_in_order_from_an_index(
    filters: WorkerFilters, explained: Any
) -> None:
    page = await list_workers(explained, filters, after=ROWS // 2, limit=LIMIT)
    plan = explained.plan
    impossible = filters.health is Health.HEALTHY and filters.status is StatusType.COMPLETE
    assert len(page.items) == (0 if impossible else LIMIT)
    assert not plan.scanned_whole
    assert plan.sorted_rows == 0
    assert plan.rows_looked_at < 15 * LIMIT
    assert plan.buffers < 20 * LIMIT


@pytest.mark.parametrize(
    ("filters", "found", "looked_at"),
    [
        (WorkerFilters(labels={"host": "h77777"}), 1, 10),
        (WorkerFilters(labels={"host": "nobody"}), 0, 10),
        (WorkerFilters(labels={"group": "g1"}), LIMIT, ROWS // 20 + LIMIT),
        (WorkerFilters(labels={"group": "g2"}, status=StatusType.LOST), LIMIT, ROWS // 20 + LIMIT),
        # Health by time is in no index, for it would have to change with every beat: those that
        # beat are looked at.
        (WorkerFilters(health=Health.UNKNOWN), LIMIT, ROWS * 2 // 10),
        (WorkerFilters(health=Health.LATE), LIMIT, ROWS * 2 // 10),
        (WorkerFilters(health=Health.UNHEALTHY), LIMIT, ROWS * 3 // 10),
    ],
    ids=str,
)
async def test_what_is_rare_is_looked_for_only_where_it_can_be(
    filters: WorkerFilters, found: int, looked_at: int, explained: Any
) -> None:
    page = await list_workers(explained, filters, after=0, limit=LIMIT)
    assert len(page.items) == found
    assert not explained.plan.scanned_whole
    assert explained.plan.rows_looked_at <= looked_at


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (WorkerFilters(health=Health.LATE, labels={"host": "h120"}), 1),
        (WorkerFilters(health=Health.LATE, labels={"group": "g1"}), LIMIT),
        (WorkerFilters(health=Health.LATE), LIMIT),
        (WorkerFilters(health=Health.LATE, status=StatusType.COMPLETE), 0),
        (WorkerFilters(health=Health.UNHEALTHY), LIMIT),
        (WorkerFilters(health=Health.UNHEALTHY, status=StatusType.LOST), LIMIT),
        (WorkerFilters(health=Health.UNKNOWN), LIMIT),
    ],
    ids=str,
)
async def test_unhealthy_workers_are_read_from_the_sweep(
    filters: WorkerFilters, found: int, explained: Any
) -> None:
    """The same workers as are found by looking at all, at a fraction of the cost."""
    connection = explained.connection
    searched = await list_workers(connection, filters, after=0, limit=LIMIT)
    transaction = connection.transaction()
    await transaction.start()
    await note_late(connection)
    await connection.execute("ANALYZE late_workers")
    page = await list_workers(explained, filters, after=0, limit=LIMIT)
    await transaction.rollback()
    assert page.items == searched.items
    assert len(page.items) == found
    assert not explained.plan.scanned_whole
    assert explained.plan.rows_looked_at < ROWS / 8


@pytest.mark.parametrize(
    "filters",
    [
        ServerFilters(),
        ServerFilters(status=StatusType.COMPLETE),
        ServerFilters(status=StatusType.LOST),
        ServerFilters(game_server_config_id=7),
        ServerFilters(active=True),
    ],
    ids=str,
)
async def test_a_page_of_servers_comes_in_order_from_an_index(
    filters: ServerFilters, explained: Any
) -> None:
    page = await list_servers(explained, filters, after=ROWS // 2, limit=LIMIT)
    plan = explained.plan
    assert len(page.items) == LIMIT
    assert not plan.scanned_whole
    assert plan.sorted_rows == 0
    # A tenth has a status: the planner may rather read ten neighbours than jump.
    assert plan.rows_looked_at <= 10 * (LIMIT + 1)
    assert plan.buffers < 3 * LIMIT


@pytest.mark.parametrize(
    "filters",
    [
        ServerFilters(worker_id=7),
        ServerFilters(worker_id=7, active=True),
        ServerFilters(worker_id=7, status=StatusType.COMPLETE),
        ServerFilters(worker_id=7, game_server_config_id=7),
        ServerFilters(game_server_config_id=7, status=StatusType.LOST),
        ServerFilters(game_server_config_id=7, active=True),
        ServerFilters(worker_id=10**9),
    ],
    ids=str,
)
async def test_the_servers_of_one_are_not_looked_for_among_all(
    filters: ServerFilters, explained: Any
) -> None:
    await list_servers(explained, filters, after=0, limit=LIMIT)
    assert not explained.plan.scanned_whole
    assert explained.plan.rows_looked_at < ROWS / 100
    assert explained.plan.sorted_rows < ROWS / 1000


async def test_a_detail_looks_only_at_what_it_shows(explained: Any) -> None:
    await get_worker(explained, 7)
    assert not explained.plan.scanned_whole
    assert explained.plan.rows_looked_at < 200
    await get_server(explained, 7)
    assert not explained.plan.scanned_whole
    assert explained.plan.buffers < 20


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (AlertFilters(), LIMIT),
        (AlertFilters(state=AlertSelection.OPEN), LIMIT),
        (AlertFilters(state=AlertSelection.ACKNOWLEDGED), 0),
        (AlertFilters(group_name="g0"), LIMIT),
        (AlertFilters(severity=Severity.INFO), 0),
        (AlertFilters(worker_id=1001), 10),
        (AlertFilters(worker_id=2), 0),
        (AlertFilters(rule="dead_letters"), 0),
    ],
    ids=str,
)
async def test_what_is_resolved_is_not_looked_at_for_what_is_not(
    filters: AlertFilters, found: int, explained: Any
) -> None:
    page = await list_alerts(explained, filters, before=ROWS // 2, limit=LIMIT)
    plan = explained.plan
    assert len(page.items) == found
    assert not plan.scanned_whole
    assert plan.sorted_rows < ROWS / 1000
    assert plan.rows_looked_at < ROWS / 200 + 20 * LIMIT


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (AlertFilters(state=AlertSelection.ALL), LIMIT),
        (AlertFilters(state=AlertSelection.RESOLVED, severity=Severity.CRITICAL), LIMIT),
        (AlertFilters(state=AlertSelection.ALL, worker_id=7), 10),
        (AlertFilters(state=AlertSelection.ALL, part_of=20_000), 9),
    ],
    ids=str,
)
async def test_a_page_of_all_alerts_comes_from_an_index(
    filters: AlertFilters, found: int, explained: Any
) -> None:
    page = await list_alerts(explained, filters, before=ROWS // 2, limit=LIMIT)
    assert len(page.items) == found
    assert not explained.plan.scanned_whole
    assert explained.plan.sorted_rows < 20
    assert explained.plan.rows_looked_at < 5 * LIMIT


async def test_one_alert_and_the_silences_that_last_are_found_at_once(explained: Any) -> None:
    await get_alert(explained, 20_000)
    assert explained.plan.buffers < 50
    page = await list_silences(
        explained, SilenceFilters(SilenceSelection.LASTING), before=10_000, limit=LIMIT
    )
    assert len(page.items) == 5
    assert "Seq Scan" not in [
        node["Node Type"] for node in explained.plan.nodes if node.get("Relation Name") == "alerts"
    ]
    assert explained.plan.buffers < 10 * ROWS / 200
