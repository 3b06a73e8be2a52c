"""Anything may stand still for a while: no event is lost, and every processor stops normally."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from typing import Any

import pytest

from manman_status.dev.postgres import EmbeddedPostgres
from manman_status.dev.rabbitmq import EmbeddedRabbitMQ
from tests.kinds import Eventually, FetchRows, ProcessTree, StartRole
from tests.messaging import Publisher

TURNS = 8
STARTED_A_TURN = 100
LONGEST_SECONDS = 5.0
"""Longer than a transaction may idle, a lease lasts and a canary may be on its way."""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_random_freezes_lose_no_event(
    seed: int,
    start_quick: StartRole,
    publish: Publisher,
    rows: FetchRows,
    eventually: Eventually,
    rabbitmq: EmbeddedRabbitMQ,
    postgres: EmbeddedPostgres,
    process_tree: ProcessTree,
) -> None:
    rng = random.Random(seed)
    processors = [await start_quick(), await start_quick()]
    for turn in range(TURNS):
        first = 1 + STARTED_A_TURN * turn
        await publish.many([started(instance) for instance in range(first, first + STARTED_A_TURN)])
        servers: list[Any] = [rng.choice(processors), rng.choice(processors), postgres, rabbitmq]
        frozen = rng.choice(servers)
        pids = [*process_tree(frozen.pid)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(rng.uniform(0.2, LONGEST_SECONDS))
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        await asyncio.sleep(rng.uniform(0, 0.5))
    processors[0].stop()
    everything = "SELECT FROM server_instances HAVING count(*) = $1"
    await eventually(lambda: rows(everything, TURNS * STARTED_A_TURN), within_seconds=90)
    processors[1].stop()
    assert not [each.log for each in processors if "Traceback" in each.log]


def started(instance: Any) -> tuple[Any, Any]:
    command = {"command_type": "SERVER_STARTED", "command_args": [str(instance), "7", "3"]}
    return command, f"game_server_instance.{instance}.lifecycle"
