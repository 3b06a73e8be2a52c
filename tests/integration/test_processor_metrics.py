"""A processor's counts reach /metrics of the api, which is all that Prometheus scrapes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from itertools import product
from typing import Any

import asyncpg
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.kinds import Eventually, Role, StartRole
from tests.messaging import Publisher

PREFIX = "manman_status_processor"


@pytest.fixture
async def measured(api: Role) -> AsyncIterator[Any]:
    """Samples of /metrics by name and labels."""
    async with httpx.AsyncClient(base_url=api.url) as client:

        async def read() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
            text = (await client.get("/metrics")).text
            return {
                (sample.name, frozenset(sample.labels.items())): sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
            }

        yield read


def summed(samples: Any, name: str, **labels: Any) -> Any:
    """Add up all series that have these labels; None when there is none."""
    found = [
        value
        for (each, given), value in samples.items()
        if each == name and labels.items() <= dict(given).items()
    ]
    return sum(found) if found else None


async def test_messages_are_counted_by_kind_and_outcome(
    processor: Role, measured: Any, publish: Publisher, eventually: Eventually
) -> None:
    async def starts_at_0() -> bool:
        return (
            summed(
                await measured(), f"{PREFIX}_events_total", kind="ServerStopped", outcome="stored"
            )
            == 0
        )

    await eventually(starts_at_0)
    for _ in range(3):
        beat = {"command_type": "HEARTBEAT", "command_args": ["7"], "interval_seconds": 3600}
        await publish(beat, "worker.7.heartbeat")
    await publish(b"not JSON", "worker.7.heartbeat")

    async def counted() -> bool:
        samples = await measured()
        assert summed(samples, f"{PREFIX}_events_total", kind="Heartbeat", outcome="stored") == 3
        assert summed(samples, f"{PREFIX}_events_total", outcome="dead_lettered") == 1
        assert (
            summed(
                samples,
                f"{PREFIX}_transitions_total",
                entity="worker",
                status="RUNNING",
                reason="reported",
            )
            == 1
        )
        assert summed(samples, "manman_status_transitions_total") == 1
        assert summed(samples, f"{PREFIX}_new_ids_total", entity="worker") == 1
        assert summed(samples, f"{PREFIX}_new_ids_total", entity="game_server_instance") == 0
        assert summed(samples, f"{PREFIX}_batch_events_sum") == 3
        assert summed(samples, f"{PREFIX}_batch_duration_seconds_count") > 1, (
            "canaries are batches too"
        )
        assert summed(samples, "manman_status_relay_backlog_messages") == 0
        assert (
            summed(samples, "manman_status_queue_messages", queue="manman.status.heartbeats.0") == 0
        )
        assert summed(samples, "manman_status_sweep_duration_seconds") > 0
        return summed(samples, "manman_status_workers", health="healthy") == 1

    await eventually(counted)


async def test_notification_outcomes_start_at_zero(
    start_processor: StartRole, measured: Any, eventually: Eventually, sink: Any
) -> None:
    """A rate over the first notification is right, as its series existed before."""
    await start_processor(notify_urls=sink.url)

    async def both_channels() -> dict[tuple[str, str], float]:
        samples = await measured()
        return {
            (dict(labels)["channel"].partition("-")[0], dict(labels)["outcome"]): number
            for (name, labels), number in samples.items()
            if name == f"{PREFIX}_notifications_total"
        }

    await eventually(both_channels)
    assert await both_channels() == dict.fromkeys(product(("all", "broker"), ("sent", "failed")), 0)


async def test_what_the_broker_gives_out_again_is_counted(
    start_processor: StartRole,
    start_role: Callable[..., Role],
    measured: Any,
    publish: Publisher,
    database: str,
    broker: str,
    eventually: Eventually,
) -> None:
    """A processor was killed while it held messages: they come to the next one as redelivered."""
    first = await start_processor(batch_max_wait_ms=10_000, batch_max_events=10_000)
    await publish({"command_type": "HEARTBEAT", "command_args": ["7"]}, "worker.7.heartbeat")
    connection = await asyncpg.connect(database)
    assert await connection.fetchval("SELECT count(*) FROM workers") == 0
    await connection.close()
    first.kill()
    start_role("processor", database_url=database, rabbitmq_url=broker)

    async def redelivered() -> bool:
        return (summed(await measured(), f"{PREFIX}_redeliveries_total") or 0) >= 1

    await eventually(redelivered)


async def test_killed_processor_vanishes_from_metrics(
    start_processor: StartRole, measured: Any, eventually: Eventually
) -> None:
    """The other leads within seconds, and forgets it."""
    doomed = await start_processor()
    await start_processor()

    async def two() -> bool:
        samples = await measured()
        assert len([name for name, _ in samples if name == f"{PREFIX}_info"]) == 2, (
            "two on one host do not clash"
        )
        return summed(samples, "manman_status_processors") == 2

    await eventually(two)
    doomed.kill()

    async def one() -> bool:
        samples = await measured()
        assert len([name for name, _ in samples if name == f"{PREFIX}_redeliveries_total"]) == 1
        return summed(samples, "manman_status_processors") == 1

    await eventually(one)
