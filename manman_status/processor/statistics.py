"""Counts of a processor since it started, for its row."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Sequence
from datetime import datetime
from typing import Any, get_args

import msgspec

from manman_status.domain.events import ReportedEvent
from manman_status.domain.liveness import Thresholds
from manman_status.domain.rows import Transition
from manman_status.domain.status import Entity

BATCH_EVENTS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
BATCH_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
DEAD_LETTERS_FELL_SECONDS = 15.0
"""Listing the dead letters takes them out of the queue for a moment."""
OTHER_OUTCOMES = (("command", "ignored"), ("poison", "dead_lettered"), ("poison", "only_counted"))


class Histogram:
    """Counts of observed numbers: at most each bound and above the one before it, and lastly above
    all of them."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, number: float) -> None:
        self._counts[bisect_left(self._bounds, number)] += 1
        self._sum += number

    def as_row(self) -> dict[str, Any]:
        return {"bounds": self._bounds, "counts": self._counts, "sum": round(self._sum, 6)}


class Statistics:
    """`thresholds` are the processor's settings, so that two that differ are found."""

    def __init__(self, thresholds: Thresholds | None = None) -> None:
        self._thresholds = thresholds
        # What can come is there from the start: a rate is seen only where there was a number
        # before.
        self._events: Counter[tuple[str, str]] = Counter(
            dict.fromkeys(
                [*((kind.__name__, "stored") for kind in get_args(ReportedEvent)), *OTHER_OUTCOMES],
                0,
            )
        )
        self._transitions_by: Counter[tuple[str, str, str]] = Counter()
        self._new_ids: Counter[str] = Counter(dict.fromkeys(Entity, 0))
        self.redelivered = 0
        self.miscounts = 0
        self._batch_events = Histogram(BATCH_EVENTS)
        self._batch_seconds = Histogram(BATCH_SECONDS)
        self.batches = 0
        self.transitions = 0
        self.last_batch_ms = 0.0
        self.longest_batch_ms = 0.0
        self.reads: list[str] = []
        self.watermarks: dict[str, datetime | None] = {}
        self.queue_depths: dict[str, int] = {}
        self.broker_alarm: str | None = None
        self.broker_problems: dict[str, str] = {}
        self.dead_letters_waiting: int | None = None
        # Of a leader; None while another leads.
        self.dead_letters_unsent: int | None = None
        self._dead_letters_seen: deque[tuple[float, int]] = deque()
        self._notifications: Counter[tuple[str, str]] = Counter()
        # Of a leader; None while another leads.
        self.sweep_ms: float | None = None
        self.relay_backlog: int | None = None

    def count(self, kind: str, outcome: str, number: int = 1) -> None:
        self._events[kind, outcome] += number

    def add_channel(self, channel: str) -> None:
        """Begin both outcomes of a channel at zero."""
        self._notifications.update({(channel, "sent"): 0, (channel, "failed"): 0})

    def count_notification(self, channel: str, outcome: str) -> None:
        """`sent` or `failed`."""
        self._notifications[channel, outcome] += 1

    def note_dead_letters(self, waiting: int | None, *, now: float) -> None:
        """Note the number of waiting dead letters: a rise counts at once, a fall when it lasts.
        None when the broker could not be queried; `now` in seconds."""
        seen = self._dead_letters_seen
        while seen and now - seen[0][0] > DEAD_LETTERS_FELL_SECONDS:
            seen.popleft()
        if waiting is not None:
            seen.append((now, waiting))
            waiting = max(number for _, number in seen)
        self.dead_letters_waiting = waiting

    def add_batch(
        self, events: Sequence[ReportedEvent], transitions: Sequence[Transition], *, ms: float
    ) -> None:
        """Count a committed batch. A batch of canaries alone has no events."""
        for kind, number in Counter(map(type, events)).items():
            self._events[kind.__name__, "stored"] += number
        self.add_transitions(transitions)
        self._batch_events.observe(len(events))
        self._batch_seconds.observe(ms / 1000)
        self.batches += 1
        self.last_batch_ms = ms
        self.longest_batch_ms = max(self.longest_batch_ms, ms)

    def add_transitions(self, transitions: Sequence[Transition]) -> None:
        self.transitions += len(transitions)
        for each in transitions:
            self._transitions_by[each.entity, each.new_status, each.reason] += 1
            self._new_ids[each.entity] += each.old_status is None

    def as_row(self) -> dict[str, Any]:
        events: dict[str, dict[str, int]] = {}
        for (kind, outcome), number in sorted(self._events.items()):
            events.setdefault(kind, {})[outcome] = number
        notifications: dict[str, dict[str, int]] = {}
        for (channel, outcome), number in sorted(self._notifications.items()):
            notifications.setdefault(channel, {})[outcome] = number
        transitions_by: dict[str, dict[str, dict[str, int]]] = {}
        for (entity, status, reason), number in sorted(self._transitions_by.items()):
            transitions_by.setdefault(entity, {}).setdefault(status, {})[reason] = number
        return {
            "events": events,
            "notifications": notifications,
            "dead_letters_waiting": self.dead_letters_waiting,
            "dead_letters_unsent": self.dead_letters_unsent,
            "batches": self.batches,
            "transitions": self.transitions,
            "transitions_by": transitions_by,
            "new_ids": dict(self._new_ids),
            "redelivered": self.redelivered,
            "miscounts": self.miscounts,
            "batch_events": self._batch_events.as_row(),
            "batch_seconds": self._batch_seconds.as_row(),
            "last_batch_ms": self.last_batch_ms,
            "longest_batch_ms": self.longest_batch_ms,
            "reads": self.reads,
            "queue_depths": self.queue_depths,
            "broker_alarm": self.broker_alarm,
            "broker_problems": self.broker_problems,
            "sweep_ms": self.sweep_ms,
            "relay_backlog": self.relay_backlog,
            **(
                {}
                if self._thresholds is None
                else {"thresholds": msgspec.to_builtins(self._thresholds)}
            ),
        }
