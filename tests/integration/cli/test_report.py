"""`manman-status report`: a program that nobody changed, reported as a server instance."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest

from tests.kinds import Eventually, FetchRows, Role
from tests.messaging import Publisher

PTY = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
COUNTS_INTERRUPTS = """
trap 'echo interrupted' INT
trap 'exit 4' TERM
echo ready
while :; do sleep 0.1; done
"""
STOPS_NORMALLY = "trap 'echo ending; exit 5' TERM; echo ready; while :; do sleep 0.1; done"


@pytest.fixture
async def start_report(broker: str) -> AsyncIterator[Any]:
    """Starts `report` with these arguments; its output and errors are pipes."""
    started = []

    async def start(*arguments: Any, before: Any = (), **settings: Any) -> Any:
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("MANMAN_STATUS_")
        }
        given = {"rabbitmq_url": broker, **settings}
        environment |= {
            f"MANMAN_STATUS_{name.upper()}": str(value) for name, value in given.items()
        }
        command = [*before, sys.executable, "-m", "manman_status", "report", *arguments]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.returncode is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
        await process.communicate()


async def finished(process: Any, given: bytes = b"") -> tuple[Any, Any, Any]:
    async with asyncio.timeout(30):
        out, err = await process.communicate(given)
    return process.returncode, out.decode(), err.decode()


async def is_ready(process: Any) -> None:
    async with asyncio.timeout(30):
        while (line := await process.stdout.readline()).strip() != b"ready":
            assert line


async def server(rows: FetchRows, instance_id: int = 31) -> Any:
    found = await rows(
        "SELECT status, reason, evidence FROM server_instances WHERE instance_id = $1", instance_id
    )
    return tuple(found[0].values()) if found else None


@pytest.fixture
def server_is(rows: FetchRows) -> Any:
    async def is_so(*expected: Any) -> bool:
        found = await server(rows)
        if found is None:
            return False
        found[2].pop("as_of", None)  # when it was sent: an end without an incarnation has it
        return bool(found == expected)

    return is_so


async def test_exit_code_comes_out_and_is_reported(
    processor: Role, start_report: Any, rows: FetchRows, eventually: Eventually, server_is: Any
) -> None:
    process = await start_report(
        *("--worker-id", "7", "--server-id", "31", "--config-id", "3", "--label", "group:eu-1"),
        *("--", "sh", "-c", "exit 3"),
    )
    assert await finished(process) == (3, "", "")
    await eventually(lambda: server_is("CRASHED", "exit_code", {"exit_code": 3}))
    [worker] = await eventually(lambda: rows("SELECT * FROM workers WHERE status = 'COMPLETE'"))
    assert (worker["worker_id"], worker["reason"], worker["labels"]) == (
        7,
        "graceful",
        {"group": "eu-1"},
    )
    assert await rows("SELECT game_server_config_id AS id FROM server_instances") == [{"id": 3}]


async def test_program_has_our_input_and_output(
    processor: Role, start_report: Any, eventually: Eventually, server_is: Any, rows: FetchRows
) -> None:
    process = await start_report("--worker-id", "7", "--server-id", "31", "--", "cat", "-")
    await eventually(lambda: server_is("RUNNING", "reported", {}))
    await eventually(lambda: rows("SELECT 1 FROM workers WHERE last_heartbeat IS NOT NULL"))
    assert await finished(process, b"a line\n") == (0, "a line\n", "")
    await eventually(lambda: server_is("COMPLETE", "graceful", {"exit_code": 0}))


async def test_a_signal_reaches_the_program_whose_answer_counts(
    processor: Role, start_report: Any, eventually: Eventually, server_is: Any
) -> None:
    process = await start_report(
        "--worker-id", "7", "--server-id", "31", "--", "sh", "-c", STOPS_NORMALLY
    )
    await is_ready(process)
    process.send_signal(signal.SIGTERM)
    assert await finished(process) == (5, "ending\n", "")
    await eventually(lambda: server_is("CRASHED", "exit_code", {"exit_code": 5}))


async def test_program_ended_by_our_signal_has_not_crashed(
    processor: Role, start_report: Any, eventually: Eventually, server_is: Any
) -> None:
    process = await start_report("--worker-id", "7", "--server-id", "31", "--", "sleep", "60")
    await eventually(lambda: server_is("RUNNING", "reported", {}))
    process.send_signal(signal.SIGTERM)
    assert (await finished(process))[0] == 128 + signal.SIGTERM
    await eventually(lambda: server_is("COMPLETE", "graceful", {}))


async def test_a_program_that_somebody_killed_has_crashed(
    processor: Role, start_report: Any, eventually: Eventually, server_is: Any
) -> None:
    process = await start_report("--worker-id", "7", "--server-id", "31", "--", "sleep", "60")
    await eventually(lambda: server_is("RUNNING", "reported", {}))
    [program] = psutil.Process(process.pid).children()
    program.kill()
    assert (await finished(process))[0] == 128 + signal.SIGKILL
    await eventually(lambda: server_is("CRASHED", "exit_code", {"exit_code": 137}))


async def test_a_key_at_the_terminal_interrupts_the_program_once(
    processor: Role, start_report: Any, eventually: Eventually
) -> None:
    process = await start_report(
        *("--worker-id", "7", "--server-id", "31", "--", "sh", "-c", COUNTS_INTERRUPTS),
        before=(sys.executable, "-c", PTY),
    )
    await is_ready(process)
    process.stdin.write(b"\x03")
    assert b"interrupted" in await process.stdout.readline()
    [wrapper] = psutil.Process(process.pid).children()
    wrapper.terminate()
    code, out, _ = await finished(process)
    assert code == 4
    assert "interrupted" not in out


async def test_beside_another_reporter_it_speaks_of_the_program_alone(
    processor: Role,
    publish: Publisher,
    start_report: Any,
    rows: FetchRows,
    eventually: Eventually,
    server_is: Any,
) -> None:
    beat = {"command_type": "HEARTBEAT", "command_args": ["7"], "incarnation": 5, "seq": 1}
    await publish(beat, "worker.7.heartbeat")
    await eventually(lambda: rows("SELECT 1 FROM workers WHERE incarnation = 5"))
    process = await start_report(
        "--worker-id", "7", "--server-id", "31", "--no-heartbeat", "--", "cat"
    )
    await eventually(lambda: server_is("RUNNING", "reported", {}))
    assert (await finished(process))[0] == 0
    await eventually(lambda: server_is("COMPLETE", "graceful", {"exit_code": 0}))
    [worker] = await rows("SELECT status, incarnation, seq FROM workers")
    assert worker == {"status": "RUNNING", "incarnation": 5, "seq": 1}


async def test_a_program_runs_and_ends_as_ever_without_a_broker(start_report: Any) -> None:
    process = await start_report(
        *("--worker-id", "7", "--server-id", "31", "--", "sh", "-c", "echo at work; exit 6"),
        rabbitmq_url="amqp://guest:guest@127.0.0.1:9/",
    )
    code, out, err = await finished(process)
    assert (code, out) == (6, "at work\n")
    assert "manman-status: worker 7 cannot report: RabbitMQ does not answer:" in err
    assert "manman-status: worker 7: 4 events were not sent before the end" in err
    assert "Traceback" not in err


async def test_an_id_that_was_not_given_is_said(
    processor: Role, start_report: Any, rows: FetchRows, eventually: Eventually
) -> None:
    process = await start_report("--worker-id", "7", "--", "true")
    code, _, err = await finished(process)
    [row] = await eventually(
        lambda: rows("SELECT instance_id FROM server_instances WHERE status = 'COMPLETE'")
    )
    assert (code, err) == (
        0,
        f"manman-status: true is server instance {row['instance_id']} of worker 7\n",
    )


@pytest.mark.parametrize(
    ("program", "code", "why"),
    [("/no/such/program", 127, "No such file or directory"), ("/", 126, "Permission denied")],
)
async def test_what_cannot_be_run_was_never_started(
    processor: Role, start_report: Any, rows: FetchRows, program: Any, code: Any, why: Any
) -> None:
    process = await start_report("--worker-id", "7", "--server-id", "31", "--", program)
    assert await finished(process) == (code, "", f"manman-status: cannot run {program}: {why}\n")
    assert await rows("SELECT 1 FROM workers") == []


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--worker-id", "7"), "report needs a program"),
        (("--", "true"), "--worker-id"),
        (("--worker-id", "0", "--", "true"), "--worker-id"),
        (("--worker-id", "7", "--label", "eu-1", "--", "true"), "must be KEY:VALUE"),
        (
            ("--worker-id", "7", "--label", f"{'k' * 64}:x", "--", "true"),
            "is no key of a label, which has 1 to 63 characters",
        ),
    ],
)
async def test_wrong_usage_is_refused_before_anything_runs(
    start_report: Any, arguments: Any, problem: Any
) -> None:
    code, _, err = await finished(await start_report(*arguments))
    assert code == 2
    assert problem in err
