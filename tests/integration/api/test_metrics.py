"""Metrics of the fleet and of both services, as Prometheus reads them."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from manman_status.domain.status import Health
from manman_status.store.measured import read_measured
from manman_status.store.system_reads import read_fleet
from tests.integration.api.conftest import UNHURRIED
from tests.integration.api.test_health import OBSERVATIONS, everybody, note_late
from tests.integration.api.test_observation import STATISTICS

if TYPE_CHECKING:
    import httpx
    from prometheus_client import Metric

    from tests.integration.api.conftest import Rows

    RunApp = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]

UNITS = {
    "_total": "counter",
    "_seconds": "gauge histogram",
    "_workers": "gauge",
    "_server_instances": "gauge",
    "_processors": "gauge",
    "_groups": "gauge",
    "_alerts": "gauge",
    "_messages": "gauge",
    "_events": "histogram",
    "_up": "gauge",
    "_state": "gauge",
    "_health": "gauge",
    "_info": "gauge",
}
"""Allowed endings of a name, each with its type."""
LABELS = {
    "group",
    "health",
    "status",
    "state",
    "processor",
    "version",
    "kind",
    "outcome",
    "entity",
    "reason",
    "queue",
    "channel",
    "rule",
    "severity",
    "le",
    "worker_id",
}


async def families(http: httpx.AsyncClient) -> dict[str, Metric]:
    response = await http.get("/metrics")
    assert response.status_code == 200
    return {family.name: family for family in text_string_to_metric_families(response.text)}


async def series(http: httpx.AsyncClient, name: str) -> dict[tuple[str, ...], float]:
    """A series by the values of its labels, in the order of their names."""
    found = await families(http)
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in found.values()
        for sample in family.samples
        if sample.name == name
    }


@pytest.fixture
async def everything(rows: Rows) -> None:
    """Something of all that is measured."""
    await rows.worker(1, labels={"group": "eu-1"})
    await rows.worker(2, status="COMPLETE")
    await rows.server(1)
    await rows.guard("eu-1", held=3, group_size=7)
    await rows.processor("one", statistics=STATISTICS)


async def test_every_metric_has_unit_meaning_and_known_labels(
    everything: None, run_app: RunApp
) -> None:
    async with run_app(worker_series=True) as http:
        found = await families(http)
        text = (await http.get("/metrics")).text
    ours = {name: family for name, family in found.items() if name.startswith("manman_status_")}
    ours = {
        name: family for name, family in ours.items() if not name.startswith("manman_status_http_")
    }
    assert len(ours) > 25
    for name, family in ours.items():
        assert family.documentation.endswith("."), name
        full = f"{name}_total" if family.type == "counter" else name
        unit = max((unit for unit in UNITS if full.endswith(unit)), key=len, default=None)
        assert unit is not None or name == "manman_status_workers", full
        assert family.type in UNITS[unit or "_workers"].split(), name
        assert family.samples, name
        for sample in family.samples:
            assert sample.labels.keys() <= LABELS, name
    shown = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert len(shown) == len(set(shown)), "a family is shown once"


async def test_workers_are_counted_by_health_and_by_group(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    await rows.worker(1, labels={"group": "eu-1"})
    await rows.worker(2, labels={"group": "eu-1"}, beat_seconds_ago=20)
    await rows.worker(3, labels={"group": 'a "quoted"\\name\n'})
    await rows.worker(4, status="LOST", beat_seconds_ago=90)
    await rows.worker(5, status="COMPLETE", labels={"group": "gone"})
    assert await series(http, "manman_status_workers") == {
        ("healthy",): 2,
        ("late",): 1,
        ("unhealthy",): 1,
        ("terminated",): 1,
        ("unknown",): 0,
    }
    by_group = await series(http, "manman_status_group_workers")
    assert {labels: number for labels, number in by_group.items() if number} == {
        ("eu-1", "healthy"): 1,
        ("eu-1", "late"): 1,
        ('a "quoted"\\name\n', "healthy"): 1,
        ("", "unhealthy"): 1,
    }
    assert len(by_group) == 3 * 4, "a group has a series of each health, whether it is or not"


async def test_beyond_the_largest_groups_the_others_are_one(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    """A worker that makes up groups makes no series of them."""
    await rows.connection.execute("""
        INSERT INTO workers (worker_id, created_date, last_heartbeat, status, status_since, reason,
            labels)
        SELECT n, now(), now(), 'RUNNING', now(), 'reported', jsonb_build_object('group', 'g' || n %
            300)
        FROM generate_series(1, 900) n
        UNION ALL SELECT 900 + n, now(), now(), 'RUNNING', now(), 'reported', '{"group": "large"}'
        FROM generate_series(1, 10) n""")
    groups: Counter[str] = Counter()
    for (group, _), number in (await series(http, "manman_status_group_workers")).items():
        groups[group] += int(number)
    assert len(groups) == 101
    assert groups["large"] == 10
    assert groups["…other"] == 3 * (300 - 99)
    assert sum(groups.values()) == 910


@pytest.mark.parametrize("observation", OBSERVATIONS, ids=str)
async def test_prometheus_and_people_see_the_same_healths(
    observation: dict[str, Any], rows: Rows
) -> None:
    async with rows.connection.transaction():
        rows.now = await rows.connection.fetchval("SELECT now()")
        await rows.observe(**observation)
        rows.now = rows.ago(observation["lag"] or 0.0)
        await everybody(rows)
        fleet = await read_fleet(rows.connection)
        measured = await read_measured(rows.connection)
        await note_late(rows.connection)
        swept = await read_measured(rows.connection)
    terminated = {Health.TERMINATED: measured.terminated_workers}
    assert {health: number for _, health, number in measured.workers} | terminated == {
        health: number for health, number in fleet.workers_by_health.items() if number
    }
    assert sorted(swept.workers) == sorted(measured.workers)
    assert swept.oldest_heartbeat_age_seconds == measured.oldest_heartbeat_age_seconds
    assert swept.terminated_workers == measured.terminated_workers


@pytest.mark.parametrize(
    ("lag", "state"), [(0.0, "ok"), (600.0, "degraded"), (3100.0, "blind"), (None, "blind")]
)
async def test_the_observation_is_in_one_state(
    lag: float | None, state: str, rows: Rows, run_app: RunApp
) -> None:
    await rows.observe(lag=lag)
    async with run_app(**UNHURRIED) as http:
        states = await series(http, "manman_status_observation_state")
    assert states == {
        ("ok",): state == "ok",
        ("degraded",): state == "degraded",
        ("blind",): state == "blind",
    }


async def test_time_since_alerts_were_judged_is_shown(rows: Rows, http: httpx.AsyncClient) -> None:
    assert await series(http, "manman_status_alerts_judged_age_seconds") == {}
    await rows.connection.execute("UPDATE alert_progress SET judged_at = now() - interval '90 s'")
    [age] = (await series(http, "manman_status_alerts_judged_age_seconds")).values()
    assert 90 <= age < 120


async def test_what_the_guard_holds_is_counted(rows: Rows, http: httpx.AsyncClient) -> None:
    assert await series(http, "manman_status_guard_groups") == {(): 0}
    await rows.guard("eu-1", held=3, group_size=7)
    await rows.guard("", held=5, group_size=8)
    assert await series(http, "manman_status_guard_groups") == {(): 2}
    assert await series(http, "manman_status_guard_held_workers") == {(): 8}


async def test_histograms_of_a_processor_are_cumulative(
    everything: None, http: httpx.AsyncClient
) -> None:
    name = "manman_status_processor_batch_events"
    assert await series(http, f"{name}_bucket") == {
        ("0.0", "a-host"): 1,
        ("10.0", "a-host"): 3,
        ("+Inf", "a-host"): 3,
    }
    assert await series(http, f"{name}_count") == {("a-host",): 3}
    assert await series(http, f"{name}_sum") == {("a-host",): 7}


async def test_processors_are_labelled_by_host_or_by_id(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    name = "manman_status_processor_redeliveries_total"
    await rows.processor("one-3f", statistics=STATISTICS)
    await rows.processor("two-9a", host="b-host", statistics=STATISTICS)
    assert (await series(http, name)).keys() == {("a-host",), ("b-host",)}
    await rows.processor("one-77", statistics=STATISTICS)
    assert (await series(http, name)).keys() == {("one-3f",), ("one-77",), ("b-host",)}


async def test_shared_figures_are_those_of_the_leader(rows: Rows, http: httpx.AsyncClient) -> None:
    """Processors count the same thing at different moments; one value is shown."""
    await rows.processor("leads", last_seen=rows.ago(0.2), statistics=STATISTICS)
    follows = STATISTICS | {
        "dead_letters_waiting": 0,
        "queue_depths": {"beats": 9},
        "relay_backlog": None,
    }
    await rows.processor("follows", statistics=follows)
    assert await series(http, "manman_status_dead_letter_messages") == {(): 4}
    assert await series(http, "manman_status_queue_messages") == {("beats",): 0}


async def test_silent_or_forgotten_processor_has_no_series(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    await rows.processor("one", statistics=STATISTICS)
    await rows.processor("two", host="b-host", statistics=STATISTICS)
    assert await series(http, "manman_status_processors") == {(): 2}
    await rows.connection.execute(
        "UPDATE processors SET last_seen = now() - interval '31 s' WHERE host = 'b-host'"
    )
    assert await series(http, "manman_status_processors") == {(): 1}
    assert "b-host" not in (await http.get("/metrics")).text
    await rows.connection.execute("DELETE FROM processors")
    assert await series(http, "manman_status_processors") == {(): 0}
    assert "a-host" not in (await http.get("/metrics")).text


async def test_older_processor_is_counted_as_far_as_it_counts(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    await rows.processor("old", statistics={"events": {"Heartbeat": {"stored": 7}}})
    found = await series(http, "manman_status_processor_events_total")
    assert found == {("Heartbeat", "stored", "a-host"): 7}


async def test_workers_have_series_only_if_set_and_while_alive(rows: Rows, run_app: RunApp) -> None:
    await rows.worker(1, beat_seconds_ago=20)
    await rows.worker(2, beat_seconds_ago=None)
    async with run_app() as http:
        assert 'worker_id="' not in (await http.get("/metrics")).text
    async with run_app(worker_series=True) as http:
        assert await series(http, "manman_status_worker_health") == {
            ("late", "1"): 1,
            ("unknown", "2"): 1,
        }
        ages = await series(http, "manman_status_worker_heartbeat_age_seconds")
        assert ages.keys() == {("1",)}
        assert 20 <= ages["1",] < 30
        await rows.connection.execute("UPDATE workers SET status = 'COMPLETE'")
        assert 'worker_id="' not in (await http.get("/metrics")).text


async def test_scrapers_at_once_and_within_a_moment_share_one_reading(
    rows: Rows, run_app: RunApp
) -> None:
    async with run_app(answer_cache_ms=60_000) as http:
        first = await asyncio.gather(*(series(http, "manman_status_workers") for _ in range(5)))
        await rows.worker(1)
        assert await series(http, "manman_status_workers") == first[0] == first[4]
    async with run_app(answer_cache_ms=0) as http:
        assert (await series(http, "manman_status_workers"))["healthy",] == 1


async def test_requests_are_counted_by_route(rows: Rows, http: httpx.AsyncClient) -> None:
    def paths(found: dict[str, Metric]) -> set[str]:
        return {sample.labels["path"] for sample in found["manman_status_http_requests"].samples}

    for path in ("/status/workers/4711", "/nowhere/4712", "/status/servers/4713?x=1"):
        await http.get(path)
    found: Any = paths(await families(http))
    assert "/status/workers/{worker_id}" in found
    assert not [path for path in found if "471" in path]
