"""`manman-status guard`: what is held, and a person's word that its workers are to be marked
LOST."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.integration.cli.conftest import Command
    from tests.kinds import Eventually, StartRole

GROUP = "eu 1; \x1b[31m"
IMPATIENT = {
    "minimum_timeout_seconds": 2,
    "recovery_grace_seconds": 0,
    "canary_interval_seconds": 0.2,
    "sweep_interval_seconds": 0.2,
    "guard_hold_seconds": 3600,
}


@pytest.fixture
async def url(start_api: StartRole) -> str:
    return (
        await start_api(answer_cache_ms=0, minimum_timeout_seconds=2, recovery_grace_seconds=0)
    ).url


async def test_a_person_releases_what_the_guard_holds(
    start_processor: StartRole,
    url: str,
    broker: str,
    publish: Callable[..., Awaitable[None]],
    manman_status: Command,
    eventually: Eventually,
) -> None:
    await start_processor(**IMPATIENT)
    beat = {"command_type": "HEARTBEAT", "interval_seconds": 1, "labels": {"group": GROUP}}
    # In one message, so that all of them go silent at the same moment.
    await publish(
        [{**beat, "command_args": [worker_id]} for worker_id in "123"], "worker.1.heartbeat"
    )

    async with httpx.AsyncClient(base_url=url) as http:

        async def system() -> dict[str, Any]:
            answer: dict[str, Any] = (await http.get("/status/system")).json()
            return answer

        async def lost() -> int:
            return len(
                (await http.get("/status/workers", params={"status": "LOST"})).json()["items"]
            )

        async def holds_all() -> bool:
            return [guard["held"] for guard in (await system())["observation"]["guard"] or ()] == [
                3
            ]

        await eventually(holds_all)
        assert await lost() == 0
        assert (await system())["workers"]["unhealthy"] == 3
        shown = await manman_status("guard", "list", url=url)
        assert (shown.code, shown.err) == (0, "")
        assert "eu 1; \N{REPLACEMENT CHARACTER}[31m" in shown.out
        assert shown.out.endswith("1 held\n")
        output = await manman_status("system", url=url)
        assert "guard: 3 of 3 workers" in output.out
        assert "\x1b" not in shown.out + output.out

        other = await manman_status("guard", "release", "another", rabbitmq_url=broker)
        assert (other.code, other.err) == (0, "")
        released = await manman_status("guard", "release", GROUP, rabbitmq_url=broker)
        assert (released.code, released.err) == (0, "")
        assert "LOST" in released.out

        async def is_done() -> bool:
            return await lost() == 3 and (await system())["observation"]["guard"] is None

        await eventually(is_done)
    assert json.loads((await manman_status("guard", "list", "--json", url=url)).out) == []
    assert (await manman_status("guard", "list", url=url)).out.endswith("0 held\n")


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("list", "--url", "http://127.0.0.1:1"), 1, "http://127.0.0.1:1 does not answer"),
        (
            ("release", "eu-1", "--rabbitmq-url", "amqp://127.0.0.1:1/"),
            1,
            "RabbitMQ does not answer",
        ),
        (("release", "eu-1"), 2, "MANMAN_STATUS_RABBITMQ_URL is not set"),
        (("release",), 2, "GROUP"),
        (("release", "x" * 1000), 2, "GROUP"),
    ],
)
async def test_what_goes_wrong_is_one_line(
    arguments: tuple[str, ...], code: int, named: str, manman_status: Command
) -> None:
    finished = await manman_status("guard", *arguments)
    assert (finished.code, finished.out) == (code, "")
    assert len(finished.err.splitlines()) == 1
    assert named in finished.err


async def test_where_no_processor_ever_ran_a_release_is_a_failure(
    manman_status: Command, broker: str
) -> None:
    finished = await manman_status("guard", "release", "eu-1", rabbitmq_url=broker)
    assert (finished.code, finished.out) == (1, "")
    assert finished.err.startswith("manman-status: the exchange manman.status.control is not there")


async def test_system_says_in_one_line_how_good_the_observation_is(
    database: str, url: str, manman_status: Command
) -> None:
    connection = await asyncpg.connect(database)

    async def line(lag_seconds: int | None) -> str:
        await connection.execute(
            "UPDATE observation SET observed_through = now() - make_interval(secs => $1),"
            " resumed_at = now()",
            lag_seconds,
        )
        finished = await manman_status("system", url=url)
        assert (finished.code, finished.err) == (0, "")
        return finished.out.splitlines()[1]

    assert await line(None) == "BLIND, nothing observed yet: no verdicts"
    blind = await line(3600)
    assert blind.startswith("BLIND since 20")
    assert blind.endswith("Z: no verdicts")
    degraded = await line(12)
    assert degraded.startswith("degraded: everything until ")
    assert degraded.endswith(" s ago), 0 processors")
    await connection.execute(
        "INSERT INTO processors (processor_id, host, version, started_at, last_seen) SELECT 'a',"
        " 'h', '1', now(), now()"
    )
    well = await line(0)
    assert well.startswith("observing well: everything until ")
    assert well.endswith(", 1 processor")
    await connection.close()
