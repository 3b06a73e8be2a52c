"""Replay: sends a recording again, in its order and in its own time or a faster one."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

import msgspec

from manman_status.backoff import Backoff
from manman_status.errors import BrokerUnavailable
from manman_status.lab.recording.lines import Line
from manman_status.reporter.carrier import Unroutable
from manman_status.reporter.connection import IN_FLIGHT, Publisher
from manman_status.reporter.messages import Report

Connect: TypeAlias = Callable[[], AbstractAsyncContextManager[Publisher]]
Due: TypeAlias = tuple[float, Report]


class Schedule:
    """A schedule: seconds from the beginning at which each message is due. `speed` is how many
    recorded seconds pass in one; with infinity everything is due at once."""

    def __init__(self, lines: Iterable[Line], *, speed: float) -> None:
        self._speed = speed
        self._coming = self._all_due(lines)
        self._next = next(self._coming, None)

    def due(self, now: float, *, most: int) -> list[Due]:
        due: list[Due] = []
        while self._next is not None and self._next[0] <= now and len(due) < most:
            due.append(self._next)
            self._next = next(self._coming, None)
        return due

    @property
    def next_due(self) -> float | None:
        """The seconds at which the next message is due; None when everything was due."""
        return self._next and self._next[0]

    def _all_due(self, lines: Iterable[Line]) -> Iterator[Due]:
        first = None
        for line in lines:
            first = first or line.at
            if line.gap_since is None:
                report = Report(line.routing_key, line.content, durable=line.persistent)
                yield (line.at - first).total_seconds() / self._speed, report


class Played(msgspec.Struct):
    """The progress of a replay. `behind_seconds` is the longest that a message was sent after its
    time; `dropped` are heartbeats, or others that were not persistent, whose time came while the
    broker was unavailable."""

    sent: int = 0
    dropped: int = 0
    behind_seconds: float = 0.0


class Player:
    def __init__(
        self, connect: Connect, schedule: Schedule, *, complain: Callable[[str], None]
    ) -> None:
        self.played = Played()
        self._connect = connect
        self._schedule = schedule
        self._complain = complain
        self._waiting: list[Due] = []
        self._began = math.inf

    async def play(self) -> None:
        """Send everything. Persistent messages wait for an unavailable broker. Raises
        BrokerUnavailable or Unroutable until the first message was taken."""
        backoff = Backoff()
        while not self._is_over():
            try:
                async with self._connect() as publisher:
                    self._began = min(self._began, time.monotonic())
                    while not self._is_over():
                        await self._send_what_is_due(publisher)
                        backoff = Backoff()
            except (BrokerUnavailable, Unroutable) as error:
                if not self.played.sent:
                    raise
                delay = backoff.failed()
                if backoff.is_worth_saying:
                    self._complain(str(error))
                await asyncio.sleep(delay)
                self._keep(self._schedule.due(self._now(), most=IN_FLIGHT))

    async def _send_what_is_due(self, publisher: Publisher) -> None:
        due = self._waiting or self._schedule.due(self._now(), most=IN_FLIGHT)
        if not due:
            next_due = self._schedule.next_due
            await asyncio.sleep(0 if next_due is None else max(next_due - self._now(), 0))
            return
        self._waiting = []
        errors = await publisher.send_all([report for _, report in due])
        self.played.sent += errors.count(None)
        self.played.behind_seconds = max(self.played.behind_seconds, self._now() - due[0][0])
        self._keep([message for message, error in zip(due, errors, strict=True) if error])
        if failed := next((error for error in errors if error), None):
            raise failed

    def _keep(self, unsent: list[Due]) -> None:
        durable = [message for message in unsent if message[1].durable]
        self._waiting += durable
        self.played.dropped += len(unsent) - len(durable)

    def _is_over(self) -> bool:
        return not self._waiting and self._schedule.next_due is None

    def _now(self) -> float:
        return time.monotonic() - self._began
