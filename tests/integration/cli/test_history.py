"""`manman-status history` and `uptime`, and the views of a past time, read from a real api."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.conftest import run_sql

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.integration.cli.conftest import Command
    from tests.kinds import StartRole

FILL = (
    """INSERT INTO workers (worker_id, created_date, status, status_since, reason, labels)
       VALUES (7, now() - interval '2 days', 'RUNNING', now() - interval '5 hours', 'recovered',
           '{"group": "eu"}')""",
    """INSERT INTO server_instances (instance_id, worker_id, created_date, status, status_since,
       reason)
       VALUES (31, 7, now() - interval '1 hour', 'RUNNING', now() - interval '1 hour',
           'reported')""",
    """INSERT INTO transitions (revision, at, entity, entity_id, old_status, new_status, reason)
       VALUES (1, now() - interval '2 days', 'worker', 7, NULL, 'RUNNING', 'reported'),
              (2, now() - interval '6 hours', 'worker', 7, 'RUNNING', 'LOST', 'heartbeat_expired'),
              (3, now() - interval '5 hours', 'worker', 7, 'LOST', 'RUNNING', 'recovered'),
              (4, now() - interval '1 hour', 'game_server_instance', 31, NULL, 'RUNNING',
                  'reported')""",
    "UPDATE observation SET observed_through = now(), resumed_at = now() - interval '1 day'",
)


@pytest.fixture
async def url(database: str, start_api: StartRole) -> str:
    await run_sql(database, *FILL)
    return (await start_api(blind_after_seconds=3600)).url


@pytest.fixture
def look(url: str, manman_status: Command) -> Callable[..., Awaitable[str]]:
    async def run(*arguments: str) -> str:
        finished = await manman_status(*arguments, url=url)
        assert (finished.code, finished.err) == (0, "")
        return finished.out

    return run


async def test_history_lists_the_transitions_of_one(look: Callable[..., Awaitable[str]]) -> None:
    table = await look("history", "7")
    assert [line.split()[0] for line in table.splitlines()[1:-1]] == ["3", "2", "1"]
    assert table.splitlines()[-1] == "3 shown"

    async def revisions(*arguments: str) -> list[int]:
        return [
            item["revision"] for item in json.loads(await look("history", *arguments, "--json"))
        ]

    assert await revisions("7", "--since", "24h") == [3, 2]
    assert await revisions("7", "--since", "2001-01-01T00:00:00Z", "--status", "lost") == [2]
    assert await revisions("7", "--limit", "1") == [3]
    assert await revisions("31", "--server") == [4]


async def test_uptime_of_one_and_of_a_group(look: Callable[..., Awaitable[str]]) -> None:
    shown = await look("uptime", "7", "--window", "10h")
    assert shown.startswith("active 90.00")
    assert "1:00:00" in shown
    one = json.loads(await look("uptime", "7", "--window", "10h", "--json"))
    assert (one["worker_id"], one["lost_seconds"]) == (7, 3600)
    group = json.loads(await look("uptime", "--group", "eu", "--window", "10h", "--json"))
    assert (group["workers"], group["lost_seconds"]) == (1, 3600)
    assert (await look("uptime", "--group", "us")).startswith("nothing was to be active")


async def test_views_show_a_past_time(look: Callable[..., Awaitable[str]]) -> None:
    assert (await look("workers", "--at", "330m")).splitlines()[1].split()[:4] == [
        "7",
        "unhealthy",
        "LOST",
        "heartbeat_expired",
    ]
    worker = await look("worker", "7", "--at", "330m")
    assert "LOST" in worker
    assert "last beat" not in worker
    assert (await look("servers", "--at", "330m")).splitlines()[-1] == "0 shown"
    system = await look("system", "--at", "330m")
    assert system.startswith("down\nas it was at ")


async def test_unknown_past_is_refused_with_a_reason(url: str, manman_status: Command) -> None:
    assert (await manman_status("workers", "--at", "30d", url=url)).out.splitlines()[
        -1
    ] == "0 shown", "all of it"
    refused = await manman_status("workers", "--at", "31d", url=url)
    assert refused.code == 1
    assert "the oldest that may be queried is" in refused.err
    assert (await manman_status("workers", "--at", "soon", url=url)).code == 1
    assert (await manman_status("workers", "--at", "9999999d", url=url)).code == 2
    assert (await manman_status("servers", "--active", "--at", "1h", url=url)).code == 2
    assert (await manman_status("uptime", "7", "--group", "eu", url=url)).code == 2
    assert (await manman_status("history", "8", url=url)).code == 1
