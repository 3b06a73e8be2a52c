"""What the broker has given this processor of one queue, and until when all of that is settled.

A processor that hangs holds messages that nobody else can see. So each has a queue of its own, read on the same
channel as the shared queue, and sends itself canaries through it. The broker numbers the deliveries of a channel: a
canary with number n, of which c came through the queue of its own, says that n - 1 - c messages of the shared queue
were given before it, and so, once that many are settled, that everything given until the canary was sent is. What
somebody else puts into that queue counts in c too, and says nothing.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime


class Custody:
    """Counts per channel: a reconnection opens a new one, and what was given on the old one is given again, to us or
    to another. Canaries are seen as they come, so they alone tell which channel is the newest: what is settled may
    have waited for the database since an older one. `restarted` tells that a channel began, until it is set back."""

    def __init__(self) -> None:
        self.settled_through: datetime | None = None
        self.restarted = False
        self._channel: object = None
        self._retired: list[object] = []
        self._settled = 0
        self._settled_elsewhere: list[tuple[object, int]] = []
        self._own_deliveries = 0
        self._marks: deque[tuple[int, datetime]] = deque()

    def settle(self, channel: object, messages: int) -> None:
        """This many more messages of the shared queue are committed. A channel of None is one that is closed."""
        if channel is None:
            return
        if channel is self._channel:
            self._settled += messages
            self._pass_marks()
        elif self._settled_elsewhere and self._settled_elsewhere[-1][0] is channel:
            self._settled_elsewhere[-1] = (channel, self._settled_elsewhere[-1][1] + messages)
        else:
            self._settled_elsewhere.append((channel, messages))

    def see_canary(self, channel: object, delivery_number: int, sent_at: datetime | None) -> None:
        """Our own canary came back. It was the `delivery_number`th delivery of the channel, counted
        from 1. `sent_at` is None for what was in our own queue and is no canary of ours."""
        if channel is None or any(channel is old for old in self._retired):
            return
        if channel is not self._channel:
            self._begin(channel)
        if sent_at is not None:
            self._marks.append((delivery_number - 1 - self._own_deliveries, sent_at))
        self._own_deliveries += 1
        self._pass_marks()

    def _begin(self, channel: object) -> None:
        if self._channel is not None:
            self._retired = [*self._retired[-3:], self._channel]
        self._channel = channel
        self._settled = sum(messages for other, messages in self._settled_elsewhere if other is channel)
        self._settled_elsewhere.clear()
        self._own_deliveries = 0
        self._marks.clear()
        self.restarted = True  # the first one too: there may have been another that brought us no canary

    def _pass_marks(self) -> None:
        while self._marks and self._marks[0][0] <= self._settled:
            self.settled_through = self._marks.popleft()[1]
