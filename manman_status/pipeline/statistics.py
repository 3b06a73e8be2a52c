"""What a processor has done since it started, for its row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from manman_status.domain.events import ReportedEvent


class Statistics:
    def __init__(self) -> None:
        self._events: Counter[tuple[str, str]] = Counter()
        self.batches = 0
        self.transitions = 0
        self.last_batch_ms = 0.0
        self.longest_batch_ms = 0.0
        self.queue_depths: dict[str, int] = {}
        self.dead_letters_waiting: int | None = None
        self._notifications: Counter[tuple[str, str]] = Counter()
        # Of a leader; None while another leads.
        self.sweep_ms: float | None = None
        self.relay_backlog: int | None = None

    def count(self, kind: str, outcome: str, number: int = 1) -> None:
        self._events[kind, outcome] += number

    def count_stored(self, events: Iterable[ReportedEvent]) -> None:
        for kind, number in Counter(map(type, events)).items():
            self._events[kind.__name__, "stored"] += number

    def count_notification(self, channel: str, outcome: str) -> None:
        """`sent` or `failed`."""
        self._notifications[channel, outcome] += 1

    def add_batch(self, *, transitions: int, ms: float) -> None:
        self.batches += 1
        self.transitions += transitions
        self.last_batch_ms = ms
        self.longest_batch_ms = max(self.longest_batch_ms, ms)

    def as_row(self) -> dict[str, Any]:
        events: dict[str, dict[str, int]] = {}
        for (kind, outcome), number in sorted(self._events.items()):
            events.setdefault(kind, {})[outcome] = number
        notifications: dict[str, dict[str, int]] = {}
        for (channel, outcome), number in sorted(self._notifications.items()):
            notifications.setdefault(channel, {})[outcome] = number
        return {
            "events": events,
            "notifications": notifications,
            "dead_letters_waiting": self.dead_letters_waiting,
            "batches": self.batches,
            "transitions": self.transitions,
            "last_batch_ms": self.last_batch_ms,
            "longest_batch_ms": self.longest_batch_ms,
            "queue_depths": self.queue_depths,
            "sweep_ms": self.sweep_ms,
            "relay_backlog": self.relay_backlog,
        }
