"""What the database says of the whole fleet, shared by all who ask within a moment."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from manman_status.api.database import Ask, Database

T = TypeVar("T")

AT_MOST_SECONDS = 60.0


class Reading(Generic[T]):
    """Kept `times` as long as it took, `at_least_seconds` and at most a minute: neither a large
    fleet nor many who ask keep the database busy for more than that share of its time. With
    `at_least_seconds` 0 it is never kept."""

    def __init__(
        self, database: Database, ask: Ask[T], *, key: str, times: int, at_least_seconds: float
    ) -> None:
        self._database = database
        self._ask = ask
        self._key = key
        self._times = times
        self._at_least_seconds = at_least_seconds
        self._kept: tuple[float, T] | None = None

    async def get(self) -> T:
        """Raises DatabaseUnavailable, which is not kept."""
        begun = monotonic()
        if self._kept and begun < self._kept[0]:
            return self._kept[1]
        value = await self._database.read(self._ask, key=self._key)
        done = monotonic()
        if self._at_least_seconds:
            keep = max(self._at_least_seconds, self._times * (done - begun))
            self._kept = done + min(keep, AT_MOST_SECONDS), value
        return value
