"""`manman-status workers`, `worker`, `servers` and `system`, read from a real api."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import run_sql

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.integration.cli.conftest import Command
    from tests.kinds import StartRole

TOKEN = "open-sesame-4711"
FILL = (
    """INSERT INTO workers (worker_id, created_date, last_heartbeat, status, status_since, reason,
       labels)
       SELECT n, now(), now(), CASE WHEN n % 2 = 0 THEN 'LOST' ELSE 'RUNNING' END, now(),
           'reported',
           jsonb_build_object('group', 'g' || n % 3, 'evil', E'\\x1b[31m')
       FROM generate_series(1, 1500) n""",
    """UPDATE workers SET last_heartbeat = NULL, status_since = now() - interval '1 hour'
        WHERE worker_id = 1499""",
    """INSERT INTO server_instances (instance_id, worker_id, game_server_config_id, created_date,
           status, status_since,
           reason)
       SELECT n, 1 + n % 2, n, now(), CASE WHEN n < 3 THEN 'RUNNING' ELSE 'CRASHED' END, now(),
           'exit_code'
       FROM generate_series(1, 4) n""",
    """INSERT INTO transitions (revision, at, entity, entity_id, new_status, reason)
       VALUES (1, now(), 'worker', 1, 'RUNNING', 'reported')""",
    "UPDATE observation SET observed_through = now(), resumed_at = now() - interval '1 day'",
)


@pytest.fixture
async def url(database: str, start_api: StartRole) -> str:
    await run_sql(database, *FILL)
    return (await start_api(api_tokens=TOKEN, blind_after_seconds=3600)).url


@pytest.fixture
def look(url: str, manman_status: Command) -> Callable[..., Awaitable[str]]:
    async def run(*arguments: str) -> str:
        finished = await manman_status(*arguments, url=url, api_token=TOKEN)
        assert (finished.code, finished.err) == (0, "")
        return finished.out

    return run


async def test_every_view_is_a_table_for_people(look: Callable[..., Awaitable[str]]) -> None:
    workers = await look("workers", "--limit", "3")
    assert [line.split()[:3] for line in workers.splitlines()[1:-1]] == [
        ["1", "healthy", "RUNNING"],
        ["2", "unhealthy", "LOST"],
        ["3", "healthy", "RUNNING"],
    ]
    assert "\x1b" not in workers
    worker = await look("worker", "1")
    assert all(text in worker for text in ("group:g1", "deadline", "CRASHED", "revision"))
    servers = await look("servers", "--worker", "2")
    assert [line.split()[0] for line in servers.splitlines()[1:-1]] == ["1", "3"]
    system = await look("system")
    assert system.startswith("degraded")
    assert "total_active  750" in system
    assert "1 worker reports but never sent a heartbeat: `manman-status doctor`" in system


async def test_every_view_is_json_for_programs(look: Callable[..., Awaitable[str]]) -> None:
    async def ids(name: str, *arguments: str) -> list[int]:
        return [item[name] for item in json.loads(await look(*arguments, "--json"))]

    assert await ids("worker_id", "workers") == list(range(1, 1501)), "it follows the pages"
    assert await ids("worker_id", "workers", "--limit", "1200") == list(range(1, 1201))
    assert await ids("worker_id", "workers", "--health", "unhealthy", "--limit", "2") == [2, 4]
    assert await ids("worker_id", "workers", "--status", "lost", "--limit", "1") == [2]
    labels = ("--group", "g2", "--label", "group:g2", "--label", "evil:\x1b[31m")
    assert await ids("worker_id", "workers", *labels, "--limit", "2") == [2, 5]
    assert await ids("instance_id", "servers") == [1, 2, 3, 4]
    assert await ids("instance_id", "servers", "--active") == [1, 2]
    assert await ids("instance_id", "servers", "--status", "crashed", "--config", "4") == [4]
    worker: dict[str, Any] = json.loads(await look("worker", "1", "--json"))
    assert (worker["worker_id"], len(worker["transitions"])) == (1, 1)
    assert json.loads(await look("system", "--json"))["workers"]["total_active"] == 750


@pytest.mark.parametrize(
    ("arguments", "settings", "named"),
    [
        (("worker", "99999"), {}, "worker 99999"),
        (("workers", "--label", "group"), {}, "label: 'group' is not key:value"),
        (("servers", "--active", "--status", "lost"), {}, "status"),
        (("system",), {"api_token": ""}, "MANMAN_STATUS_API_TOKEN"),
        (("system",), {"api_token": "wrong"}, "MANMAN_STATUS_API_TOKEN"),
        (("system",), {"url": "http://127.0.0.1:1"}, "http://127.0.0.1:1 does not answer"),
        (("system", "--url", "http://127.0.0.1:1"), {}, "http://127.0.0.1:1 does not answer"),
    ],
)
async def test_what_goes_wrong_is_1_and_one_line(
    arguments: tuple[str, ...],
    settings: dict[str, str],
    named: str,
    url: str,
    manman_status: Command,
) -> None:
    finished = await manman_status(*arguments, **({"url": url, "api_token": TOKEN} | settings))
    assert (finished.code, finished.out) == (1, "")
    assert len(finished.err.splitlines()) == 1
    assert named in finished.err


@pytest.mark.parametrize(
    ("arguments", "settings", "named"),
    [
        (("worker",), {}, "ID"),
        (("worker", "0"), {}, "ID"),
        (("worker", "abc"), {}, "ID"),
        (("workers", "--health", "well"), {}, "--health"),
        (("workers", "--limit", "0"), {}, "--limit"),
        (("system",), {"url": "ftp://x"}, "MANMAN_STATUS_URL"),
        (("system",), {"api_token": "a\tb"}, "MANMAN_STATUS_API_TOKEN"),
    ],
)
async def test_wrong_usage_is_2_and_one_line(
    arguments: tuple[str, ...], settings: dict[str, str], named: str, manman_status: Command
) -> None:
    finished = await manman_status(*arguments, **settings)
    assert (finished.code, finished.out) == (2, "")
    assert len(finished.err.splitlines()) == 1
    assert named in finished.err
