"""Groups are chosen by workers, and there may be as many as workers: what is shown of them is
bounded, and says so."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import httpx

    from tests.integration.api.conftest import Rows

GROUPS = 1_300


@pytest.fixture
async def many(rows: Rows) -> Rows:
    """One worker each; of the last group it is lost, and of the first there are three."""
    await rows.connection.execute(
        """INSERT INTO workers (worker_id, created_date, last_heartbeat, status, status_since,
            reason, labels)
        SELECT n, now(), $2::timestamptz, CASE WHEN n = $1 THEN 'LOST' ELSE 'RUNNING' END, now(),
            'reported',
            jsonb_build_object('group', CASE WHEN n = $1 THEN 'zz' ELSE 'g' || CASE WHEN n > $1 THEN
                1 ELSE n END END)
        FROM generate_series(1, $1::bigint + 2) n""",
        GROUPS,
        rows.now,
    )
    return rows


async def test_the_summary_has_the_largest_and_how_many_there_are(
    many: Rows, http: httpx.AsyncClient
) -> None:
    system = (await http.get("/status/system")).json()
    assert (len(system["groups"]), system["groups_total"]) == (100, GROUPS)
    assert (system["groups"][0]["group"], system["groups"][0]["healthy"]) == ("g1", 3)
    assert (system["workers"]["healthy"], system["workers"]["unhealthy"]) == (GROUPS + 1, 1)


async def test_the_page_and_the_map_say_how_many_more_there_are(
    many: Rows, http: httpx.AsyncClient
) -> None:
    page = (await http.get("/")).text
    assert len(page) < 500_000
    shown = len(re.findall(r'id="group-\d+"', page))
    assert shown == 501, "500 and the one that is ill"
    assert "zz</a>" in page
    assert f"and {GROUPS - shown} more groups" in page
    fleet_map = (await http.get("/page/map.json")).json()
    assert (len(fleet_map["groups"]), fleet_map["more_groups"]) == (1_000, GROUPS - 1_000)
    assert "zz" in [group[0] for group in fleet_map["groups"]]


async def test_metrics_have_the_others_as_one(many: Rows, http: httpx.AsyncClient) -> None:
    found = re.findall(
        r'^manman_status_group_workers\{group="(.*?)",health="(\w+)"\} ([\d.]+)',
        (await http.get("/metrics")).text,
        re.MULTILINE,
    )
    assert len({group for group, _, _ in found}) == 101
    assert sum(float(number) for _, _, number in found) == GROUPS + 2
    assert ("…other", "unhealthy", "1.0") in found


async def test_summary_has_the_groups_that_hold_most(rows: Rows, http: httpx.AsyncClient) -> None:
    for number in range(1, 121):
        await rows.guard(f"g{number:03}", held=number, group_size=200)
    observation = (await http.get("/status/system")).json()["observation"]
    assert (len(observation["guard"]), observation["guards_total"]) == (100, 120)
    assert observation["guard"][0]["group"] == "g021"
    assert "Guards hold 110 more groups." in (await http.get("/")).text
    assert "manman_status_guard_groups 120.0" in (await http.get("/metrics")).text
