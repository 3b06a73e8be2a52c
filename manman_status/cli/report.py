"""Reporting any program as a server instance, without a change to its code."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress
from typing import Annotated, NoReturn

from cyclopts import Parameter
from cyclopts.validators import Number

from manman_status.cli.flags import Id, Labels, OptionalId, RabbitmqUrl, labels_of
from manman_status.cli.tracing import BeginSpan, tracing
from manman_status.errors import SettingsError
from manman_status.reporter import InvalidReport, StatusReporter
from manman_status.reporter.messages import microseconds_now
from manman_status.settings import load_settings

FORWARDED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
FROM_THE_KEYBOARD = (signal.SIGINT, signal.SIGQUIT)
SIGNALLED = 128
"""A shell adds this to the number of the signal that ended a program."""
CANNOT_RUN, NOT_FOUND = 126, 127


def report(
    *command: Annotated[str, Parameter(name="COMMAND", allow_leading_hyphen=True)],
    worker_id: Id,
    server_id: OptionalId = None,
    config_id: OptionalId = None,
    heartbeat: bool = True,
    inventory: bool = True,
    interval: Annotated[float, Parameter(validator=Number(gte=1, lte=3_600))] = 10.0,
    label: Labels = (),
    rabbitmq_url: RabbitmqUrl = None,
) -> None:
    """Run a program as a server instance of a worker and report its life: `report --worker-id 7 --
    COMMAND ...`.

    Signals are passed on, and the exit code is the program's (128 + N when signal N ended it; 127
    and 126 when it cannot be run). The program never waits for the broker.

    Parameters
    ----------
    command
        The program and its arguments.
    worker_id
        Whose server instance it is.
    server_id
        The server instance's id; the time in µs when not given. One that ended stays ended: another
        run needs another.
    config_id
        Its game server configuration.
    heartbeat
        Without, beside another reporter of the same worker: only the program is reported, not that
        the worker lives.
    inventory
        Without, heartbeats do not say that this program is all that runs: when others report more
        of the same worker.
    interval
        Seconds between two heartbeats.
    label
        KEY:VALUE of the worker, or KEY=VALUE; may be repeated. `group` is the one that the fleet
        guard knows.
    """
    if not command:
        raise SettingsError(["report needs a program: report --worker-id 7 -- COMMAND ..."])
    settings = load_settings(needs=("rabbitmq_url",), rabbitmq_url=rabbitmq_url)
    logging.basicConfig(format="manman-status: %(message)s", level=logging.WARNING)
    try:
        reporter = StatusReporter(
            settings.broker_url,
            worker_id=worker_id,
            interval_seconds=interval,
            labels=labels_of(label),
            heartbeats=heartbeat,
            inventory=inventory,
            exchange=settings.inbound_exchange,
        )
    except InvalidReport as error:
        raise SettingsError([str(error)]) from error
    if server_id is None:
        server_id = microseconds_now()
        print(
            f"manman-status: {command[0]} is server instance {server_id} of worker {worker_id}",
            file=sys.stderr,
        )
    with tracing(settings, "report") as begin_span:
        code = asyncio.run(_run(command, reporter, server_id, config_id, begin_span))
    sys.exit(code)


async def _run(
    command: tuple[str, ...],
    reporter: StatusReporter,
    server_id: int,
    config_id: int | None,
    begin_span: BeginSpan,
) -> int:
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in FORWARDED:
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, number)
    try:
        process = await asyncio.create_subprocess_exec(*command)
    except OSError as error:
        _cannot_run(command[0], error)
    forwarded: set[int] = set()
    async with reporter:
        with begin_span("server started"):
            await reporter.server_started(server_id, game_server_config_id=config_id)
        forwarding = asyncio.create_task(_forward(signals, process, forwarded))
        code = await process.wait()
        forwarding.cancel()
        code = code if code >= 0 else SIGNALLED - code
        # A program that ends by a signal that was passed on to it has not crashed.
        with begin_span("server stopped"):
            await reporter.server_stopped(
                server_id, exit_code=None if code - SIGNALLED in forwarded else code
            )
    return code


async def _forward(
    signals: asyncio.Queue[signal.Signals], process: asyncio.subprocess.Process, forwarded: set[int]
) -> NoReturn:
    while True:
        number = await signals.get()
        forwarded.add(number)
        if not (number in FROM_THE_KEYBOARD and _has_the_keyboard()):
            with suppress(ProcessLookupError):
                process.send_signal(number)


def _has_the_keyboard() -> bool:
    """True when a terminal's signals reach the program without us: passed on, they would come
    twice."""
    with suppress(OSError):
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    return False


def _cannot_run(program: str, error: OSError) -> NoReturn:
    print(f"manman-status: cannot run {program}: {error.strerror}", file=sys.stderr)
    sys.exit(NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_RUN)
