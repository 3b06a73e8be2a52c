"""RabbitMQ runs low on memory: it holds back whoever publishes, and only what is read from it can
help."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from manman_status.dev.rabbitmq import rabbitmq_server
from tests.builders import counted
from tests.conftest import SharedRabbitMQ, role_environment
from tests.kinds import Eventually, FetchRows, Role, StartRole
from tests.messaging import Publisher

WAITING = 20_000
BY_THE_COMMANDS_SECONDS = 12


@pytest.fixture
async def memory_alarm(rabbitmq: SharedRabbitMQ, eventually: Eventually) -> AsyncIterator[Any]:
    """Sets it off, or ends it."""
    async with httpx.AsyncClient(base_url=rabbitmq.management_url, timeout=30) as management:

        async def set_off(low: Any) -> None:
            await asyncio.to_thread(
                rabbitmqctl, rabbitmq, "set_vm_memory_high_watermark", "0.00001" if low else "0.4"
            )
            await eventually(lambda: rings(low))

        async def rings(low: Any) -> bool:
            return (await management.get("/api/health/checks/alarms")).is_error is low

        yield set_off
        await set_off(low=False)


def rabbitmqctl(rabbitmq: SharedRabbitMQ, *arguments: Any) -> None:
    command = [rabbitmq_server().with_name("rabbitmqctl"), *arguments]
    subprocess.run(
        command, env=rabbitmq._environment(), check=True, capture_output=True, timeout=120
    )


async def test_backlog_is_drained_during_the_alarm(
    start_quick: StartRole,
    memory_alarm: Any,
    publish: Publisher,
    rows: FetchRows,
    eventually: Eventually,
) -> None:
    """The canaries and the watermark move again after the alarm."""
    (await start_quick()).stop()
    await publish.many(
        [(started(i), f"game_server_instance.{i}.lifecycle") for i in range(1, WAITING + 1)]
    )
    await memory_alarm(low=True)
    processor = await start_quick()
    await eventually(counted(rows, WAITING, "server_instances"))
    await eventually(lambda: "broker_alarm" in processor.log and "low on memory" in processor.log)
    alarm = "SELECT 1 FROM processors WHERE statistics ->> 'broker_alarm' LIKE '%memory%'"
    await eventually(lambda: rows(alarm))
    assert not await rows(
        "SELECT 1 FROM observation WHERE observed_through > now() - interval '1 s'"
    )
    await memory_alarm(low=False)
    await eventually(
        lambda: rows("SELECT 1 FROM observation WHERE observed_through > now() - interval '1 s'")
    )
    await eventually(lambda: "broker_alarm_ended" in processor.log)
    await eventually(
        lambda: rows("SELECT 1 FROM processors WHERE statistics ->> 'broker_alarm' IS NULL")
    )
    assert "was_cut_off_from_broker" not in processor.log
    processor.stop()


async def test_the_commands_name_the_alarm(
    processor: Role, memory_alarm: Any, broker: str, database: str, manman_status: Any
) -> None:
    commands = [
        ("publish", "heartbeat", "7"),
        ("silence", "add", "--for", "1h", "--why", "x", "--worker", "7"),
        ("doctor", "--role", "processor"),
    ]
    await memory_alarm(low=True)
    urls = {"rabbitmq_url": broker, "database_url": database}
    ended = await asyncio.gather(*(manman_status(*command, **urls) for command in commands))
    for command, (code, said, took) in zip(commands, ended, strict=True):
        assert code == 1, (command, said)
        assert "RabbitMQ holds back publishers because of an alarm: low on memory" in said
        assert took < BY_THE_COMMANDS_SECONDS + 3, "a machine may be slow to start Python"


@pytest.fixture
def manman_status() -> Any:
    """Runs a command: its exit code, all that it said, and how long it took."""

    async def run(*arguments: Any, **settings: Any) -> tuple[Any, Any, Any]:
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "manman_status", *arguments),
            env=role_environment(**settings) | {"COLUMNS": "400"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        return process.returncode, said.decode(), time.monotonic() - began

    return run


def started(instance: Any) -> dict[str, Any]:
    return {"command_type": "SERVER_STARTED", "command_args": [str(instance), "7", "3"]}
