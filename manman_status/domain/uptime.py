"""Time that something was active, lost or ended, from its changes of status. All times are whole
microseconds, so that the parts of a window add up to it exactly."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, zip_longest
from typing import TypeAlias

import msgspec

from manman_status.domain.status import ACTIVE, StatusType

Change: TypeAlias = tuple[int, StatusType | None, StatusType]
"""The time of a change, the status before and the status after. None: it was not known before."""
Span: TypeAlias = tuple[int, int, StatusType | None]
"""The begin and end of a time with one status. None: it was not known yet."""


class Life(msgspec.Struct, frozen=True):
    """A worker that was one of a host's lives: its changes within a window, and its status at the
    end."""

    changes: Sequence[Change]
    status: StatusType


def changes_of_host(lives: Sequence[Life]) -> tuple[list[Change], StatusType | None]:
    """Join the lives of one host, in the order in which they began, to the changes of the host and
    its status at the end. The newest life that has begun speaks for the host: the late end of an
    older one is no end of the host."""
    joined: list[Change] = []
    now: StatusType | None = None
    for life, following in zip_longest(lives, lives[1:]):
        until = _begun_at(following)
        for at, old, new in life.changes:
            if until is not None and at >= until:
                break
            joined.append((at, now if old is None else old, new))
            now = new
        else:
            now = life.status
    return joined, now


def _begun_at(life: Life | None) -> int | None:
    """The time within the window at which a life began; None when it began before, or there is
    none."""
    return life.changes[0][0] if life and life.changes and life.changes[0][1] is None else None


class Figures(msgspec.Struct):
    """The sums of one worker in a window, or of several: `active` to `blind` add up to the window
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
    """The time that those took, as far as it was in the window."""

    def add(
        self,
        status: StatusType | None,
        number: int,
        *,
        total: int,
        longest: int,
        then: StatusType | None = None,
    ) -> None:
        """Add this number of spans with one status, each followed by `then`; None at the end of the
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
        """Add this number of changes, of whatever workers: each ends a span and begins another.
        `seen` is the sum of their times, on a clock that is 0 at the beginning of the window and
        stands still while it is blind; `lost` and `longest` are about the spans before them that
        were LOST. The spans that last at the end are still to be added, with their `seen`."""
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
        """The active share of the time in which it should have been active: what had ended was
        ended on purpose, or by a crash that was reported, and does not count."""
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
    """A window from `begin` until `end`. While it was `blind` nothing is known: that time is taken
    out of all others. The intervals of blindness may touch, overlap, and reach beyond the
    window."""

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
        """The blind part of the window until `time`."""
        place = bisect_right(self._blind_from, time)
        if not place:
            return 0
        lower, upper = self._blind[place - 1]
        return self._blind_before[place - 1] + min(time, upper) - lower

    def blind_within(self, begin: int, end: int) -> list[int]:
        """The begins and ends of the blind parts between these times, one after another."""
        ends = [time for blind in Window(begin, end, self._blind)._blind for time in blind]  # noqa: SLF001
        # Where two touch there is no end.
        return [time for time in ends if ends.count(time) == 1]

    def seen_at(self, time: int) -> int:
        """The part of the window until `time` that was seen."""
        return time - self.begin - self.blind_until(time)

    @property
    def seen(self) -> int:
        """The part of the window that was not blind."""
        return self.end - self.begin - self.blind_until(self.end)

    def seen_until(self) -> tuple[list[int], list[int], list[int]]:
        """The time seen until `t`, as `slope * t + offset`: times in ascending order, then the
        slopes and the offsets of the pieces between them, one more of each."""
        times, slopes, offsets = list[int](), [0], [0]
        seen, since = 0, self.begin
        for blind_from, blind_until in (*self._blind, (self.end, self.end)):
            times += since, blind_from
            slopes += 1, 0
            offsets += seen - since, (seen := seen + blind_from - since)
            since = blind_until
        return times, slopes, offsets

    def spans(self, changes: Sequence[Change], status: StatusType | None) -> Iterator[Span]:
        """Yield the spans in their order, through the whole window. `changes` are those within it,
        in their order; `status` is the one at the end, and so all the time when there are none."""
        since, now = self.begin, changes[0][1] if changes else status
        for at, _, new in changes:
            # The times of two transactions may be out of order by a moment; spans are not.
            until = min(max(at, since), self.end)
            yield since, until, now
            since, now = until, new
        yield since, self.end, now

    def measure(self, changes: Sequence[Change], status: StatusType | None) -> Figures:
        """The figures of one worker; `changes` and `status` as in `spans`."""
        figures = Figures(blind=self.blind_until(self.end))
        for (since, until, now), then in zip_longest(
            self.spans(changes, status), (new for _, _, new in changes)
        ):
            seen = until - since - (self.blind_until(until) - self.blind_until(since))
            figures.add(now, 1, total=seen, longest=seen, then=then)
        return figures
