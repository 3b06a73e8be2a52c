"""Messages made to stop the service, on real servers: each is kept or stored, and nothing else is
affected."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any

import aio_pika
import psutil
import pytest

from tests.builders import counted
from tests.conftest import run_sql
from tests.faults.liveness import Observed
from tests.kinds import Eventually, FetchRows, Role, StartRole
from tests.messaging import Publisher
from tests.odd_messages import HEARTBEAT, KEYS, LIFECYCLE, command, mutated

BLIND = "SELECT extract(epoch FROM now() - observed_through)::float8 AS lag FROM observation"


def key(instance: Any) -> str:
    return f"game_server_instance.{instance}.lifecycle"


async def is_observed(rows: FetchRows, *, within_seconds: float = 5) -> Any:
    [row] = await rows(BLIND)
    return row["lag"] is not None and row["lag"] < within_seconds


@pytest.mark.parametrize(
    "second",
    [
        (command("SERVER_STARTED", "31", "8"), key(31)),
        (command("SERVER_STOPPED", "31", "8", "0"), key(31)),
        (command("HEARTBEAT", "8", servers=[{"instance_id": 31}]), "worker.8.heartbeat"),
    ],
    ids=["started", "stopped", "listed"],
)
async def test_server_named_by_two_workers_belongs_to_the_later(
    second: Any,
    start_processor: StartRole,
    publish: Publisher,
    rows: FetchRows,
    eventually: Eventually,
) -> None:
    await start_processor()
    processor = await start_processor()
    await publish(command("SERVER_STARTED", "31", "7"), key(31))
    await eventually(lambda: rows("SELECT 1 FROM server_instances WHERE worker_id = 7"))
    await publish(*second)
    await eventually(lambda: rows("SELECT 1 FROM server_instances WHERE worker_id = 8"))
    await eventually(lambda: is_observed(rows))
    [history] = await rows("SELECT count(*) AS changes FROM transitions WHERE entity_id = 31")
    assert history["changes"] == (2 if "STOPPED" in second[0]["command_type"] else 1)
    assert "item_quarantined" not in processor.log


async def test_earlier_worker_does_not_take_a_server_back(
    processor: Role, publish: Publisher, rows: FetchRows, eventually: Eventually
) -> None:
    await publish(command("SERVER_STARTED", "31", "7", incarnation=2_000, seq=9), key(31))
    await publish(command("SERVER_STARTED", "31", "8", incarnation=1_000, seq=1), key(31))
    await publish(command("SERVER_STARTED", "32", "8", incarnation=1_000, seq=2), key(32))
    await eventually(lambda: rows("SELECT 1 FROM server_instances WHERE instance_id = 32"))
    assert await rows("SELECT 1 FROM server_instances WHERE instance_id = 31 AND worker_id = 7")


async def test_bodies_nested_to_the_edge_of_the_stack_are_dead_letters(
    start_processor: StartRole,
    publish: Publisher,
    rows: FetchRows,
    depth: Callable[..., Awaitable[int]],
    eventually: Eventually,
) -> None:
    await start_processor()
    await start_processor()
    for deep in range(940, 1_000):
        body = (
            '{"command_type":"HEARTBEAT","command_args":['
            + '{"a":' * deep
            + "1"
            + "}" * deep
            + "]}"
        )
        await publish(body.encode(), LIFECYCLE)
    await publish(command("HEARTBEAT", "7"), HEARTBEAT)
    await eventually(lambda: rows("SELECT 1 FROM workers WHERE worker_id = 7"))

    async def all_kept() -> bool:
        return await depth("manman.status.dead") == 60

    await eventually(all_kept)
    await eventually(lambda: is_observed(rows))


async def test_failing_control_message_takes_nothing_with_it(
    processor: Role,
    publish: Publisher,
    rows: FetchRows,
    depth: Callable[..., Awaitable[int]],
    eventually: Eventually,
) -> None:
    for turn in range(50):
        for sent_at in ("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"):
            await publish(
                [
                    command("SERVER_STARTED", str(41 + turn), "7"),
                    command("CANARY", "x", sent_at=sent_at),
                ],
                LIFECYCLE,
            )
    await eventually(counted(rows, 50, "server_instances"))
    await eventually(lambda: is_observed(rows))

    async def settled() -> bool:
        return await depth("manman.status.lifecycle.0") == 0

    await eventually(settled)
    letters = await rows("SELECT convert_from(letter, 'LATIN1') AS letter FROM dead_letter_outbox")
    assert not any("SERVER_STARTED" in row["letter"] for row in letters)
    assert processor.log.count("Traceback") == 0
    assert len(processor.log) < 20_000


async def test_dead_letters_outlast_the_loss_of_their_queue(
    processor: Role,
    publish: Publisher,
    rows: FetchRows,
    depth: Callable[..., Awaitable[int]],
    eventually: Eventually,
    channel: Any,
) -> None:
    """Deleted while it runs: letters wait in the database, and the queue is made again for them."""
    await channel.queue_delete("manman.status.dead")
    for turn in range(10):
        await publish(command("EXPLODE", str(turn)), LIFECYCLE)

    async def all_kept() -> bool:
        try:
            return await depth("manman.status.dead") == 10
        except aio_pika.exceptions.ChannelClosed:
            raise AssertionError from None

    await eventually(all_kept)

    async def none_waits() -> bool:
        return not await rows("SELECT 1 FROM dead_letter_outbox")

    await eventually(none_waits)


async def test_a_dead_letter_keeps_the_properties_of_its_message(
    processor: Role,
    channel: Any,
    dead_letters: Callable[..., Awaitable[Any]],
    eventually: Eventually,
) -> None:
    exchange = await channel.get_exchange("internal_service_events", ensure=False)
    headers: dict[str, Any] = {
        "tenant": "blue",
        "x-manman-error": "forged",
        "CC": ["worker.1.heartbeat"],
    }
    message = aio_pika.Message(
        b"\x01\x02",
        headers=headers,
        content_encoding="rot13",
        content_type="text/x",
        correlation_id="c-1",
        type="greeting",
    )
    await exchange.publish(message, LIFECYCLE)
    queue = await channel.get_queue("manman.status.dead", ensure=False)
    letter = await eventually(lambda: queue.get(no_ack=True, fail=False))
    assert (letter.body, letter.content_encoding, letter.content_type) == (
        b"\x01\x02",
        "rot13",
        "text/x",
    )
    assert (letter.correlation_id, letter.type, letter.headers["tenant"]) == (
        "c-1",
        "greeting",
        "blue",
    )
    assert letter.headers["x-manman-error"] != "forged"
    assert "CC" not in letter.headers


async def test_a_flood_of_poison_is_sampled_and_holds_nothing_up(
    processor: Role,
    publish: Publisher,
    rows: FetchRows,
    depth: Callable[..., Awaitable[int]],
    eventually: Eventually,
) -> None:
    """5,000 beats that nobody understands, of one faulty worker, between good ones."""
    for part in range(50):
        await publish.many([(command("HEARTBEAT", "x"), HEARTBEAT)] * 100)
        await publish(command("HEARTBEAT", str(100 + part)), HEARTBEAT)
    await eventually(counted(rows, 50, "workers"))
    counts = "SELECT statistics -> 'events' -> 'poison' AS poison FROM processors"

    async def all_counted() -> Any:
        [row] = await rows(counts)
        return sum(row["poison"].values()) == 5_000 and row["poison"]

    poison = await eventually(all_counted)
    assert poison["dead_lettered"] < 100

    async def kept() -> bool:
        return await depth("manman.status.dead") == poison["dead_lettered"]

    await eventually(kept)
    await eventually(lambda: is_observed(rows))


async def test_large_messages_do_not_fill_the_memory(
    start_processor: StartRole,
    publish: Publisher,
    rows: FetchRows,
    eventually: Eventually,
    broker: str,
) -> None:
    """400 valid beats, each with 1 MB of a field that is ignored, waiting when the processor
    begins."""
    first = await start_processor()
    first.stop()
    filler = "x" * 1_000_000
    for worker in range(1, 401):
        await publish(
            command("HEARTBEAT", str(worker), ignored=filler), f"worker.{worker}.lifecycle"
        )
    processor = await start_processor()
    process = psutil.Process(processor.pid)
    most = 0

    async def all_stored() -> Any:
        nonlocal most
        most = max(most, process.memory_info().rss)
        return await rows("SELECT 1 FROM workers HAVING count(*) = 400")

    await eventually(all_stored)
    assert most < 300 * 1024 * 1024


@pytest.mark.slow
async def test_heartbeats_with_many_servers_are_stored_in_pieces(
    start_processor: StartRole, publish: Publisher, rows: FetchRows, eventually: Eventually
) -> None:
    """30 workers with 10,000 new servers each, all waiting when the processor begins."""
    first = await start_processor()
    first.stop()
    for worker in range(1, 31):
        servers = [{"instance_id": worker * 100_000 + number} for number in range(10_000)]
        await publish(
            command("HEARTBEAT", str(worker), servers=servers), f"worker.{worker}.heartbeat"
        )
    processor = await start_processor(heartbeat_ttl_seconds=60)
    process = psutil.Process(processor.pid)
    await eventually(counted(rows, 300_000, "server_instances"))
    await eventually(lambda: is_observed(rows))
    assert process.memory_info().rss < 300 * 1024 * 1024


@pytest.mark.parametrize("count", [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
async def test_mutated_messages_leave_the_processors_reading(
    count: Any,
    start_processor: StartRole,
    publish: Publisher,
    rows: FetchRows,
    depth: Callable[..., Awaitable[int]],
    eventually: Eventually,
) -> None:
    processors = [await start_processor(), await start_processor()]
    rng = random.Random(count)
    for start in range(0, count, 500):
        await publish.many([(mutated(rng), rng.choice(KEYS)) for _ in range(500)])
        await publish.many(
            [(command("SERVER_STARTED", str(10**6 + start), "9"), key(10**6 + start))]
        )
    good = (
        "SELECT 1 FROM server_instances WHERE instance_id >= 1000000 AND worker_id = 9 HAVING"
        " count(*) = $1"
    )
    await eventually(lambda: rows(good, count // 500), within_seconds=600)

    async def all_settled() -> Any:
        return not await depth("manman.status.heartbeats.0") and not await depth(
            "manman.status.lifecycle.0"
        )

    await eventually(all_settled)
    await eventually(lambda: is_observed(rows))
    for processor in processors:
        assert processor.returncode is None
        assert "storing_failed" not in processor.log
        assert "Traceback" not in processor.log
        assert len(processor.log) < 50_000


async def test_conflicting_owners_lose_no_event_and_never_blind(
    start_processor: StartRole,
    publish: Publisher,
    rows: FetchRows,
    observed: Observed,
    eventually: Eventually,
) -> None:
    """A hundred times two workers name one server, and a body is too deep, among 10,000 good
    events."""
    await start_processor()
    await start_processor()
    await eventually(lambda: is_observed(rows))
    worst = 0.0
    done = asyncio.Event()

    async def watch() -> None:
        nonlocal worst
        while not done.is_set():
            worst = max(worst, await observed.lag())
            await asyncio.sleep(0.1)

    watching = asyncio.create_task(watch())
    deep = (
        b'{"command_type":"HEARTBEAT","command_args":[' + b'{"a":' * 990 + b"1" + b"}" * 990 + b"]}"
    )
    for turn in range(100):
        good = [
            (command("SERVER_STARTED", str(i), "5"), key(i))
            for i in range(turn * 100 + 1, turn * 100 + 101)
        ]
        await publish.many(
            [
                *good[:50],
                (command("SERVER_STARTED", "900031", "7"), key(900031)),
                (command("SERVER_STARTED", "900031", "8"), key(900031)),
                (
                    command("HEARTBEAT", "8", servers=[{"instance_id": 900031}]),
                    "worker.8.heartbeat",
                ),
                (deep, LIFECYCLE),
                *good[50:],
            ]
        )
    await eventually(counted(rows, 10000, "server_instances WHERE worker_id = 5"))
    done.set()
    await watching
    assert worst < 5


RAISES = """
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'injected' USING ERRCODE = '{code}'; END $$;
CREATE TRIGGER fail BEFORE {when} ON {table} FOR EACH ROW WHEN (NEW.{column} = 666) EXECUTE FUNCTION
    fail();
"""
STEPS = {
    "a new worker": ("INSERT", "workers", "worker_id"),
    "a beat": ("UPDATE", "workers", "worker_id"),
    "a new server": ("INSERT", "server_instances", "instance_id"),
    "a change": ("UPDATE", "server_instances", "instance_id"),
    "a transition": ("INSERT", "transitions", "entity_id"),
}
CODES = ("22000", "23514", "54000", "P0001", "XX000", "57014", "40001")


@pytest.mark.parametrize(
    ("step", "code"),
    [
        *((step, "P0001") for step in STEPS),
        *(("a new server", code) for code in CODES if code != "P0001"),
    ],
)
async def test_failure_at_any_step_costs_one_message(
    step: Any,
    code: Any,
    processor: Role,
    database: str,
    publish: Publisher,
    rows: FetchRows,
    dead_letters: Callable[..., Awaitable[Any]],
    eventually: Eventually,
) -> None:
    """Each of 41 messages ends as exactly one of stored and dead-lettered."""
    when, table, column = STEPS[step]
    bad = [command("SERVER_STARTED", "666", "7")] if "server" in step or step == "a change" else []
    bad = bad or [command("HEARTBEAT", "666")]
    if when == "UPDATE":
        await publish(bad[0], key(666))
        await eventually(lambda: rows(f"SELECT 1 FROM {table} WHERE {column} = 666"))
        bad = [command("SERVER_STOPPED", "666", "7", "1")] if step == "a change" else bad
    await run_sql(database, RAISES.format(code=code, when=when, table=table, column=column))
    await publish.many(
        [
            *((command("SERVER_STARTED", str(i), "7"), key(i)) for i in range(1, 21)),
            (bad[0], key(666)),
            *((command("SERVER_STARTED", str(i), "7"), key(i)) for i in range(21, 41)),
        ]
    )
    await eventually(counted(rows, 40, "server_instances WHERE instance_id <= 40"))
    letters = []

    async def one_letter() -> Any:
        letters.extend(await dead_letters())
        return letters

    await eventually(one_letter)
    [(body, headers)] = letters
    assert json.loads(body) == bad[0]
    assert "injected" in headers["x-manman-error"]
    await eventually(lambda: is_observed(rows))
    assert "Traceback" not in processor.log
