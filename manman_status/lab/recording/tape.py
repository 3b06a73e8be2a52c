"""A tape: the messages that a recorder received, as lines, and the gaps in between."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from io import FileIO

import msgspec

from manman_status.errors import CommandFailed
from manman_status.lab.recording.lines import Line, encode_line, gap_line, message_line
from manman_status.reporter.messages import utc_now
from manman_status.wire.control import is_canary_key


class Tally(msgspec.Struct):
    messages: int = 0
    gaps: int = 0
    workers: set[str] = msgspec.field(default_factory=set)


class Tape:
    """The lines of a recording. A gap begins with the last message, not when the loss is found: a
    broker that hangs does not close the connection. Where canaries pass, `deaf_after_seconds`
    without any message are a gap too, though no connection was lost."""

    def __init__(
        self, file: FileIO, *, deaf_after_seconds: float, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self.tally = Tally()
        self._file = file
        self._deaf_after_seconds = deaf_after_seconds
        self._clock = clock
        self._lines: list[bytes] = []
        self._received_at: datetime | None = None
        self._has_canaries = False

    def begin(self) -> None:
        """Begin to listen, for the first time or again."""
        if self._received_at is not None:
            self._add_gap(self._received_at, self._now())
        self._received_at = self._now()
        self._has_canaries = False

    def take(self, routing_key: str, body: bytes, *, persistent: bool) -> None:
        before, self._received_at = self._received_at, self._now()
        if (
            before
            and self._has_canaries
            and (self._received_at - before).total_seconds() > self._deaf_after_seconds
        ):
            self._add_gap(before, self._received_at)
        if is_canary_key(routing_key):
            self._has_canaries = True
            return
        self._add(message_line(self._received_at, routing_key, body, persistent=persistent))
        self.tally.messages += 1
        entity, _, rest = routing_key.partition(".")
        if entity == "worker":
            self.tally.workers.add(rest.partition(".")[0])

    def flush(self) -> None:
        """Write the lines to the file. Raises CommandFailed when it is full, or a pipe without a
        reader."""
        waiting = b"".join(self._lines)
        self._lines.clear()
        try:
            while waiting:
                waiting = waiting[self._file.write(waiting) :]
        except OSError as error:
            raise CommandFailed(f"the recording cannot be written: {error.strerror}") from error

    def _now(self) -> datetime:
        """The time, which never goes back, also when the clock is set back."""
        now = self._clock()
        return now if self._received_at is None else max(now, self._received_at)

    def _add_gap(self, since: datetime, until: datetime) -> None:
        self._add(gap_line(since, until))
        self.tally.gaps += 1

    def _add(self, line: Line) -> None:
        self._lines.append(encode_line(line))
