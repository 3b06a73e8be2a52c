"""The files by which a processor is probed say what they are named for."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manman_status.dev.rabbitmq import EmbeddedRabbitMQ
from tests.kinds import Eventually, Role, StartRole

STALE_AFTER_SECONDS = 4.0


@pytest.fixture
def probed(server_folder: Path) -> Any:
    folder = server_folder / "probes"
    folder.mkdir(exist_ok=True)
    for name in ("alive", "ready"):
        folder.joinpath(name).unlink(missing_ok=True)
    return folder


def is_fresh(file: Path) -> Any:
    return file.exists() and time.time() - file.stat().st_mtime < 2


def is_stale(file: Path) -> bool:
    return time.time() - file.stat().st_mtime > STALE_AFTER_SECONDS


async def test_processor_is_alive_while_it_runs_ready_while_useful(
    start_quick: StartRole, probed: Any, rabbitmq: EmbeddedRabbitMQ, eventually: Eventually
) -> None:
    alive, ready = probed / "alive", probed / "ready"
    processor = await start_quick(probe_folder=probed, degraded_after_seconds=1)
    await eventually(lambda: is_fresh(ready))
    os.kill(rabbitmq.pid, signal.SIGSTOP)
    try:
        await eventually(lambda: is_stale(ready) and is_fresh(alive))
    finally:
        os.kill(rabbitmq.pid, signal.SIGCONT)
    await eventually(lambda: is_fresh(ready))
    os.kill(processor.pid, signal.SIGSTOP)
    try:
        await eventually(lambda: is_stale(alive))
    finally:
        os.kill(processor.pid, signal.SIGCONT)
    await eventually(lambda: is_fresh(alive))
    processor.stop()
    assert list(probed.iterdir()) == []


async def test_processor_without_database_is_alive_but_not_ready(
    start_role: Callable[..., Role], broker: str, probed: Any, eventually: Eventually
) -> None:
    start_role(
        "processor",
        database_url="postgresql://127.0.0.1:9/none",
        rabbitmq_url=broker,
        probe_folder=probed,
    )
    await eventually(lambda: is_fresh(probed / "alive"))
    assert not (probed / "ready").exists()


async def test_folder_without_write_access_is_refused_at_once(
    start_role: Callable[..., Role], database: str, broker: str
) -> None:
    role = start_role(
        "processor", database_url=database, rabbitmq_url=broker, probe_folder="/no/such/folder"
    )
    assert role.wait(within_seconds=60) == 1
    said = (
        "manman-status: cannot write into the probe folder /no/such/folder: No such file or"
        " directory"
    )
    assert said in role.log
