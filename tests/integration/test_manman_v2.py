"""Hosts of ManMan V2 through a real broker: their lives, their garbage, and ManMan's own dialect
beside."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from manman_status.wire.control import SilenceRequested
from tests.kinds import Eventually, FetchRows, Role, StartRole
from tests.manman_v2 import EXCHANGE, QUEUE, Message, health, host, session
from tests.messaging import Publisher

V2 = {"dialects": "manman-v2"}
BOTH = {"dialects": "manman,manman-v2"}
V2_ITSELF = ("status.host.#", "status.session.#", "status.backup.#", "health.#")
"""The keys that V2's own processor takes."""


@pytest.fixture
def send(publish: Publisher) -> Any:
    """Publishes as a host does, one message after the other."""

    async def each(*messages: Message) -> None:
        for message in messages:
            await publish(*message, EXCHANGE)

    return each


@pytest.fixture
async def status(api: Role, eventually: Eventually) -> AsyncIterator[Any]:
    """Waits until the api says this of a worker or a server. Evidence is compared without its time,
    which is that of receipt."""
    async with httpx.AsyncClient(base_url=api.url) as client:

        async def shows(path: str, expected: str, **fields: Any) -> dict[str, Any]:
            async def found() -> Any:
                answer = await client.get(f"/status/{path}")
                shown: dict[str, Any] = answer.json() if answer.is_success else {}
                shown.get("evidence", {}).pop("as_of", None)
                assert (shown.get("status"), *(shown.get(name) for name in fields)) == (
                    expected,
                    *fields.values(),
                )
                return shown

            result: dict[str, Any] = await eventually(found)
            return result

        yield shows


async def test_a_host_s_life_is_right_in_workers_and_servers(
    start_processor: StartRole, send: Any, status: Any
) -> None:
    await start_processor(**V2)
    await send(host(7, "online"), health(7))
    await status("workers/7", "RUNNING", health="healthy", interval_seconds=5.0)
    await send(session(31, "pending", sgc_id=3), session(32, "pending", sgc_id=3))
    await status("servers/31", "CREATED", evidence={"reported_as": "pending"}, worker_id=None)
    await send(session(31, "starting"), session(32, "starting"))
    await status("servers/31", "INITIALIZING", game_server_config_id=3)
    await send(session(31, "running", sgc_id=3), session(32, "running", sgc_id=3))
    await status("servers/31", "RUNNING", evidence={})
    await send(session(31, "crashed", sgc_id=3, exit_code=137))
    await status("servers/31", "CRASHED", reason="exit_code", evidence={"exit_code": 137})
    await send(host(7, "offline"))
    await status("workers/7", "COMPLETE", reason="graceful")
    await send(host(7, "online"), health(7, running=1))
    await status("workers/7", "RUNNING", health="healthy")
    survivor = await status("servers/32", "RUNNING")
    assert survivor["is_active"]
    await send(session(32, "stopping"))
    await status("servers/32", "RUNNING", evidence={"reported_as": "stopping"})
    await send(session(32, "lost"))
    await status("servers/32", "LOST", reason="reported")
    await send(session(32, "stopped"), host(7, "offline"))
    await status("servers/32", "COMPLETE")
    await status("workers/7", "COMPLETE", health="terminated")


async def test_a_session_reported_lost_is_an_alert_until_it_runs_again(
    start_processor: StartRole, send: Any, rows: FetchRows, eventually: Eventually
) -> None:
    await start_processor(**V2)
    await send(session(31, "running", sgc_id=3), session(31, "lost"))
    alert = "SELECT summary, resolution FROM alerts WHERE rule = 'server_crashed'"
    [opened] = await eventually(lambda: rows(alert))
    assert opened["summary"].startswith("server 31 of config 3: it was reported lost")
    await send(session(31, "running", sgc_id=3))
    await eventually(lambda: rows(f"{alert} AND resolution = 'it runs again'"))


async def test_garbage_becomes_dead_letters_and_stops_nothing(
    start_processor: StartRole,
    publish: Publisher,
    send: Any,
    status: Any,
    dead_letters: Any,
    eventually: Eventually,
) -> None:
    await start_processor(**V2)
    await publish(b"\xff\x00", "status.session.31", EXCHANGE)
    await send(
        session(31, "dancing"),
        Message({"server_id": 8}, "health.host.7"),
        host(7, "stale"),
        Message({"drain": True}, "drain.host.7"),
        health(7),
    )
    await status("workers/7", "RUNNING")
    letters: list[Any] = []

    async def all_there() -> bool:
        letters.extend(await dead_letters())
        return len(letters) >= 3

    await eventually(all_there)
    assert {headers["x-manman-exchange"] for _, headers in letters} == {EXCHANGE}
    assert {headers["x-manman-queue"] for _, headers in letters} == {QUEUE}
    reasons = " ".join(headers["x-manman-error"] for _, headers in letters)
    for said in ("not JSON", "no known status of a session", "not the id that the routing key"):
        assert said in reasons
    assert len(letters) == 3


async def test_both_dialects_are_read_at_once(
    start_processor: StartRole, publish: Publisher, send: Any, status: Any
) -> None:
    await start_processor(**BOTH, body_must_match_key=True)
    started = {"command_type": "SERVER_STARTED", "command_args": ["41", "8"]}
    await publish({"command_type": "HEARTBEAT", "command_args": ["8"]}, "worker.8.heartbeat")
    await publish(started, "game_server_instance.41.lifecycle")
    await send(health(7), session(31, "running"))
    await status("workers/8", "RUNNING")
    await status("servers/41", "RUNNING", worker_id=8)
    await status("workers/7", "RUNNING")
    await status("servers/31", "RUNNING", worker_id=None)


async def test_an_exchange_of_another_name_is_a_setting(
    start_processor: StartRole, publish: Publisher, status: Any
) -> None:
    await start_processor(**V2, v2_exchange="their.events")
    await publish(*health(7), "their.events")
    await status("workers/7", "RUNNING")


async def test_another_system_s_exchange_and_keys_are_settings(
    start_processor: StartRole, publish: Publisher, status: Any
) -> None:
    """It is healthy only when the canaries take its keys too."""
    await start_processor(
        inbound_exchange="site.events",
        heartbeat_keys="site.*.alive",
        lifecycle_keys="site.*.news, site.*.rumours",
    )
    for kind, key in (("HEARTBEAT", "site.7.alive"), ("WORKER_STARTED", "site.8.rumours")):
        await publish(
            {"command_type": kind, "command_args": [key.split(".")[1]]}, key, "site.events"
        )
    await status("workers/7", "RUNNING", health="healthy")
    await status("workers/8", "RUNNING", health="healthy")


async def test_operators_reach_a_processor_that_reads_v2_alone(
    start_processor: StartRole, publish: Publisher, rows: FetchRows, eventually: Eventually
) -> None:
    await start_processor(**V2)
    await publish.control(SilenceRequested(silence_id="quiet1", seconds=3600, why="w"))
    await eventually(lambda: rows("SELECT 1 FROM silences WHERE silence_id = 'quiet1'"))


async def test_v2_s_own_processor_never_sees_a_canary(
    start_processor: StartRole, channel: Any, rows: FetchRows, eventually: Eventually
) -> None:
    """It would look for the canary's host in its database, and complain each second."""
    exchange = await channel.declare_exchange(EXCHANGE, "topic", durable=True)
    theirs = await channel.declare_queue("processor-events", durable=True)
    for key in V2_ITSELF:
        await theirs.bind(exchange, key)
    await start_processor(**BOTH)
    await eventually(
        lambda: rows("SELECT 1 FROM observation WHERE observed_through > now() - interval '2 s'")
    )
    assert await theirs.get(fail=False) is None


async def test_a_dialect_that_is_dropped_takes_its_queue_along(
    start_processor: StartRole, channel: Any, rows: FetchRows, eventually: Eventually
) -> None:
    first = await start_processor(**BOTH)
    first.stop()
    await start_processor()

    async def is_gone() -> bool:
        found = await rows("SELECT queue FROM watermarks WHERE queue = $1", QUEUE)
        return not found

    await eventually(is_gone)
    assert await rows("SELECT 1 FROM watermarks WHERE state = 'active'")
