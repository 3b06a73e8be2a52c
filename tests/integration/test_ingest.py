"""Events through the real broker into real rows."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from manman_status.domain.events import microseconds
from manman_status.domain.merge import merge
from manman_status.domain.rows import Receipt, Rows
from manman_status.store.counting import compare_counts
from manman_status.store.pool import create_pool
from manman_status.wire.inbound import decode
from tests.builders import counted
from tests.kinds import Eventually, FetchRows, Role, StartRole
from tests.messaging import Publisher

HEARTBEAT = "worker.7.heartbeat"
LIFECYCLE = "worker.7.lifecycle"
START = 1_763_884_800_123_456


def command(kind: Any, *arguments: Any, **fields: Any) -> dict[str, Any]:
    return {
        "command_type": kind,
        "command_args": [str(argument) for argument in arguments],
        **fields,
    }


def status_info(entity: Any, identifier: Any, status: Any, as_of: Any) -> dict[str, Any]:
    return {
        "entity_type": entity,
        "identifier": str(identifier),
        "status_type": status,
        "as_of": as_of,
    }


async def test_a_minimal_heartbeat_makes_a_running_worker(
    processor: Role, publish: Publisher, rows: FetchRows, eventually: Eventually
) -> None:
    await publish(command("HEARTBEAT", 7), HEARTBEAT)
    [worker] = await eventually(lambda: rows("SELECT * FROM workers"))
    assert (worker["worker_id"], worker["status"], worker["reason"]) == (7, "RUNNING", "reported")
    assert worker["last_heartbeat"] is not None


async def test_full_heartbeat_has_interval_labels_and_servers(
    processor: Role, publish: Publisher, rows: FetchRows, eventually: Eventually
) -> None:
    beat = command(
        "HEARTBEAT",
        7,
        incarnation=START,
        seq=42,
        sent_at="2026-11-23T08:00:00.5Z",
        interval_seconds=2,
        servers=[{"instance_id": 31, "game_server_config_id": 3, "status": "RUNNING"}],
        labels={"group": "eu-1", "version": "1.4.2"},
    )
    await publish(beat, HEARTBEAT)
    [worker] = await eventually(lambda: rows("SELECT * FROM workers"))
    assert worker["labels"] == {"group": "eu-1", "version": "1.4.2"}
    assert (worker["interval_seconds"], worker["incarnation"], worker["seq"]) == (2.0, START, 42)
    [server] = await rows("SELECT * FROM server_instances")
    assert (server["instance_id"], server["worker_id"], server["game_server_config_id"]) == (
        31,
        7,
        3,
    )
    assert server["status"] == "RUNNING"


async def test_an_array_is_many_events(
    processor: Role, publish: Publisher, rows: FetchRows, eventually: Eventually
) -> None:
    await publish([command("HEARTBEAT", worker) for worker in range(1, 1001)], HEARTBEAT)
    await eventually(counted(rows, 1000, "workers"))


async def test_status_infos_of_todays_workers_are_understood(
    processor: Role, publish: Publisher, rows: FetchRows, eventually: Eventually
) -> None:
    await publish(
        status_info("worker", 7, "INITIALIZING", "2026-11-23T08:00:00"), "worker.7.status"
    )
    await publish(status_info("worker", 7, "RUNNING", "2026-11-23T08:00:01Z"), "worker.7.status")
    key = "game_server_instance.31.status"
    await publish(status_info("game_server_instance", 31, "CRASHED", "2026-11-23T08:00:02Z"), key)
    await eventually(
        lambda: rows("SELECT 1 FROM workers WHERE status = 'RUNNING' AND last_heartbeat IS NULL")
    )
    await eventually(
        lambda: rows("SELECT 1 FROM server_instances WHERE instance_id = 31 AND status = 'CRASHED'")
    )


async def test_a_life_from_start_to_end(
    processor: Role, publish: Publisher, rows: FetchRows, eventually: Eventually
) -> None:
    server = "game_server_instance.31.lifecycle"
    await publish(command("WORKER_STARTED", 7, incarnation=START, seq=1), LIFECYCLE)
    await publish(command("SERVER_STARTED", 31, 7, 3, incarnation=START, seq=2), server)
    await publish(
        command("SERVER_STARTED", 32, 7, incarnation=START, seq=3),
        "game_server_instance.32.lifecycle",
    )
    await publish(command("SERVER_STOPPED", 31, 7, 139, incarnation=START, seq=4), server)
    await publish(
        command("SERVER_STOPPED", 32, 7, 0, incarnation=START, seq=5),
        "game_server_instance.32.lifecycle",
    )
    await publish(command("WORKER_STOPPED", 7, incarnation=START, seq=6), LIFECYCLE)
    [worker] = await eventually(lambda: rows("SELECT * FROM workers WHERE status = 'COMPLETE'"))
    assert (worker["reason"], worker["evidence"]) == ("graceful", {"incarnation": START})
    assert worker["end_date"] is not None
    crashed, complete = await rows("SELECT * FROM server_instances ORDER BY instance_id")
    assert (crashed["status"], crashed["reason"], crashed["evidence"]) == (
        "CRASHED",
        "exit_code",
        {"exit_code": 139},
    )
    assert (complete["status"], complete["reason"]) == ("COMPLETE", "graceful")
    transitions = await rows("SELECT * FROM transitions ORDER BY revision")
    changes = [(t["entity"], t["entity_id"], t["old_status"], t["new_status"]) for t in transitions]
    assert changes == [
        ("worker", 7, None, "RUNNING"),
        ("game_server_instance", 31, None, "RUNNING"),
        ("game_server_instance", 32, None, "RUNNING"),
        ("game_server_instance", 31, "RUNNING", "CRASHED"),
        ("game_server_instance", 32, "RUNNING", "COMPLETE"),
        ("worker", 7, "RUNNING", "COMPLETE"),
    ]


async def test_late_stop_ends_an_unlisted_instance(
    processor: Role, publish: Publisher, rows: FetchRows, eventually: Eventually
) -> None:
    server = [{"instance_id": 31}]
    await publish(command("HEARTBEAT", 7, incarnation=START, seq=1, servers=server), HEARTBEAT)
    await publish(command("HEARTBEAT", 7, incarnation=START, seq=9, servers=[]), HEARTBEAT)
    await eventually(lambda: rows("SELECT 1 FROM server_instances WHERE missing_since IS NOT NULL"))
    stopped = command("SERVER_STOPPED", 31, 7, 1, incarnation=START, seq=8)
    await publish(stopped, "game_server_instance.31.lifecycle")
    [ended] = await eventually(
        lambda: rows("SELECT * FROM server_instances WHERE status = 'CRASHED'")
    )
    assert (ended["reason"], ended["evidence"], ended["missing_since"]) == (
        "exit_code",
        {"exit_code": 1},
        None,
    )


async def test_commands_to_workers_are_not_ours_and_are_let_pass(
    processor: Role,
    publish: Publisher,
    rows: FetchRows,
    depth: Callable[..., Awaitable[int]],
    eventually: Eventually,
) -> None:
    await publish(command("START", 31, "--map", "x"), LIFECYCLE)
    await publish(command("HEARTBEAT", 7), LIFECYCLE)
    await eventually(lambda: rows("SELECT 1 FROM workers"))
    assert await depth("manman.status.dead") == 0


def good(*, worker: int = 1) -> Any:
    return command("HEARTBEAT", worker)


POISON = {
    "not JSON": (b"{nope", "not JSON"),
    "not UTF-8": (b'{"command_type": "HEARTBEAT\xff"}', "not UTF-8"),
    "an empty body": (b"", "empty body"),
    "NaN": (
        b'{"command_type": "HEARTBEAT", "command_args": ["1"], "interval_seconds": NaN}',
        "not JSON",
    ),
    "nested deeply": (b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    "a lone surrogate": (
        (
            rb'{"command_type": "HEARTBEAT", "command_args": ["1"], "labels": {"a": "\ud800 and'
            rb' more"}}'
        ),
        "not JSON",
    ),
    "a body of 2 MiB": (b" " * (2 * 1024 * 1024), "body of 2097152 bytes"),
    "too many events": ([good()] * 1001, "array of 1001 events"),
    "no events": ([], "array of 0 events"),
    "a bomb": (gzip.compress(bytes(2 * 1024 * 1024)), "compressed body of more than 1048576 bytes"),
    "a number": (7, "got `int`"),
    "null": (None, "got `null`"),
    "an unknown command": (command("EXPLODE", 7), "'EXPLODE': unknown command_type"),
    "neither a command nor a status": (
        {"hello": "world"},
        "neither a command_type nor an entity_type",
    ),
    "id 0": (command("HEARTBEAT", 0), "$.command_args[0]"),
    "id -1": (command("HEARTBEAT", -1), "$.command_args[0]"),
    "id 2^63": (command("HEARTBEAT", 2**63), "$.command_args[0]"),
    "id abc": (command("HEARTBEAT", "abc"), "$.command_args[0]"),
    "a true id": ({"command_type": "HEARTBEAT", "command_args": [True]}, "$.command_args[0]"),
    "no id": ({"command_type": "HEARTBEAT", "command_args": []}, "needs worker_id"),
    "no arguments": ({"command_type": "SERVER_STARTED"}, "needs instance_id"),
    "arguments of a wrong type": (
        {"command_type": "HEARTBEAT", "command_args": "7"},
        "$.command_args",
    ),
    "seq -1": (command("HEARTBEAT", 7, incarnation=START, seq=-1), "$.seq"),
    "a canary of another age": (
        {"command_type": "CANARY", "sent_at": "0001-01-01T00:00:00+23:59"},
        "$.sent_at",
    ),
    "incarnation 2^63": (command("HEARTBEAT", 7, incarnation=2**63, seq=1), "$.incarnation"),
    "an exit code of words": (command("SERVER_STOPPED", 31, 7, "bad"), "$.command_args[2]"),
    "a NUL in a label": (command("HEARTBEAT", 7, labels={"a": "b\0"}), "NUL"),
    "a huge label": (command("HEARTBEAT", 7, labels={"a": "b" * 100_000}), "label"),
    "too many labels": (
        command("HEARTBEAT", 7, labels={f"l{n}": "" for n in range(65)}),
        "65 labels",
    ),
    "an instance without id": (
        command("HEARTBEAT", 7, servers=[{"status": "RUNNING"}]),
        "$.servers[0]",
    ),
    "an instance id of 0": (
        command("HEARTBEAT", 7, servers=[{"instance_id": 0}]),
        "$.servers[0].instance_id",
    ),
    "LOST, which nobody can report": (
        status_info("worker", 7, "LOST", "2026-11-23T08:00:00Z"),
        "LOST",
    ),
    "an unknown status": (
        status_info("worker", 7, "SLEEPING", "2026-11-23T08:00:00Z"),
        "$.status_type",
    ),
    "an unknown entity": (
        status_info("player", 7, "RUNNING", "2026-11-23T08:00:00Z"),
        "entity_type",
    ),
    "a bad time": (status_info("worker", 7, "RUNNING", "yesterday"), "$.as_of"),
}


async def test_poison_is_kept_alone_with_its_reason(
    processor: Role,
    publish: Publisher,
    rows: FetchRows,
    dead_letters: Callable[..., Awaitable[Any]],
    depth: Callable[..., Awaitable[int]],
    eventually: Eventually,
) -> None:
    """Poison comes all at once, between good events, on both queues: the processor lives and loses
    no good one."""
    for worker, (body, _) in enumerate(POISON.values(), start=1):
        key = HEARTBEAT if worker % 2 else LIFECYCLE
        await publish(good(worker=worker), key)
        await publish(b"null" if body is None else body, key)
        await publish(good(worker=1000 + worker), key)
    count = len(POISON)
    await eventually(counted(rows, 2 * count, "workers"))

    async def all_dead() -> bool:
        assert await depth("manman.status.dead") == count, processor.log
        return True

    await eventually(all_dead)
    errors = [headers["x-manman-error"] for _, headers in await dead_letters()]
    for name, (_, reason) in POISON.items():
        assert any(reason in error for error in errors), f"{name}: no {reason!r} in {errors}"
    assert processor.returncode is None


async def test_heartbeat_counts_without_its_bad_label(
    processor: Role,
    publish: Publisher,
    rows: FetchRows,
    dead_letters: Callable[..., Awaitable[Any]],
    eventually: Eventually,
) -> None:
    """Compressed as well: a worker version that sends such beats alone must not end as LOST."""
    beat = command(
        "HEARTBEAT", 7, labels={"group": "eu-1", "note": "x" * 300}, servers=[{"instance_id": "31"}]
    )
    await publish(gzip.compress(json.dumps([beat, beat]).encode()), HEARTBEAT)
    [worker] = await eventually(lambda: rows("SELECT status, labels, last_heartbeat FROM workers"))
    assert (worker["status"], worker["labels"]) == ("RUNNING", {"group": "eu-1"})
    assert worker["last_heartbeat"]
    assert await rows("SELECT 1 FROM server_instances WHERE instance_id = 31 AND worker_id = 7")
    [(body, headers)] = await eventually(dead_letters)
    assert json.loads(body) == [beat, beat]
    assert (
        headers["x-manman-error"]
        == "'note' has a value of more than 255 characters - at `$.labels`; and 1 more like it"
        " (left out, the rest was taken)"
    )


async def test_poison_inside_an_array_is_kept_as_its_own_message(
    processor: Role,
    publish: Publisher,
    rows: FetchRows,
    dead_letters: Callable[..., Awaitable[Any]],
    eventually: Eventually,
) -> None:
    await publish([good(worker=1), command("HEARTBEAT", "abc"), good(worker=2), 17], HEARTBEAT)
    await eventually(counted(rows, 2, "workers"))
    letters = []

    async def both() -> bool:
        letters.extend(await dead_letters())
        return len(letters) == 2

    await eventually(both)
    assert {body for body, _ in letters} == {
        b'{"command_type": "HEARTBEAT", "command_args": ["abc"]}',
        b"17",
    }
    assert all(headers["x-manman-queue"] == "manman.status.heartbeats.0" for _, headers in letters)
    assert all(headers["x-manman-routing-key"] == HEARTBEAT for _, headers in letters)


def random_history(rng: random.Random, count: Any) -> Iterator[Any]:
    """Bodies with their routing keys, of 100 workers with up to three incarnations: counted, dated,
    or both. Of each entity one StatusInfo, for of several the order decides."""
    said = set()
    for _ in range(count):
        worker = rng.randint(1, 100)
        instance = worker * 10 + rng.randint(0, 4)
        minute, second, micros = rng.randint(0, 59), rng.randint(0, 59), rng.randrange(10**6)
        order: dict[str, Any] = {"sent_at": f"2026-11-23T08:{minute:02}:{second:02}.{micros:06}Z"}
        if rng.random() < 0.8:
            order |= {
                "incarnation": START + rng.randint(0, 2) * 600_000_000,
                "seq": rng.randint(1, 10**9),
            }
        listed = [
            {"instance_id": worker * 10 + n, "game_server_config_id": 3}
            for n in range(5)
            if rng.random() < 0.5
        ]
        kind = rng.choice(
            ["beat", "beat", "beat", "started", "stopped", "up", "down", "info", "server_info"]
        )
        about = (kind, instance if kind == "server_info" else worker)
        match "beat" if about in said else kind:
            case "beat":
                yield (
                    command("HEARTBEAT", worker, servers=listed, **order),
                    f"worker.{worker}.heartbeat",
                )
            case "started":
                yield command("WORKER_STARTED", worker, **order), f"worker.{worker}.lifecycle"
            case "stopped":
                yield command("WORKER_STOPPED", worker, **order), f"worker.{worker}.lifecycle"
            case "up":
                key = f"game_server_instance.{instance}.lifecycle"
                yield command("SERVER_STARTED", instance, worker, 3, **order), key
            case "down":
                key = f"game_server_instance.{instance}.lifecycle"
                yield command("SERVER_STOPPED", instance, worker, rng.choice([0, 1]), **order), key
            case "info":
                said.add(about)
                status = rng.choice(["RUNNING", "COMPLETE", "INITIALIZING"])
                yield (
                    status_info("worker", worker, status, order["sent_at"]),
                    f"worker.{worker}.status",
                )
            case _:
                said.add(about)
                status = rng.choice(["RUNNING", "CRASHED", "INITIALIZING"])
                key = f"game_server_instance.{instance}.status"
                yield status_info("game_server_instance", instance, status, order["sent_at"]), key


WORKERS_SEEN = (
    "SELECT worker_id, status, reason, evidence, last_heartbeat IS NOT NULL AS watched FROM workers"
)
SERVERS_SEEN = """
SELECT instance_id, worker_id, game_server_config_id, status, reason, evidence, missing_since IS NOT
    NULL AS missing
  FROM server_instances
"""


async def test_events_twice_in_any_order_end_the_same(
    start_processor: StartRole,
    publish: Publisher,
    rows: FetchRows,
    database: str,
    eventually: Eventually,
) -> None:
    """Ten thousand events, each twice, in random order, through two processors."""
    rng = random.Random(7)
    history = list(random_history(rng, 10_000))
    expected = Rows()
    now = datetime.now(UTC)
    for place, (body, _) in enumerate(history):
        for event in decode(json.dumps(body).encode()).events:
            merge(expected, event, Receipt(now, microseconds(now) + place))
    await start_processor()
    await start_processor()
    deliveries = history * 2
    rng.shuffle(deliveries)
    for part in range(4):
        await publish.many(deliveries[part::4])

    wanted = {
        w.worker_id: (w.status, w.reason, w.evidence, w.last_heartbeat is not None)
        for w in expected.workers.values()
    }
    servers = {
        i.instance_id: (
            i.worker_id, i.game_server_config_id, i.status, i.reason, i.evidence, i.missing_since is
                not None,
        )
        for i in expected.instances.values()
    }  # fmt: skip

    async def same() -> bool:
        seen = {row["worker_id"]: tuple(row.values())[1:] for row in await rows(WORKERS_SEEN)}
        assert seen == wanted
        assert {
            row["instance_id"]: tuple(row.values())[1:] for row in await rows(SERVERS_SEEN)
        } == servers
        return True

    await eventually(same, within_seconds=60)
    revisions = await rows("SELECT revision FROM transitions ORDER BY revision")
    assert [row["revision"] for row in revisions] == list(range(1, len(revisions) + 1))
    async with (
        create_pool(database, application="test", size=1, timeout_seconds=30) as pool,
        pool.acquire() as reader,
    ):
        assert await compare_counts(reader) == []


async def test_steady_beats_update_their_rows_in_place(
    processor: Role, publish: Publisher, rows: FetchRows, eventually: Eventually
) -> None:
    """HOT: a beat that changes nothing else must not touch an index."""
    workers, rounds = 200, 40
    for seq in range(1, rounds + 2):
        body = [
            command(
                "HEARTBEAT",
                worker,
                incarnation=START,
                seq=seq,
                interval_seconds=10,
                labels={"group": "a"},
            )
            for worker in range(1, workers + 1)
        ]
        await publish(body, HEARTBEAT)
        # Each round is stored before the next, or the processor rightly makes one update of
        # several.
        await eventually(counted(rows, workers, f"workers WHERE seq = {seq}"))

    async def has_counts() -> Any:
        [found] = await rows(
            "SELECT n_tup_upd AS updates, n_tup_hot_upd AS hot FROM pg_stat_user_tables WHERE"
            " relname = 'workers'"
        )
        return found["updates"] >= rounds * workers and found

    # A connection of the server hands in its counts now and then, a quiet one after ten seconds.
    found = await eventually(has_counts)
    assert found["hot"] >= 0.9 * found["updates"], found
