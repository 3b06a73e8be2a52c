"""The newest changes, kept once for all watchers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from manman_status.store.feed import Change

BESIDE_THE_ITEM_BYTES = 256
_revision = attrgetter("revision")


class Recent:
    """The changes after `start` up to `end`, in order: as many of the newest as fit into both
    bounds."""

    def __init__(self, end: int, *, most: int, most_bytes: int) -> None:
        self.start = self.end = end
        self._most = most
        self._most_bytes = most_bytes
        self._changes: list[Change] = []
        self._bytes = 0

    def append(self, changes: Sequence[Change]) -> None:
        """`changes` are those that follow `end`."""
        if not changes:
            return
        self._changes += changes
        self._bytes += sum(map(_size, changes))
        self.end = changes[-1].revision
        dropped = 0
        while len(self._changes) - dropped > self._most or self._bytes > self._most_bytes:
            self._bytes -= _size(self._changes[dropped])
            dropped += 1
        if dropped:
            self.start = self._changes[dropped - 1].revision
            del self._changes[:dropped]

    def after(self, revision: int, *, limit: int) -> list[Change]:
        """The first changes that follow a revision which is not before `start`."""
        first = bisect_right(self._changes, revision, key=_revision)
        return self._changes[first : first + limit]


def _size(change: Change) -> int:
    return len(change.item) + BESIDE_THE_ITEM_BYTES
