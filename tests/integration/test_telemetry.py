"""Telemetry that real roles send to a collector: traces from a report to its change; metrics."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import aio_pika
import httpx
import pytest

from manman_status.dev.ports import free_port
from tests.collector import OFTEN, collecting
from tests.kinds import Eventually, FetchRows, StartRole

PROCESSOR, API = "manman-status-processor", "manman-status-api"
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The roles export without delay."""
    for name, value in OFTEN.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def collector(often: Any) -> Iterator[Any]:
    with collecting() as collector:
        yield collector


@pytest.fixture
def run(broker: str, collector: Any) -> Any:
    """Runs Python with these arguments, in an environment with a collector and the broker."""

    def run(*arguments: Any) -> Any:
        environment = {
            "MANMAN_STATUS_OTLP_ENDPOINT": collector.url,
            "MANMAN_STATUS_RABBITMQ_URL": broker,
            "PATH": os.environ["PATH"],
            **OFTEN,
        }
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture
async def changes(broker: str) -> AsyncIterator[Any]:
    """Published changes: `(body, headers)` of each message, as it arrives."""
    async with await aio_pika.connect(broker) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        exchange = await channel.declare_exchange("external_service_events", "topic", durable=True)
        await queue.bind(exchange, "#")
        arrived = []

        async def see(message: Any) -> None:
            arrived.append((message.body, dict(message.headers)))

        await queue.consume(see, no_ack=True)
        yield arrived


async def test_one_trace_leads_from_report_to_published_change(
    start_processor: StartRole, run: Any, collector: Any, changes: Any, eventually: Eventually
) -> None:
    await start_processor(otlp_endpoint=collector.url)
    run("-m", "manman_status", "publish", "started", "7")

    await eventually(
        lambda: (
            changes
            and {span.name for span in collector.spans} >= {"external_service_events publish"}
        )
    )
    [published] = [span for span in collector.spans if span.service == "manman-status-publish"]
    spans = {span.name: span for span in collector.trace(published.trace_id)}
    assert set(spans) == {
        "internal_service_events publish",
        "manman.status.lifecycle.0 process",
        "manman.status.lifecycle.0 store",
        "external_service_events create",
        "external_service_events publish",
    }
    process = spans["manman.status.lifecycle.0 process"]
    assert process.parent_id == published.span_id
    assert spans["manman.status.lifecycle.0 store"].parent_id == process.span_id
    assert spans["external_service_events create"].parent_id == process.span_id
    [(_, headers)] = changes
    assert headers["traceparent"].split("-")[1] == published.trace_id


WORKER = """
import asyncio, os
from opentelemetry.sdk.trace import TracerProvider
from manman_status.reporter import StatusReporter

async def main():
    tracer = TracerProvider().get_tracer("worker")
    url = os.environ["MANMAN_STATUS_RABBITMQ_URL"]
    # With an inventory a heartbeat may be the first to tell of the server.
    async with StatusReporter(url, worker_id=7, interval_seconds=1, inventory=False) as report:
        with tracer.start_as_current_span("start the server") as span:
            await report.server_started(31)
        print(format(span.get_span_context().trace_id, "032x"))
        await asyncio.sleep(2.5)

asyncio.run(main())
"""


async def test_an_event_goes_on_in_the_trace_of_its_worker(
    start_processor: StartRole, run: Any, collector: Any, rows: FetchRows, eventually: Eventually
) -> None:
    await start_processor(otlp_endpoint=collector.url)
    trace_id = (await asyncio.to_thread(run, "-c", WORKER)).stdout.strip()
    await eventually(lambda: len(collector.trace(trace_id)) == 4)
    await eventually(lambda: rows("SELECT FROM workers WHERE status = 'COMPLETE'"))
    # What began in no trace begins one where it is published: its start and its end.
    await eventually(lambda: len({span.trace_id for span in collector.spans}) == 3)
    names = {span.name for span in collector.spans if span.trace_id != trace_id}
    assert names <= {"external_service_events create", "external_service_events publish"}
    assert [row["traceparent"][3:35] for row in await rows(TRACEPARENTS) if row["traceparent"]] == [
        trace_id
    ]


TRACEPARENTS = "SELECT traceparent FROM transitions ORDER BY revision"


def started(worker_id: int) -> dict[str, Any]:
    return {"command_type": "WORKER_STARTED", "command_args": [worker_id]}


@pytest.fixture
async def send(broker: str) -> AsyncIterator[Any]:
    """Publishes bodies at once, each with headers, to the lifecycle queue."""
    async with await aio_pika.connect(broker) as connection:
        channel = await connection.channel()

        async def send(*messages: Any) -> None:
            exchange = await channel.get_exchange("internal_service_events", ensure=False)
            for body, headers in messages:
                message = aio_pika.Message(json.dumps(body).encode(), headers=headers)
                await exchange.publish(message, "worker.1.lifecycle")

        yield send


async def test_batch_links_each_of_its_traces(
    start_processor: StartRole, send: Any, collector: Any, rows: FetchRows, eventually: Eventually
) -> None:
    """Each change goes on in the trace of its own message."""
    others = f"00-{TRACE[::-1]}-b7ad6b7169203331-01"
    processor = await start_processor(otlp_endpoint=collector.url, batch_max_wait_ms=1000)
    os.kill(processor.pid, signal.SIGSTOP)  # so that it finds all of it at once
    await send(
        ([started(1), started(2)], {}),
        (
            [started(3), {"command_type": "HEARTBEAT", "command_args": [3]}, started(4)],
            {"traceparent": TRACEPARENT},
        ),
        (started(5), {"traceparent": others}),
    )
    os.kill(processor.pid, signal.SIGCONT)
    await eventually(
        lambda: (
            [span.name for span in collector.spans].count("external_service_events publish") == 5
        )
    )
    [batch] = [span for span in collector.spans if span.name == "manman.status.lifecycle.0 store"]
    assert batch.trace_id == TRACE
    assert batch.links == {TRACE[::-1]}
    assert batch.attributes["manman_status.batch.events"] == 6
    [process] = [
        span
        for span in collector.trace(TRACE[::-1])
        if span.name == "manman.status.lifecycle.0 process"
    ]
    assert process.links == {TRACE}
    kept = [row["traceparent"] and row["traceparent"][3:35] for row in await rows(TRACEPARENTS)]
    assert kept == [None, None, TRACE, TRACE, TRACE[::-1]]


async def test_refused_message_leaves_neighbours_their_traces(
    start_processor: StartRole, send: Any, collector: Any, rows: FetchRows, eventually: Eventually
) -> None:
    await start_processor(otlp_endpoint=collector.url, batch_max_wait_ms=1000)
    await rows("ALTER TABLE workers ADD CONSTRAINT unlucky CHECK (worker_id <> 13)")
    others = f"00-{TRACE[::-1]}-b7ad6b7169203331-01"
    await send(
        (started(1), {}),
        (started(13), {"traceparent": others}),
        (started(2), {"traceparent": TRACEPARENT}),
        (started(3), {}),
    )
    await eventually(lambda: rows("SELECT FROM workers WHERE worker_id = 3"))
    kept = (
        "SELECT entity_id, substr(traceparent, 4, 32) AS trace FROM transitions WHERE traceparent"
        " IS NOT NULL"
    )
    assert await rows(kept) == [{"entity_id": 2, "trace": TRACE}]
    await eventually(
        lambda: "manman.status.dead publish" in {span.name for span in collector.trace(TRACE[::-1])}
    )


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"traceparent": TRACEPARENT[:-1] + "0"},
        {"traceparent": "nonsense"},
        {"traceparent": 7, "tracestate": 7},
        {"traceparent": bytearray(TRACEPARENT, "ascii")},
        {"traceparent": {"a": [None]}},
    ],
    ids=["none", "not sampled", "nonsense", "a number", "bytes", "a table"],
)
async def test_unsampled_message_is_stored_and_not_traced(
    headers: Any,
    start_processor: StartRole,
    send: Any,
    collector: Any,
    rows: FetchRows,
    eventually: Eventually,
) -> None:
    await start_processor(otlp_endpoint=collector.url)
    await send((started(1), headers))
    await eventually(lambda: rows("SELECT FROM workers"))
    assert await rows(TRACEPARENTS) == [{"traceparent": None}]
    await eventually(lambda: len(collector.spans) == 2)
    assert TRACE not in {span.trace_id for span in collector.spans}


async def test_what_nobody_understands_is_seen_to_the_dead_letters(
    start_processor: StartRole, send: Any, collector: Any, eventually: Eventually
) -> None:
    await start_processor(otlp_endpoint=collector.url)
    await send(({"command_type": "NONSENSE"}, {"traceparent": TRACEPARENT}))
    await eventually(
        lambda: {span.name for span in collector.trace(TRACE)} >= {"manman.status.dead publish"}
    )


async def test_change_published_later_stays_in_its_trace(
    start_processor: StartRole, send: Any, collector: Any, rows: FetchRows, eventually: Eventually
) -> None:
    first = await start_processor(otlp_endpoint=collector.url, lease_seconds=1)
    await send((started(1), {"traceparent": TRACEPARENT}))
    await eventually(lambda: rows("SELECT FROM relay WHERE sent_revision = 1"))
    first.kill()
    seen = len(collector.spans)
    await rows("UPDATE relay SET sent_revision = 0")
    await start_processor(otlp_endpoint=collector.url, lease_seconds=1)
    await eventually(
        lambda: [s for s in collector.spans[seen:] if s.name == "external_service_events publish"]
    )
    assert {span.trace_id for span in collector.spans[seen:] if span.service == PROCESSOR} == {
        TRACE
    }


async def test_processor_metrics_arrive_with_their_source(
    start_processor: StartRole, send: Any, collector: Any, eventually: Eventually
) -> None:
    await start_processor(otlp_endpoint=collector.url)
    await send((started(1), {}), (started(2), {}))
    named = {
        "manman_status.events": {"kind": "WorkerStarted", "outcome": "stored"},
        "manman_status.transitions": {"status": "RUNNING"},
        "messaging.publish.duration": {"messaging.destination.name": "external_service_events"},
    }
    for name, attributes in named.items():
        await eventually(lambda: collector.sum(PROCESSOR, name, **attributes) == 2)
    for name in ("batches", "batch.duration"):
        assert collector.sum(PROCESSOR, f"manman_status.{name}") > 0
    await eventually(lambda: collector.sum(PROCESSOR, "manman_status.relay.backlog") == 0)
    for queue in ("manman.status.heartbeats.0", "manman.status.lifecycle.0"):
        of_queue = partial(collector.sum, PROCESSOR, queue=queue)
        await eventually(lambda: (lag := of_queue("manman_status.lag")) is not None and lag < 5)
        await eventually(lambda: of_queue("manman_status.queue.depth") is not None)
    resource = collector.resources[PROCESSOR]
    assert resource["service.version"] == "0.1.0"
    assert resource["service.instance.id"]


async def test_requests_are_spans_and_measurements_by_their_route(
    start_api: StartRole, collector: Any, eventually: Eventually
) -> None:
    api = await start_api(otlp_endpoint=collector.url, api_tokens="token-of-a-test")
    caller = {"Authorization": "Bearer token-of-a-test", "traceparent": TRACEPARENT}
    async with httpx.AsyncClient(base_url=api.url) as client:
        for path in ("/livez", "/metrics"):
            await client.get(path, headers=caller)
        await client.get("/status/workers/7", headers=caller)
        await client.get("/status/workers", params={"token": "token-of-a-test"})
        await client.get("/no/such/path", headers=caller)
    await eventually(lambda: len(collector.spans) == 3)
    assert [span.name for span in collector.spans] == [
        "GET /status/workers/{worker_id}",
        "GET /status/workers",
        "GET",
    ]
    assert [span.attributes["http.response.status_code"] for span in collector.spans] == [
        404,
        401,
        404,
    ]
    assert [span.trace_id == TRACE for span in collector.spans] == [True, False, True]
    assert "token-of-a-test" not in repr([span.attributes for span in collector.spans])
    measured = {"http.route": "/status/workers/{worker_id}", "http.response.status_code": 404}
    await eventually(lambda: collector.sum(API, "http.server.request.duration", **measured) == 1)
    lines = [json.loads(line) for line in api.log.splitlines()]
    [line] = [line for line in lines if line.get("route") == "/status/workers/{worker_id}"]
    assert (line["trace_id"], line["span_id"]) == (TRACE, collector.spans[0].span_id)


@pytest.mark.parametrize("state", ["closed", "fails", "hangs"])
async def test_unavailable_collector_is_logged_once(
    state: Any,
    start_processor: StartRole,
    start_api: StartRole,
    send: Any,
    rows: FetchRows,
    often: Any,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if state == "hangs":
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "600")
    with no_collector(state) as (url, attempts):
        processor, api = (
            await start_processor(otlp_endpoint=url),
            await start_api(otlp_endpoint=url),
        )
        await send((started(1), {"traceparent": TRACEPARENT}))
        await eventually(lambda: rows("SELECT FROM workers"))
        async with httpx.AsyncClient(base_url=api.url) as client:
            assert (await client.get("/status/workers/1")).status_code == httpx.codes.OK
        if state != "hangs":
            await eventually(lambda: "do not reach" in processor.log and "do not reach" in api.log)
        if state == "fails":
            await eventually(lambda: len(attempts) > 20)
        for role in (processor, api):
            begun = time.monotonic()
            role.stop()
            assert time.monotonic() - begun < 8
            assert role.log.count("do not reach") == (state != "hangs")
            assert "Traceback" not in role.log


@contextmanager
def no_collector(state: Any) -> Iterator[Any]:
    """An address where nobody listens, where all is refused, or where nothing is ever answered; and
    the attempts."""
    attempts = []
    listener = socket.create_server(("127.0.0.1", free_port()), backlog=100)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"

    def refuse() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                attempts.append(connection.recv(100_000))
                connection.sendall(
                    b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                )
                connection.close()

    if state == "closed":
        listener.close()
    elif state == "fails":
        threading.Thread(target=refuse, daemon=True).start()
    yield url, attempts
    if state != "closed":
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


async def test_returning_collector_is_logged_and_gets_new_data(
    start_processor: StartRole, often: Any, eventually: Eventually
) -> None:
    port = free_port()
    processor = await start_processor(otlp_endpoint=f"http://127.0.0.1:{port}")
    await eventually(lambda: "do not reach" in processor.log)
    with collecting(port) as collector:
        await eventually(lambda: collector.sum(PROCESSOR, "manman_status.batches"))
        await eventually(lambda: f"reach the collector at 127.0.0.1:{port} again" in processor.log)


async def test_collector_that_takes_only_traces_is_logged_once(
    start_processor: StartRole, send: Any, collector: Any, eventually: Eventually
) -> None:
    collector.refused.add("/v1/metrics")
    processor = await start_processor(otlp_endpoint=collector.url)
    for worker_id in range(1, 4):
        seen = collector.requests.copy()
        await send((started(worker_id), {"traceparent": TRACEPARENT}))
        await eventually(lambda: all(collector.requests[path] > seen[path] for path in PATHS))
    assert (processor.log.count("do not reach"), processor.log.count("again")) == (1, 0)
    collector.refused.clear()
    await eventually(lambda: "again" in processor.log)
    assert processor.log.count("do not reach") == 1


PATHS = ("/v1/traces", "/v1/metrics")


async def test_what_is_left_is_sent_at_the_end(
    start_processor: StartRole, collector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "60000")
    processor = await start_processor(otlp_endpoint=collector.url)
    assert collector.metrics == {}
    processor.stop()
    assert collector.sum(PROCESSOR, "manman_status.batches") is not None
