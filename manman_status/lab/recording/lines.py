"""A recording: JSON lines, each a message or a gap in the recording."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from manman_status.errors import ManManStatusError
from manman_status.wire.reasons import UNREADABLE


class DamagedRecording(ManManStatusError):  # noqa: N818
    """{file}, line {line}: {reason}"""


class Line(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A line. A message has a routing key, and its body as JSON, or in base64 when it is none. A
    gap has `gap_since`: between that time and `at` the recorder did not listen."""

    at: datetime
    routing_key: str = ""
    persistent: bool = False
    body: msgspec.Raw = msgspec.Raw()
    body_base64: bytes = b""
    gap_since: datetime | None = None

    @property
    def content(self) -> bytes:
        return bytes(self.body) or self.body_base64


def message_line(at: datetime, routing_key: str, body: bytes, *, persistent: bool) -> Line:
    try:
        body.decode()  # msgspec does not check whether texts are UTF-8
        msgspec.json.decode(body, type=msgspec.Raw)
        if b"\n" in body or b"\r" in body:
            body = msgspec.json.format(body, indent=-1)
    except UNREADABLE:
        return Line(at, routing_key, persistent, body_base64=body)
    return Line(at, routing_key, persistent, body=msgspec.Raw(body))


def gap_line(since: datetime, until: datetime) -> Line:
    return Line(until, gap_since=since)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Line).decode


def encode_line(line: Line) -> bytes:
    return _encode(line) + b"\n"


def read_lines(file: Path) -> Iterator[Line]:
    """Read the lines, in their order. A last line that was cut off, as a killed recorder leaves it,
    is skipped (`is_cut_off`).

    Raises DamagedRecording for any other bad line, or one that goes back in time.
    """
    before: datetime | None = None
    with file.open("rb") as lines:
        for number, text in enumerate(lines, start=1):
            if not text.endswith(b"\n"):
                return
            line = _read(text, file, number)
            if before is not None and line.at < before:
                raise DamagedRecording(
                    file=file, line=number, reason="it is older than the line before it"
                )
            before = line.at
            yield line


def _read(text: bytes, file: Path, number: int) -> Line:
    try:
        line = _decode(text)
    except UNREADABLE as error:
        raise DamagedRecording(file=file, line=number, reason=str(error)) from None
    if line.at.tzinfo is None:
        raise DamagedRecording(file=file, line=number, reason="its time has no zone - at `$.at`")
    if not line.routing_key and line.gap_since is None:
        raise DamagedRecording(file=file, line=number, reason="neither a message nor a gap")
    return line


def is_cut_off(file: Path) -> bool:
    """True when the last line was never finished."""
    with file.open("rb") as lines:
        size = lines.seek(0, 2)
        if size:
            lines.seek(size - 1)
        return size > 0 and lines.read(1) != b"\n"
