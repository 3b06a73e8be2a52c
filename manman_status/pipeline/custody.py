"""What the broker has given this processor of one queue, and until when all of that is settled.

A processor that hangs holds messages that nobody else can see. So each has a queue of its own, read on the same
channel as the shared queue, and sends itself canaries through it. The broker numbers the deliveries of a channel: a
canary with number n, of which c were canaries, says that n - 1 - c messages of the shared queue were given before it,
and so, once that many are settled, that everything given until the canary was sent is.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime


class Custody:
    """Counts per channel: a reconnection opens a new one, and what was given on the old one is given again, to us or
    to another. `restarted` tells that this happened since `forgive` was last called."""

    def __init__(self) -> None:
        self.settled_through: datetime | None = None
        self.restarted = False
        self._channel: object = None
        self._retired: list[object] = []
        self._settled = 0
        self._canaries = 0
        self._marks: deque[tuple[int, datetime]] = deque()

    def _belongs(self, channel: object) -> bool:
        """Whether this is the newest channel; one that was never seen is. None stands for one that is closed."""
        if channel is None:
            return False
        if channel is self._channel:
            return True
        if any(channel is old for old in self._retired):
            return False
        if self._channel is not None:
            self._retired = [*self._retired[-3:], self._channel]
            self.restarted = True
        self._channel = channel
        self._settled = self._canaries = 0
        self._marks.clear()
        return True

    def settle(self, channel: object, messages: int) -> None:
        """This many more messages of the shared queue are committed."""
        if self._belongs(channel):
            self._settled += messages
            self._pass_marks()

    def see_canary(self, channel: object, delivery_number: int, sent_at: datetime) -> None:
        """Our own canary came back. It was the `delivery_number`th delivery of the channel, counted from 1."""
        if self._belongs(channel):
            self._marks.append((delivery_number - 1 - self._canaries, sent_at))
            self._canaries += 1
            self._pass_marks()

    def _pass_marks(self) -> None:
        while self._marks and self._marks[0][0] <= self._settled:
            self.settled_through = self._marks.popleft()[1]
