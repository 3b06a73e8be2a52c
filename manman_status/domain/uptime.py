"""How long something was active and how long lost, from its changes of status. All times are whole
microseconds, so that the parts of a window add up to it exactly."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, zip_longest
from typing import TypeAlias

import msgspec

from manman_status.domain.status import ACTIVE, StatusType

Change: TypeAlias = tuple[int, StatusType | None, StatusType]
"""When, from which status and to which. None: it was not known before."""
Span: TypeAlias = tuple[int, int, StatusType | None]
"""From when until when it had one status. None: it was not known yet."""


class Figures(msgspec.Struct):
    """Of one worker in a window, or the sums of several: `active` to `blind` add up to the window
    of each."""

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

    def add(
        self,
        status: StatusType | None,
        number: int,
        *,
        total: int,
        longest: int,
        then: StatusType | None = None,
    ) -> None:
        """So many spans with one status, after each of which came `then`; None at the end of the
        window."""
        self._lasts(status, total)
        if status is StatusType.LOST:
            self.losses += number
            self.longest_loss = max(self.longest_loss, longest)
            if then in ACTIVE:
                self.repairs += number
                self.repaired += total
        if then is StatusType.LOST:
            self.failures += number

    def add_changes(
        self,
        old: StatusType | None,
        new: StatusType,
        number: int,
        *,
        seen: int,
        lost: int = 0,
        longest: int = 0,
    ) -> None:
        """So many changes, without looking at which worker they are of: a span ends with each of
        them, and another begins. `seen` is the sum of their times, on a clock that is 0 at the
        beginning of the window and stands still while it is blind; `lost` and `longest` are about
        the spans before them that were LOST. The spans that last at the end are still to be added,
        with `seen` of then."""
        self._lasts(old, seen)
        self._lasts(new, -seen)
        if new is StatusType.LOST:
            self.failures += number
        if old is StatusType.LOST:
            self.losses += number
            self.longest_loss = max(self.longest_loss, longest)
            if new in ACTIVE:
                self.repairs += number
                self.repaired += lost

    def _lasts(self, status: StatusType | None, time: int) -> None:
        if status is None:
            self.not_known += time
        elif status is StatusType.LOST:
            self.lost += time
        elif status in ACTIVE:
            self.active += time
        else:
            self.ended += time

    @property
    def fraction_active(self) -> float | None:
        """Of the time in which it should have been active: what had ended was ended on purpose, or
        by a crash that was reported, and is neither."""
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
    """From `begin` until `end`. While it was `blind` nothing is said: that time is taken out of all
    others. The intervals of blindness may touch, overlap, and reach beyond the window."""

    def __init__(self, begin: int, end: int, blind: Iterable[tuple[int, int]] = ()) -> None:
        self.begin = begin
        self.end = end
        merged: list[tuple[int, int]] = []
        for blind_from, blind_until in sorted(blind):
            lower, upper = (
                max(blind_from, begin, merged[-1][1] if merged else begin),
                min(blind_until, end),
            )
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

    def blind_within(self, begin: int, end: int) -> list[int]:
        """From when until when the time between these was blind, one after another."""
        ends = [time for blind in Window(begin, end, self._blind)._blind for time in blind]  # noqa: SLF001
        # Where two touch there is no end.
        return [time for time in ends if ends.count(time) == 1]

    def seen_at(self, time: int) -> int:
        """How much of the window until then was seen."""
        return time - self.begin - self.blind_until(time)

    @property
    def seen(self) -> int:
        """All of the window but what was blind."""
        return self.end - self.begin - self.blind_until(self.end)

    def seen_until(self) -> tuple[list[int], list[int], list[int]]:
        """How much was seen until a time `t`, as `slope * t + offset`: times in ascending order,
        then the slopes and the offsets of the pieces between them, one more of each."""
        times, slopes, offsets = list[int](), [0], [0]
        seen, since = 0, self.begin
        for blind_from, blind_until in (*self._blind, (self.end, self.end)):
            times += since, blind_from
            slopes += 1, 0
            offsets += seen - since, (seen := seen + blind_from - since)
            since = blind_until
        return times, slopes, offsets

    def spans(self, changes: Sequence[Change], status: StatusType | None) -> Iterator[Span]:
        """One after another, through the whole window. `changes` are those within it, in their
        order; `status` is what it has at the end, and so all the time when there are none."""
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
        for (since, until, now), then in zip_longest(
            self.spans(changes, status), (new for _, _, new in changes)
        ):
            seen = until - since - (self.blind_until(until) - self.blind_until(since))
            figures.add(now, 1, total=seen, longest=seen, then=then)
        return figures
