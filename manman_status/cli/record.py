"""Recording the messages on the broker, and sending them again."""

from __future__ import annotations

import asyncio
import math
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import FileIO
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from manman_status.cli.broker import connected, publishing
from manman_status.cli.flags import RabbitmqUrl
from manman_status.cli.tables import numbered
from manman_status.errors import CommandFailed, SettingsError
from manman_status.lab.recording.lines import is_cut_off, read_lines
from manman_status.lab.recording.player import Player, Schedule
from manman_status.lab.recording.recorder import Recorder
from manman_status.lab.recording.tape import Tape
from manman_status.settings import load_settings

DEAF_AFTER_CANARIES = 5
"""The number of missing canaries in a row that is no chance."""
BEHIND_SECONDS = 1.0
"""Lateness of a message from which on a replay reports it."""


def record(
    file: Annotated[Path, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    duration: Annotated[timedelta | None, Parameter(name="--for")] = None,
    rabbitmq_url: RabbitmqUrl = None,
) -> None:
    """Write the workers' messages as JSON lines until Ctrl-C or the end of its time. The processors
    miss none of them.

    Parameters
    ----------
    file
        A new one, or - for the standard output.
    duration
        How long: 90s, 5m, 1h.
    """
    settings = load_settings(needs=("rabbitmq_url",), rabbitmq_url=rabbitmq_url)
    with _new_file(file) as lines:
        tape = Tape(
            lines, deaf_after_seconds=DEAF_AFTER_CANARIES * settings.canary_interval_seconds
        )
        recorder = Recorder(
            lambda: connected(settings),
            exchange=settings.inbound_exchange,
            keys=(*settings.heartbeat_keys, *settings.lifecycle_keys),
            tape=tape,
            complain=_complain,
        )
        seconds = duration.total_seconds() if duration else math.inf
        passed = asyncio.run(_record(recorder, seconds))
    tally = tape.tally
    gaps = f", {numbered(tally.gaps, 'gap')}" if tally.gaps else ""
    _complain(f"{tally.messages} messages of {len(tally.workers)} workers in {passed:.0f} s{gaps}")


def replay(
    file: Path,
    /,
    *,
    speed: Annotated[str, Parameter()] = "1",
    rabbitmq_url: RabbitmqUrl = None,
) -> None:
    """Send a recording again: the same messages in the same order. Meant for a system of its own.

    Parameters
    ----------
    file
        What `record` wrote.
    speed
        How many recorded seconds pass in one; `max` sends as fast as the broker takes it.
    """
    settings = load_settings(needs=("rabbitmq_url",), rabbitmq_url=rabbitmq_url)
    times = _speed(speed)
    messages = checked(file)
    player = Player(
        lambda: publishing(settings), Schedule(read_lines(file), speed=times), complain=_complain
    )
    asyncio.run(_play(player, messages))
    played = player.played
    print(f"{played.sent} messages sent")
    if times != math.inf and played.behind_seconds > BEHIND_SECONDS:
        print(
            f"up to {played.behind_seconds:.1f} s later than they were due: a lower --speed keeps"
            " time"
        )
    if played.dropped:
        raise CommandFailed(f"{played.dropped} heartbeats reached no queue")


def checked(file: Path) -> int:
    """Count the messages in a recording. Raises CommandFailed or DamagedRecording before anything
    is done with it."""
    try:
        messages = sum(line.gap_since is None for line in read_lines(file))
        if is_cut_off(file):
            _complain(f"the last line of {file} was never finished: it is left out")
    except OSError as error:
        raise CommandFailed(f"{file}: {error.strerror}") from error
    if not messages:
        raise CommandFailed(f"{file} has no messages")
    return messages


async def _record(recorder: Recorder, seconds: float) -> float:
    """Record, and return how long it took."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    began = loop.time()

    def listening() -> None:
        nonlocal began
        began = loop.time()
        _complain("recording; Ctrl-C ends it")
        if seconds != math.inf:
            loop.call_later(seconds, stop.set)

    await recorder.record(stop, listening=listening)
    return loop.time() - began


async def _play(player: Player, messages: int) -> None:
    playing = asyncio.create_task(player.play())
    if not sys.stdout.isatty():
        await playing
        return
    from rich.progress import Progress

    with Progress(transient=True) as progress:
        task = progress.add_task("replay", total=messages)
        while not playing.done():
            progress.update(task, completed=player.played.sent + player.played.dropped)
            await asyncio.wait({playing}, timeout=0.2)
    await playing


@contextmanager
def _new_file(file: Path) -> Iterator[FileIO]:
    if str(file) == "-":
        with FileIO(sys.stdout.fileno(), "w", closefd=False) as lines:
            yield lines
        return
    try:
        opened = FileIO(file, "x")
    except FileExistsError:
        raise CommandFailed(f"{file} is there already: name a new one") from None
    except OSError as error:
        raise CommandFailed(f"{file}: {error.strerror}") from error
    with opened:
        yield opened


def _speed(text: str) -> float:
    if text == "max":
        return math.inf
    try:
        speed = float(text)
    except ValueError:
        speed = math.nan
    if not 0 < speed < math.inf:
        raise SettingsError([f"--speed {text}: must be a number above 0, or max"])
    return speed


def _complain(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
