"""The way from a worker to the broker, on which messages are duplicated and overtake each other."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Iterable

from manman_status.lab.simulator.messages import Message

LONGEST_HOLD_SECONDS = 2.0
HOLD_SHARE_OF_INTERVAL = 0.2
COPIES_WITHIN_SECONDS = 3.0
LATE_COPIES = 0.5
"""The share of the copies that come some time after their original."""


def longest_hold_seconds(interval_seconds: float) -> float:
    """The longest delay by reordering. It is 0.2 intervals, since a worker is late after 1.5."""
    return min(HOLD_SHARE_OF_INTERVAL * interval_seconds, LONGEST_HOLD_SECONDS)


class Delivery:
    """A queue of messages that does no I/O: put a message in when a worker reports it, take it out
    when it is due to be sent."""

    def __init__(
        self,
        *,
        duplicate: bool = False,
        reorder: bool = False,
        interval_seconds: float,
        seed: int = 0,
    ) -> None:
        self._duplicate = duplicate
        self._hold_seconds = longest_hold_seconds(interval_seconds) if reorder else 0.0
        self._random = random.Random(seed)  # noqa: S311
        self._order = itertools.count()
        self._held: list[tuple[float, int, Message]] = []

    def put(self, messages: Iterable[Message], now: float) -> None:
        for message in messages:
            at = now + self._random.uniform(0, self._hold_seconds)
            self._hold(at, message)
            if self._duplicate:
                late = self._random.random() < LATE_COPIES
                self._hold(
                    at + (self._random.uniform(0, COPIES_WITHIN_SECONDS) if late else 0.0), message
                )

    def next_due(self) -> float:
        return self._held[0][0] if self._held else math.inf

    def due(self, now: float) -> list[Message]:
        messages = []
        while self._held and self._held[0][0] <= now:
            messages.append(heapq.heappop(self._held)[2])
        return messages

    def _hold(self, at: float, message: Message) -> None:
        heapq.heappush(self._held, (at, next(self._order), message))
