"""Readings of the whole fleet, shared by all requests of a moment, and how long they are kept."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from manman_status.api.database import Database, Query

T = TypeVar("T")

AT_MOST_SECONDS = 60.0


def kept_seconds(at_least: float, *, times: float, took: float) -> float:
    """Keep a result for `times` as long as its query took, so that the query never uses more than
    1/times of the database's time."""
    return max(at_least, min(times * took, AT_MOST_SECONDS))


class Reading(Generic[T]):
    """A query result that is kept for `kept_seconds`; never while `at_least_seconds` is 0."""

    def __init__(
        self, database: Database, query: Query[T], *, key: str, times: int, at_least_seconds: float
    ) -> None:
        self._database = database
        self._query = query
        self._key = key
        self._times = times
        self._at_least_seconds = at_least_seconds
        self._kept: tuple[float, T] | None = None

    async def get(self) -> T:
        """Raises DatabaseUnavailable, which is not kept."""
        begun = monotonic()
        if self._kept and begun < self._kept[0]:
            return self._kept[1]
        value = await self._database.read(self._query, key=self._key)
        done = monotonic()
        if self._at_least_seconds:
            keep = kept_seconds(self._at_least_seconds, times=self._times, took=done - begun)
            self._kept = done + keep, value
        return value
