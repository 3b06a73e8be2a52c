"""How long something was active and how long lost, from its changes of status. All times are whole microseconds, so
that the parts of a window add up to it exactly."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TypeAlias

import msgspec

from manman_status.domain.status import ACTIVE, StatusType

Change: TypeAlias = tuple[int, StatusType | None, StatusType]
"""When, from which status and to which. None: it was not known before."""
Span: TypeAlias = tuple[int, int, StatusType | None]
"""From when until when it had one status. None: it was not known yet."""


class Figures(msgspec.Struct):
    """Of one worker in a window, or the sums of several: `active` to `blind` add up to the window of each."""

    active: int = 0
    lost: int = 0
    ended: int = 0
    not_known: int = 0
    blind: int = 0
    losses: int = 0
    """Times that it was lost, also those that began before the window or are not over."""
    longest_loss: int = 0
    failures: int = 0
    """Losses that began within the window."""
    repairs: int = 0
    """Losses that ended within the window because it was active again."""
    repaired: int = 0
    """How long those took, as far as it was in the window."""

    @property
    def fraction_active(self) -> float | None:
        """Of the time in which it should have been active: what had ended was ended on purpose, or by a crash that
        was reported, and is neither."""
        expected = self.active + self.lost
        return self.active / expected if expected else None

    @property
    def mean_loss(self) -> float | None:
        return self.lost / self.losses if self.losses else None

    @property
    def between_failures(self) -> float | None:
        """MTBF: how long it is active for each time that it is lost."""
        return self.active / self.failures if self.failures else None

    @property
    def to_repair(self) -> float | None:
        """MTTR: how long it takes until it is back, when it comes back."""
        return self.repaired / self.repairs if self.repairs else None


class Window:
    """From `begin` until `end`. While it was `blind` nothing is said: that time is taken out of all others. The
    intervals of blindness may touch, overlap, and reach beyond the window."""

    def __init__(self, begin: int, end: int, blind: Iterable[tuple[int, int]] = ()) -> None:
        self.begin = begin
        self.end = end
        merged: list[tuple[int, int]] = []
        for blind_from, blind_until in sorted(blind):
            lower, upper = max(blind_from, begin, merged[-1][1] if merged else begin), min(blind_until, end)
            if lower < upper:
                merged.append((lower, upper))
        self._blind = merged
        self._blind_from = [lower for lower, _ in merged]
        self._blind_before = [0, *accumulate(upper - lower for lower, upper in merged)]

    def blind_until(self, time: int) -> int:
        """How much of the window until then was blind."""
        place = bisect_right(self._blind_from, time)
        if not place:
            return 0
        lower, upper = self._blind[place - 1]
        return self._blind_before[place - 1] + min(time, upper) - lower

    def spans(self, changes: Sequence[Change], status: StatusType | None) -> Iterator[Span]:
        """One after another, through the whole window. `changes` are those within it, in their order; `status` is
        what it has at the end, and so all the time when there are none."""
        since, now = self.begin, changes[0][1] if changes else status
        for at, _, new in changes:
            # The times of two transactions may be out of order by a moment; spans are not.
            until = min(max(at, since), self.end)
            yield since, until, now
            since, now = until, new
        yield since, self.end, now

    def measure(self, changes: Sequence[Change], status: StatusType | None) -> Figures:
        """Of one worker; `changes` and `status` as in `spans`."""
        figures = Figures(blind=self.blind_until(self.end))
        loss: int | None = None
        for since, until, now in self.spans(changes, status):
            seen = until - since - (self.blind_until(until) - self.blind_until(since))
            if now is None:
                figures.not_known += seen
            elif now is StatusType.LOST:
                figures.lost += seen
                figures.losses += 1
                figures.longest_loss = max(figures.longest_loss, seen)
            elif now in ACTIVE:
                figures.active += seen
                if loss is not None:
                    figures.repairs += 1
                    figures.repaired += loss
            else:
                figures.ended += seen
            loss = seen if now is StatusType.LOST else None
        figures.failures = sum(new is StatusType.LOST for _, _, new in changes)
        return figures


def sum_of(measured: Iterable[Figures]) -> Figures:
    total = Figures()
    for figures in measured:
        longest = max(total.longest_loss, figures.longest_loss)
        for name in Figures.__struct_fields__:
            setattr(total, name, getattr(total, name) + getattr(figures, name))
        total.longest_loss = longest
    return total
