"""What an OpenTelemetry collector is sent, by the real roles: traces from a report to its republished change, metrics."""

from __future__ import annotations

import subprocess
import sys

import aio_pika
import httpx
import pytest

from manman_status.reporter import StatusReporter
from tests.collector import OFTEN, collecting

PROCESSOR, API = "manman-status-processor", "manman-status-api"
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture
def collector(monkeypatch):
    for name, value in OFTEN.items():
        monkeypatch.setenv(name, value)
    with collecting() as collector:
        yield collector


@pytest.fixture
def run(broker, collector):
    """Runs a command that reports, with a collector."""

    def run(*arguments):
        command = [sys.executable, "-m", "manman_status", *arguments, "--rabbitmq-url", broker]
        environment = {"MANMAN_STATUS_OTLP_ENDPOINT": collector.url, **OFTEN, "PATH": "/usr/bin:/bin"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture
async def changes(broker):
    """What is republished: `(body, headers)` of each message, as it arrives."""
    async with await aio_pika.connect(broker) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        exchange = await channel.declare_exchange("external_service_events", "topic", durable=True)
        await queue.bind(exchange, "#")
        arrived = []

        async def see(message):
            arrived.append((message.body, dict(message.headers)))

        await queue.consume(see, no_ack=True)
        yield arrived


async def test_one_trace_goes_from_the_report_to_the_republished_change(
    start_processor, run, collector, changes, eventually
):
    await start_processor(otlp_endpoint=collector.url)
    run("publish", "started", "7")

    await eventually(lambda: changes and {span.name for span in collector.spans} >= {"external_service_events publish"})
    [published] = [span for span in collector.spans if span.service == "manman-status-publish"]
    spans = {span.name: span for span in collector.trace(published.trace_id)}
    assert set(spans) == {
        "internal_service_events publish",
        "manman.status.lifecycle process",
        "manman.status.lifecycle store",
        "external_service_events create",
        "external_service_events publish",
    }
    process = spans["manman.status.lifecycle process"]
    assert process.parent_id == published.span_id
    assert spans["manman.status.lifecycle store"].parent_id == process.span_id
    assert spans["external_service_events create"].parent_id == process.span_id
    [(_, headers)] = changes
    assert headers["traceparent"].split("-")[1] == published.trace_id
