"""Lines of a recording, and the message for one that cannot be read."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manman_status.lab.recording.lines import (
    DamagedRecording,
    encode_line,
    gap_line,
    is_cut_off,
    message_line,
    read_lines,
)
from manman_status.lab.recording.player import Schedule
from tests.builders import START

BEAT = b'{"command_type":"HEARTBEAT","command_args":["7"]}'
NESTED = b"[" * 100_000 + b"]" * 100_000


def at(seconds: float) -> Any:
    return START + timedelta(seconds=seconds)


@pytest.fixture
def recording(tmp_path: Path) -> Any:
    """Makes a file of these lines, or bytes as they are."""

    def write(*lines: Any) -> Any:
        file = tmp_path / "recording.jsonl"
        file.write_bytes(
            b"".join(line if isinstance(line, bytes) else encode_line(line) for line in lines)
        )
        return file

    return write


@pytest.mark.parametrize(
    "body",
    [
        BEAT,
        b"[" + BEAT + b"," + BEAT + b"]",
        b'{"a": 1}',
        b"not JSON",
        b"",
        b"\xff\x00",
        b'"\\u0000"',
        b"{}x",
        b'{"a":"\xff"}',
        b'{"a":"\n"}',
        pytest.param(NESTED, id="nested"),
    ],
)
def test_a_message_is_kept_as_it_came(recording: Any, body: Any) -> None:
    file = recording(message_line(at(0), "worker.7.heartbeat", body, persistent=True))
    [line] = read_lines(file)
    assert (line.at, line.routing_key, line.persistent) == (at(0), "worker.7.heartbeat", True)
    assert line.content == body
    assert file.read_text("utf-8").count("\n") == 1


def test_json_over_many_lines_can_be_read(recording: Any) -> None:
    file = recording(
        message_line(at(0), "worker.7.heartbeat", BEAT.replace(b",", b",\r\n  "), persistent=False)
    )
    assert b'"body":' + BEAT in file.read_bytes()


@given(st.binary())
def test_whatever_comes_is_one_line_that_can_be_read(tmp_path_factory: Any, body: Any) -> None:
    file = tmp_path_factory.getbasetemp() / "any.jsonl"
    file.write_bytes(encode_line(message_line(at(0), "worker.7.heartbeat", body, persistent=False)))
    [line] = read_lines(file)
    assert line.content.split() == body.split()


def test_a_line_that_was_never_finished_is_passed_over(recording: Any) -> None:
    whole = message_line(at(0), "worker.7.heartbeat", BEAT, persistent=False)
    file = recording(whole, encode_line(whole)[:-10])
    assert list(read_lines(file)) == [whole]
    assert is_cut_off(file)
    assert not is_cut_off(recording(whole))
    assert not is_cut_off(recording())


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (b"{\n", "truncated"),
        (b'{"routing_key":"worker.7.heartbeat"}\n', "at"),
        (b'{"at":"2026-01-01T00:00:09Z"}\n', "neither a message nor a gap"),
        (b'{"at":"2026-01-01T00:00:09","routing_key":"x"}\n', "no zone"),
        (b'{"at":"2025-01-01T00:00:00Z","routing_key":"x"}\n', "older than the line before"),
        (b'{"at":"2026-01-01T00:00:09Z","routing_key":"x","bdy":{}}\n', "bdy"),
        pytest.param(
            b'{"at":"2026-01-01T00:00:09Z","body":' + NESTED + b"}\n", "recursion", id="nested"
        ),
    ],
)
def test_a_line_that_is_none_is_named_by_its_number(recording: Any, wrong: Any, why: Any) -> None:
    file = recording(message_line(at(0), "worker.7.heartbeat", BEAT, persistent=False), wrong)
    with pytest.raises(DamagedRecording, match=rf"recording.jsonl, line 2: .*{why}"):
        list(read_lines(file))


def some_lines() -> list[Any]:
    return [
        message_line(at(10), "worker.7.heartbeat", BEAT, persistent=False),
        gap_line(at(10), at(13)),
        message_line(at(14), "worker.7.lifecycle", BEAT, persistent=True),
        message_line(at(14), "worker.8.heartbeat", BEAT, persistent=False),
    ]


def test_messages_are_due_in_their_own_time_or_a_faster_one() -> None:
    for speed, expected in ((1, [0, 4, 4]), (8, [0, 0.5, 0.5]), (math.inf, [0, 0, 0])):
        assert [due for due, _ in Schedule(some_lines(), speed=speed).due(100, most=10)] == expected


def test_nothing_is_due_early_or_beyond_the_limit() -> None:
    schedule = Schedule(some_lines(), speed=1)
    assert [report.routing_key for _, report in schedule.due(3.9, most=10)] == [
        "worker.7.heartbeat"
    ]
    assert schedule.next_due == 4
    assert [report.durable for _, report in schedule.due(4, most=1)] == [True]
    assert [report.durable for _, report in schedule.due(4, most=1)] == [False]
    assert schedule.next_due is None
