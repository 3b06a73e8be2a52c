"""A tape keeps the messages, and the gaps in which nobody listened."""

from __future__ import annotations

from datetime import timedelta
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from manman_status.errors import CommandFailed
from manman_status.lab.recording.lines import read_lines
from manman_status.lab.recording.tape import Tape
from tests.builders import START

CANARY, BEAT = "worker.canary.heartbeat", "worker.7.heartbeat"


def at(seconds: float) -> Any:
    return START + timedelta(seconds=seconds)


@pytest.fixture
def listen(tmp_path: Path) -> Any:
    """Keys and gaps on the tape when these keys come at these seconds; None begins anew."""

    def run(*received: Any) -> tuple[Any, Any]:
        file = tmp_path / "tape.jsonl"
        clock = iter(
            [at(0), *(at(seconds) for seconds, key in received for _ in range(1 if key else 2))]
        )
        with FileIO(file, "w") as opened:
            tape = Tape(opened, deaf_after_seconds=5, clock=lambda: next(clock))
            tape.begin()
            for _, key in received:
                if key is None:
                    tape.begin()
                else:
                    tape.take(key, b"{}", persistent=False)
            tape.flush()
        lines = list(read_lines(file))
        gaps = [(line.gap_since, line.at) for line in lines if line.gap_since]
        assert tape.tally.gaps == len(gaps)
        assert tape.tally.messages == len(lines) - len(gaps)
        return [line.routing_key for line in lines], gaps

    return run


def test_our_own_messages_are_left_out(listen: Any) -> None:
    keys, gaps = listen((1, CANARY), (2, BEAT), (3, "worker.canary.lifecycle"))
    assert (keys, gaps) == ([BEAT], [])


def test_gap_begins_with_what_was_received_last(listen: Any) -> None:
    assert listen((1, BEAT), (2, CANARY), (60, None), (61, BEAT)) == (
        [BEAT, "", BEAT],
        [(at(2), at(60))],
    )


def test_hung_broker_leaves_a_gap_without_a_cut(listen: Any) -> None:
    assert listen((1, CANARY), (2, BEAT), (40, BEAT)) == ([BEAT, "", BEAT], [(at(2), at(40))])


def test_where_no_processor_runs_a_quiet_fleet_is_no_gap(listen: Any) -> None:
    assert listen((1, BEAT), (40, BEAT), (80, CANARY)) == ([BEAT, BEAT], [])


def test_after_a_new_start_canaries_must_arrive_again(listen: Any) -> None:
    assert listen((1, CANARY), (3, None), (40, BEAT))[1] == [(at(1), at(3))]


def test_a_clock_that_is_set_back_leaves_the_lines_in_order(listen: Any) -> None:
    assert listen((10, BEAT), (3, BEAT), (4, None), (11, BEAT)) == (
        [BEAT, BEAT, "", BEAT],
        [(at(10), at(10))],
    )


def test_a_full_disk_is_said_once() -> None:
    with FileIO("/dev/full", "w") as full:
        tape = Tape(full, deaf_after_seconds=5)
        tape.begin()
        tape.take(BEAT, b"{}", persistent=False)
        with pytest.raises(CommandFailed, match="cannot be written: No space left on device"):
            tape.flush()
        tape.flush()
