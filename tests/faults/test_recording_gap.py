"""A broker that stops under a recorder leaves a gap in the recording, of which it says that it
is one."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from manman_status.dev.rabbitmq import EmbeddedRabbitMQ
from tests.fleet import Fleet
from tests.integration.cli.test_record import ended, start_recording
from tests.kinds import Eventually, StartRole

__all__ = ["start_recording"]


def gaps(file: Path) -> list[Any]:
    lines = map(json.loads, file.read_text("utf-8").splitlines())
    return [line for line in lines if "gap_since" in line]


def beats(file: Path) -> Any:
    return file.read_text("utf-8").count("HEARTBEAT")


async def test_an_outage_of_the_broker_is_a_gap(
    start_quick: StartRole,
    fleet: Fleet,
    start_recording: Any,
    rabbitmq: EmbeddedRabbitMQ,
    eventually: Eventually,
) -> None:
    await start_quick()
    process, file = await start_recording()
    fleet.recruit(3)
    await eventually(lambda: beats(file) > 5)
    await asyncio.to_thread(rabbitmq.stop)
    assert b"what passes meanwhile is not recorded" in await process.stderr.readline()
    await asyncio.to_thread(rabbitmq.start)
    [gap] = await eventually(lambda: gaps(file))
    seen = beats(file)
    await eventually(lambda: beats(file) > seen + 5)
    assert datetime.fromisoformat(gap["gap_since"]) < datetime.fromisoformat(gap["at"])
    code, said = await ended(process)
    assert code == 0
    assert said.rstrip().endswith(", 1 gap")
