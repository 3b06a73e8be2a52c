"""`simulate --verify` against real servers: quiet when the service shows the truth, loud when it
does not."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest

from manman_status.dev.rabbitmq import EmbeddedRabbitMQ
from tests.builders import counted
from tests.complaints import complaints
from tests.conftest import role_environment
from tests.kinds import Eventually, FetchRows, Role, StartRole


class Verdict(NamedTuple):
    code: int
    out: str
    err: str

    def number(self, what: Any) -> Any:
        [found] = re.findall(rf"^ *{what} +(\d+)", self.out, flags=re.MULTILINE)
        return int(found)

    @property
    def wrong(self) -> Any:
        """False LOST, missed LOST, wrong worker statuses, wrong server statuses."""
        names = ("false LOST", "missed LOST", "wrong worker statuses", "wrong server statuses")
        return tuple(self.number(name) for name in names)


@pytest.fixture
def simulate(broker: str) -> Any:
    """Runs it to its end; `meanwhile` is called with what it may query, while it runs."""

    async def run(
        arguments: Any,
        api: Role,
        *,
        meanwhile: Any = None,
        within_seconds: float = 200,
        **settings: Any,
    ) -> Verdict:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "manman_status", "simulate", *arguments.split(), "--verify", api.url),
            env=role_environment(rabbitmq_url=broker, **settings),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        beside = asyncio.create_task(meanwhile()) if meanwhile else None
        try:
            async with asyncio.timeout(within_seconds):
                out, err = await process.communicate()
            if beside:
                await beside
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert b"Traceback" not in err, err.decode()
        assert process.returncode is not None
        return Verdict(process.returncode, out.decode(), err.decode())

    return run


RIGHT = (0, 0, 0, 0)
QUICK = {"minimum_timeout_seconds": 3, "recovery_grace_seconds": 0}
"""Settings for both sides, where the defaults would only take longer."""


async def test_fleet_with_faults_is_reported_as_it_is(
    simulate: Any, start_processor: StartRole, api: Role
) -> None:
    await start_processor(recovery_grace_seconds=0)
    verdict = await simulate(
        "--workers 200 --servers 3 --interval 2 --churn 0.02 --crash 0.005 --kill 4@4s --pause"
        " 2@5s:3s --duplicate --reorder --clock-skew 1h --for 8s --seed 1",
        api,
        recovery_grace_seconds=0,
    )
    assert (verdict.wrong, verdict.code) == (RIGHT, 0), verdict
    assert verdict.number("rightly LOST") >= 4
    assert complaints(verdict.err) == []


@pytest.mark.slow
async def test_large_fleet_with_faults_is_reported_as_it_is(
    simulate: Any, processor: Role, api: Role
) -> None:
    verdict = await simulate(
        "--workers 2000 --servers 5 --interval 2 --churn 0.02 --crash 0.005 --kill 5@20s"
        " --duplicate --reorder --for 60s",
        api,
    )
    assert (verdict.wrong, verdict.code) == (RIGHT, 0), verdict
    assert verdict.number("rightly LOST") > 50


@pytest.mark.slow
async def test_a_pause_longer_than_the_timeout_is_lost_and_back_again(
    simulate: Any, start_processor: StartRole, api: Role
) -> None:
    await start_processor(**QUICK)
    verdict = await simulate(
        "--workers 40 --servers 2 --interval 1 --churn 0 --crash 0 --pause 3@3s:7s --for 12s",
        api,
        **QUICK,
    )
    assert (verdict.wrong, verdict.code) == (RIGHT, 0), verdict
    assert verdict.number("rightly LOST") == 3
    assert "0 were killed, 3 paused" in verdict.out


async def test_first_signal_ends_the_run_and_second_the_settling(
    processor: Role, api: Role, broker: str, rows: FetchRows, eventually: Eventually
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *(
            "-m",
            "manman_status",
            "simulate",
            "--workers",
            "5",
            "--interval",
            "1",
            "--crash",
            "0",
            "--verify",
        ),
        env=role_environment(rabbitmq_url=broker, url=api.url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(120):
        assert b"Ctrl-C stops them" in await process.stdout.readline()
        await eventually(counted(rows, 5, "workers"))
        process.send_signal(signal.SIGINT)
        assert b"settling" in await process.stdout.readline()
    async with asyncio.timeout(12):  # which settling alone would take longer than
        process.send_signal(signal.SIGTERM)
        out, err = await process.communicate()
    assert (process.returncode, complaints(err.decode())) == (0, [])
    assert b"wrong server statuses" in out


@pytest.mark.slow
async def test_who_the_guard_holds_is_not_missed_and_lost_in_the_end(
    simulate: Any, start_processor: StartRole, api: Role, rows: FetchRows, eventually: Eventually
) -> None:
    await start_processor(guard_hold_seconds=20, **QUICK)
    held = asyncio.Event()

    async def look() -> None:
        await eventually(lambda: rows("SELECT 1 FROM guards WHERE group_name = 'eu-1'"))
        held.set()

    verdict = await simulate(
        "--workers 80 --servers 2 --interval 1 --churn 0 --crash 0 --kill-group eu-1@40%@3s"
        " --for 20s",
        api,
        meanwhile=look,
        **QUICK,
    )
    assert held.is_set()
    assert (verdict.wrong, verdict.code) == (RIGHT, 0), verdict
    assert verdict.number("rightly LOST") == 8


@pytest.fixture
def breaks_promise(rows: FetchRows, eventually: Eventually) -> Any:
    """Let the api promise a minimum timeout, and the leader keep to another once workers are
    there."""
    set_minimum = "UPDATE observation SET minimum_timeout_seconds = $1 RETURNING 1"

    async def promise(promised: float, kept: float) -> Callable[[], Awaitable[None]]:
        await eventually(
            lambda: rows("SELECT 1 FROM processors WHERE statistics ->> 'sweep_ms' IS NOT NULL")
        )
        await rows(set_minimum, promised)

        async def keep() -> None:
            await eventually(lambda: rows("SELECT 1 FROM workers"))
            await rows(set_minimum, kept)

        return keep

    return promise


async def test_too_short_a_timeout_is_found_after_recovery(
    simulate: Any, start_processor: StartRole, api: Role, breaks_promise: Any
) -> None:
    """Paused for 6 s: lost after 3 s by the processor, while 9 s were promised."""
    await start_processor(
        minimum_timeout_seconds=0.5,
        recovery_grace_seconds=0,
        canary_interval_seconds=0.2,
        sweep_interval_seconds=0.2,
    )
    verdict = await simulate(
        "--workers 40 --servers 2 --interval 1 --churn 0 --crash 0 --pause 3@2s:6s --for 9s",
        api,
        meanwhile=await breaks_promise(9, 0.5),
    )
    assert verdict.code == 1
    assert verdict.number("false LOST") >= 3
    assert verdict.number("missed LOST") == 0
    assert "false LOST: worker" in verdict.out
    assert "did not say what is true" in verdict.err


@pytest.mark.slow
async def test_a_timeout_that_is_too_long_is_found(
    simulate: Any, start_processor: StartRole, api: Role, breaks_promise: Any
) -> None:
    await start_processor(minimum_timeout_seconds=60, recovery_grace_seconds=0)
    verdict = await simulate(
        "--workers 40 --servers 2 --interval 1 --churn 0 --crash 0 --kill 3@2s --for 6s",
        api,
        meanwhile=await breaks_promise(3, 60),
    )
    assert verdict.code == 1
    assert verdict.wrong == (0, 3, 0, 6), verdict


async def test_rows_that_were_tampered_with_are_found(
    simulate: Any, start_processor: StartRole, api: Role, rows: FetchRows, eventually: Eventually
) -> None:
    await start_processor(**QUICK)

    async def tamper() -> None:
        all_beat = (
            "SELECT 1 FROM workers, observation WHERE last_heartbeat > created_date + interval '4"
            " s' AND observed_through > now() - interval '2 s' HAVING count(*) = 40"
        )
        await eventually(lambda: rows(all_beat))
        await rows(
            "UPDATE server_instances SET status = 'CRASHED', reason = 'exit_code' WHERE worker_id ="
            " 1001"
        )
        await rows(
            "UPDATE workers SET status = 'LOST', reason = 'heartbeat_expired', status_since = now()"
            " WHERE worker_id = 1002"
        )

    verdict = await simulate(
        "--workers 40 --servers 2 --interval 1 --churn 0 --crash 0 --for 10s",
        api,
        meanwhile=tamper,
        **QUICK,
    )
    assert verdict.code == 1
    assert verdict.number("wrong server statuses") >= 1
    assert verdict.number("false LOST") == 1
    assert "worker 1002" in verdict.out


@pytest.mark.slow
async def test_a_processor_that_is_gone_is_found(
    simulate: Any, start_processor: StartRole, api: Role, rows: FetchRows, eventually: Eventually
) -> None:
    processor = await start_processor(**QUICK)

    async def kill() -> None:
        await eventually(lambda: rows("SELECT 1 FROM server_instances HAVING count(*) >= 80"))
        processor.kill()

    verdict = await simulate(
        "--workers 40 --servers 2 --interval 1 --churn 0.1 --crash 0 --kill 3@8s --for 12s",
        api,
        meanwhile=kill,
        **QUICK,
    )
    assert verdict.code == 1
    assert verdict.number("wrong server statuses") >= 40
    assert verdict.number("wrong worker statuses") == 37
    assert verdict.number("missed LOST") == 0
    assert "nobody reads manman.status.heartbeats.0" in verdict.err


@pytest.mark.slow
async def test_unavailable_broker_makes_nobody_lost(
    simulate: Any,
    start_processor: StartRole,
    api: Role,
    rows: FetchRows,
    rabbitmq: EmbeddedRabbitMQ,
    eventually: Eventually,
) -> None:
    settings = {"minimum_timeout_seconds": 6, "recovery_grace_seconds": 6}
    await start_processor(**settings)

    async def outage() -> None:
        await eventually(lambda: rows("SELECT 1 FROM workers HAVING count(*) >= 40"))
        await asyncio.to_thread(rabbitmq.stop)
        await asyncio.sleep(10)
        await asyncio.to_thread(rabbitmq.start)

    verdict = await simulate(
        "--workers 40 --servers 2 --interval 1 --churn 0.02 --crash 0 --kill 2@40s --for 50s",
        api,
        meanwhile=outage,
        **settings,
    )
    assert (verdict.wrong, verdict.code) == (RIGHT, 0), verdict
    assert verdict.number("rightly LOST") == 2
    assert "heartbeats reached no queue" in verdict.out
