"""Rights on the broker: real users of a real RabbitMQ, with the permissions that docs/trust.md
gives them."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aio_pika
import asyncpg
import httpx
import pytest
from aio_pika.abc import AbstractIncomingMessage, AbstractQueue
from aio_pika.exceptions import ChannelClosed

from manman_status.store.canary_key import shared_secret
from manman_status.wire.control import (
    AlertAcknowledged,
    GuardReleased,
    SilenceRequested,
    control_key,
    control_message,
)
from tests.builders import counted
from tests.conftest import SharedRabbitMQ, run_sql
from tests.integration.cli.conftest import manman_status
from tests.kinds import Eventually, FetchRows, Role, StartRole
from tests.manman import ManMan
from tests.messaging import Publisher

__all__ = ["manman_status"]

PAGE = (Path(__file__).parents[2] / "docs/trust.md").read_text("utf-8")
GRANTS = [shlex.split(line) for line in re.findall(r"^rabbitmqctl (set_.*)$", PAGE, re.MULTILINE)]
QUEUES = ("manman.status.heartbeats.0", "manman.status.lifecycle.0")
PASSWORD = "open-sesame-4711"
FAR_OFF = "2099-01-01T00:00:00Z"
FREQUENT_CANARIES = {"canary_interval_seconds": 0.2}
QUIET = SilenceRequested(silence_id="quiet1", seconds=3600, why="w")


def beat(worker: Any) -> dict[str, Any]:
    return {"command_type": "HEARTBEAT", "command_args": [str(worker)]}


def forged_canary(*arguments: Any, sent_at: Any = FAR_OFF) -> dict[str, Any]:
    return {"command_type": "CANARY", "command_args": ["host-1", *arguments], "sent_at": sent_at}


@pytest.fixture
def url_of(broker: str, rabbitmq: SharedRabbitMQ) -> Any:
    """The test's virtual host by the URL of a user whom docs/trust.md names, with the permissions
    it has there."""

    def grant(user: Any) -> Any:
        parts = urlsplit(broker)
        virtual_host = parts.path[1:]
        given = [arguments for arguments in GRANTS if user in arguments]
        assert given, f"docs/trust.md has no user {user}"
        with httpx.Client(base_url=rabbitmq.management_url, timeout=30) as management:
            management.put(
                f"/api/users/{user}", json={"password": PASSWORD, "tags": ""}
            ).raise_for_status()
            for command, _, _, _, *rest in given:
                if command == "set_permissions":
                    body = dict(zip(("configure", "write", "read"), rest, strict=True))
                    management.put(
                        f"/api/permissions/{virtual_host}/{user}", json=body
                    ).raise_for_status()
                else:
                    body = dict(zip(("exchange", "write", "read"), rest, strict=True))
                    management.put(
                        f"/api/topic-permissions/{virtual_host}/{user}", json=body
                    ).raise_for_status()
        return urlunsplit(parts._replace(netloc=f"{user}:{PASSWORD}@{parts.hostname}:{parts.port}"))

    return grant


async def is_refused(url: str, exchange: Any, key: Any, body: bytes = b"{}") -> bool:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        to = (
            await channel.get_exchange(exchange, ensure=False)
            if exchange
            else channel.default_exchange
        )
        try:
            await to.publish(aio_pika.Message(body), key, mandatory=False)
        except ChannelClosed as error:
            return "ACCESS_REFUSED" in str(error)
    return False


async def observed_through(rows: FetchRows) -> Any:
    [row] = await rows("SELECT observed_through FROM observation")
    return row["observed_through"]


async def is_observed_anew(rows: FetchRows, eventually: Eventually) -> None:
    """Everything until now is observed, by canaries."""
    [row] = await rows("SELECT clock_timestamp() AS now")

    async def passed() -> Any:
        through = await observed_through(rows)
        return through is not None and row["now"] < through < row["now"] + timedelta(days=1)

    await eventually(passed)


async def is_read_through(
    publish: Publisher, rows: FetchRows, eventually: Eventually, *, worker: Any
) -> None:
    """Wait until everything published before was stored, refused or ignored."""
    await publish(beat(worker), f"worker.{worker}.heartbeat")
    await publish(beat(worker + 1), f"worker.{worker + 1}.lifecycle")
    await eventually(counted(rows, 2, "workers WHERE worker_id >= $1", worker))


async def test_a_bridge_reports_with_the_documented_rights(
    processor: Role,
    start_bridge: StartRole,
    manman: ManMan,
    url_of: Any,
    rows: FetchRows,
    eventually: Eventually,
) -> None:
    """It reports a start, heartbeats with a server, and both ends."""
    bridge = await start_bridge(rabbitmq_url=url_of("manman-bridge"))
    await eventually(lambda: "bridge_started" in bridge.log)
    worker = await manman.start_worker()
    server = await manman.start_server(worker)
    await eventually(lambda: rows("SELECT FROM server_instances WHERE status = 'RUNNING'"))
    await manman.end("game_server_instances", "game_server_instance_id", server)
    await eventually(lambda: rows("SELECT FROM server_instances WHERE status = 'COMPLETE'"))
    await manman.end("workers", "worker_id", worker)
    await eventually(lambda: rows("SELECT FROM workers WHERE status = 'COMPLETE'"))
    assert await is_refused(url_of("manman-bridge"), "internal_service_events", "worker.7.status")


async def test_a_processor_runs_with_the_documented_rights(
    start_processor: StartRole,
    url_of: Any,
    publish: Publisher,
    rows: FetchRows,
    dead_letters: Callable[..., Awaitable[Any]],
    eventually: Eventually,
) -> None:
    url = url_of("manman-processor")
    first = await start_processor(rabbitmq_url=url)
    second = await start_processor(rabbitmq_url=url)
    await publish(beat(7), "worker.7.heartbeat")
    await publish(b"not JSON", "worker.7.lifecycle")
    await eventually(lambda: rows("SELECT 1 FROM workers"))
    await is_observed_anew(rows, eventually)
    assert [body for body, _ in await eventually(dead_letters)] == [b"not JSON"]
    second.kill()
    await eventually(counted(rows, 1, "processors"))
    await is_observed_anew(rows, eventually)
    assert "ACCESS_REFUSED" not in first.log


async def test_a_confined_worker_speaks_for_itself_and_for_nobody_else(
    start_processor: StartRole,
    url_of: Any,
    publisher_at: Callable[[str], Awaitable[Publisher]],
    rows: FetchRows,
    dead_letters: Callable[..., Awaitable[Any]],
    manman_status: Any,
    eventually: Eventually,
) -> None:
    await start_processor(body_must_match_key=True)
    url = url_of("worker-7")
    say = await publisher_at(url)
    await say(beat(7), "worker.7.heartbeat")
    started = {"command_type": "SERVER_STARTED", "command_args": ["31", "7"]}
    await say(started, "game_server_instance.31.lifecycle")
    await say({**started, "command_args": ["32", "7"]}, "worker.7.lifecycle")
    await eventually(counted(rows, 2, "server_instances"))

    for exchange, key in (
        ("internal_service_events", "worker.8.heartbeat"),
        ("internal_service_events", "worker.8.status"),
        ("internal_service_events", "worker.canary.heartbeat"),
        ("external_service_events", "worker.7.status"),
        ("manman.status.control", "silence.add"),
        ("manman.status.dead", "worker.7.lifecycle"),
        ("", QUEUES[0]),
    ):
        assert await is_refused(url, exchange, key), (exchange, key)
    command = ("silence", "add", "--for", "1h", "--why", "w", "--group", "eu")
    refused = await manman_status(*command, rabbitmq_url=url)
    assert refused.code == 1
    assert "manman.status.control" in refused.err

    # What the broker lets pass: another worker's id in the body.
    lies = [
        (beat(8), "worker.7.heartbeat"),
        ([beat(7), beat(8)], "worker.7.heartbeat"),
        (
            {"command_type": "SERVER_STOPPED", "command_args": ["33", "8", "0"]},
            "worker.7.lifecycle",
        ),
        ({"entity_type": "worker", "identifier": "8", "status_type": "RUNNING"}, "worker.7.status"),
        (control_message(GuardReleased("eu")), "worker.7.lifecycle"),
    ]
    for body, key in lies:
        await say(body, key)
    letters = []

    async def all_refused() -> bool:
        letters.extend(await dead_letters())
        return len(letters) == len(lies)

    await eventually(all_refused)
    reasons = [headers["x-manman-error"] for _, headers in letters]
    assert sum("the event is about" in reason for reason in reasons) == len(lies) - 1
    assert [json.loads(body) for body, _ in letters].count(beat(8)) == 2
    assert await rows("SELECT worker_id FROM workers") == [{"worker_id": 7}]
    assert await rows("SELECT instance_id FROM server_instances ORDER BY 1") == [
        {"instance_id": n} for n in (31, 32)
    ]


async def test_an_operator_sends_control_messages_and_nothing_else(
    processor: Role, url_of: Any, rows: FetchRows, manman_status: Any, eventually: Eventually
) -> None:
    url = url_of("operator-ann")
    added = await manman_status(
        *("silence", "add", "--for", "1h", "--why", "w", "--group", "eu"), rabbitmq_url=url
    )
    assert (added.code, added.err) == (0, "")
    await eventually(lambda: rows("SELECT 1 FROM silences"))
    assert await is_refused(url, "internal_service_events", "worker.7.heartbeat")
    assert await is_refused(url, "", QUEUES[1])
    assert not await is_refused(
        url, "manman.status.control", "guard.release", control_message(GuardReleased("eu"))
    )


async def test_a_consumer_of_alerts_reads_alerts_alone(processor: Role, url_of: Any) -> None:
    url = url_of("pager")
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("pager.alerts", durable=True)
        await queue.bind("external_service_events", "alert.#")
        for key in ("#", "worker.#"):
            with pytest.raises(ChannelClosed, match="ACCESS_REFUSED"):
                await (await (await connection.channel()).get_queue("pager.alerts")).bind(
                    "external_service_events", key
                )
    assert await is_refused(url, "external_service_events", "alert.info.worker_lost")


async def test_control_messages_are_taken_by_their_own_way_only(
    processor: Role,
    publish: Publisher,
    rows: FetchRows,
    dead_letters: Callable[..., Awaitable[Any]],
    eventually: Eventually,
) -> None:
    body, key = control_message(QUIET), control_key(QUIET)
    await publish(body, "worker.alerts.lifecycle")
    await publish(control_message(AlertAcknowledged(1)), key, "manman.status.control")
    await publish(beat(8), key, "manman.status.control")
    await publish.control(SilenceRequested(silence_id="quiet2", seconds=3600, why="w"))
    await eventually(lambda: rows("SELECT 1 FROM silences"))
    assert await rows("SELECT silence_id FROM silences") == [{"silence_id": "quiet2"}]
    assert await rows("SELECT 1 FROM workers") == []
    letters = {}

    async def all_refused() -> bool:
        letters.update({headers["x-manman-error"]: body for body, headers in await dead_letters()})
        return len(letters) == 3

    await eventually(all_refused)
    assert (
        letters["a control message is taken from the exchange manman.status.control only"] == body
    )
    assert letters.keys() > {
        "this control message is taken with the routing key alert.acknowledge only",
        "the exchange manman.status.control takes control messages only",
    }


@pytest.mark.parametrize("dialects", ["manman,manman-v2", "manman-v2"])
async def test_a_processor_may_send_v2_s_hosts_its_canary_and_no_command(
    url_of: Any,
    start_processor: StartRole,
    manman_status: Any,
    rows: FetchRows,
    eventually: Eventually,
    database: str,
    dialects: str,
) -> None:
    url = url_of("manman-processor-v2")
    await start_processor(rabbitmq_url=url, dialects=dialects, **FREQUENT_CANARIES)
    await is_observed_anew(rows, eventually)
    assert await is_refused(url, "manman", "command.host.7.session.start")
    finished = await manman_status(
        "doctor", rabbitmq_url=url, database_url=database, dialects=dialects
    )
    assert "manman-processor-v2 may run a processor" in finished.out
    assert "manman.status.v2.0: 0 messages, 1 consumer" in finished.out
    assert "problem  " not in finished.out


async def test_doctor_names_the_rights_to_v2_s_exchange(
    url_of: Any, start_processor: StartRole, manman_status: Any
) -> None:
    await start_processor(dialects="manman,manman-v2")
    url = url_of("manman-processor")
    finished = await manman_status("doctor", rabbitmq_url=url, dialects="manman,manman-v2")
    for what in ("declare the exchange manman,", "bind manman.status.v2.0 to manman"):
        assert what in finished.out
    assert "publish to manman:" in finished.out


class Proofs:
    """Each canary that was sent, and each watermark that was ever written."""

    HISTORY = (
        "CREATE TABLE proofs (number bigserial, queue text, observed_through timestamptz)",
        """CREATE FUNCTION note_proof() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO proofs (queue, observed_through) VALUES (NEW.queue, NEW.observed_through);
             RETURN NULL;
           END $$""",
        """CREATE TRIGGER note_proof AFTER INSERT OR UPDATE ON watermarks
             FOR EACH ROW EXECUTE FUNCTION note_proof()""",
    )

    def __init__(self, tap: AbstractQueue, rows: FetchRows) -> None:
        self._tap = tap
        self._rows = rows
        self.canaries: list[AbstractIncomingMessage] = []

    async def receive(self) -> list[AbstractIncomingMessage]:
        """All canaries so far."""
        while message := await self._tap.get(no_ack=True, fail=False):
            self.canaries.append(message)
        return self.canaries

    async def are_all_of(self, canaries: list[AbstractIncomingMessage]) -> None:
        """Check that watermarks only ever went from one of these canaries' times to a later one."""
        sent_at = {
            datetime.fromisoformat(json.loads(canary.body)["sent_at"]) for canary in canaries
        }
        for queue in QUEUES:
            sql = "SELECT observed_through FROM proofs WHERE queue = $1 ORDER BY number"
            through = [row["observed_through"] for row in await self._rows(sql, queue)]
            proven = [time for time in through if time is not None]
            assert proven == sorted(proven)
            assert set(proven) <= sent_at


@pytest.fixture
async def proofs(database: str, broker: str, rows: FetchRows) -> AsyncIterator[Proofs]:
    await run_sql(database, *Proofs.HISTORY)
    async with await aio_pika.connect(broker) as connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange("internal_service_events", "topic", durable=True)
        tap = await channel.declare_queue(exclusive=True)
        await tap.bind(exchange, "worker.canary.*")
        yield Proofs(tap, rows)


async def test_forged_canaries_prove_nothing_and_harm_no_neighbour(
    proofs: Proofs,
    start_processor: StartRole,
    publish: Publisher,
    rows: FetchRows,
    dead_letters: Callable[..., Awaitable[Any]],
    eventually: Eventually,
) -> None:
    """A watermark is the time of a true canary, whatever anybody says of a time."""
    processor = await start_processor(**FREQUENT_CANARIES)
    await is_observed_anew(rows, eventually)
    forged = [
        forged_canary(sent_at=sent_at)
        for sent_at in (FAR_OFF, "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59")
    ]
    forged += [forged_canary("5f" * 32), forged_canary(""), forged_canary("\u20ac")]
    neighbour = {"command_type": "SERVER_STARTED", "command_args": ["41", "7"]}
    for body in (*forged, [neighbour, *forged]):
        await publish(body, "worker.7.lifecycle")
        await publish(body, "worker.canary.heartbeat")
    await is_read_through(publish, rows, eventually, worker=100)
    await is_observed_anew(rows, eventually)
    forgeries = [json.dumps(body).encode() for body in (*forged, [neighbour, *forged])]
    await proofs.are_all_of(
        [canary for canary in await proofs.receive() if canary.body not in forgeries]
    )
    assert await rows("SELECT instance_id FROM server_instances") == [{"instance_id": 41}]
    refusals = [headers["x-manman-error"] for _, headers in await dead_letters()]
    assert all("a time outside of years 1 to 9999" in refusal for refusal in refusals), refusals
    assert len(re.findall("false_canary_ignored", processor.log)) == 2
    assert "Traceback" not in processor.log


async def test_a_true_canary_sent_again_proves_no_more_than_it_did(
    proofs: Proofs,
    start_processor: StartRole,
    publish: Publisher,
    rows: FetchRows,
    eventually: Eventually,
) -> None:
    await start_processor(**FREQUENT_CANARIES)
    await is_observed_anew(rows, eventually)
    originals = list(await proofs.receive())
    routing_keys = {canary.routing_key for canary in originals}
    assert len(routing_keys) == len(QUEUES)
    for key in routing_keys:
        for canary in (*originals[:4], *originals[-4:]):
            for _ in range(5):
                await publish(canary.body, key)
    await is_read_through(publish, rows, eventually, worker=100)
    await is_observed_anew(rows, eventually)
    await proofs.are_all_of(await proofs.receive())


async def test_processors_that_start_at_once_agree_on_the_secret(database: str) -> None:
    pool = await asyncpg.create_pool(database, min_size=8, max_size=8)
    async with pool:

        async def read() -> Any:
            async with pool.acquire() as connection:
                return await shared_secret(connection)

        secrets = await asyncio.gather(*(read() for _ in range(8)))
    [secret] = set(secrets)
    assert len(secret) == 32


async def test_a_restored_backup_without_the_secret_blinds_nobody(
    start_processor: StartRole, rows: FetchRows, eventually: Eventually
) -> None:
    await start_processor(canary_interval_seconds=0.2)
    await is_observed_anew(rows, eventually)
    await rows("WITH a AS (DELETE FROM processors) DELETE FROM canary_key")
    await eventually(lambda: rows("SELECT 1 FROM canary_key"))
    await is_observed_anew(rows, eventually)
