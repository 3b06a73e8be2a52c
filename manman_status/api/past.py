"""Past times that a request may name."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from manman_status.api.errors import InvalidParameter
from manman_status.store.past import TimeNotKept, TimeToCome, look_back

if TYPE_CHECKING:
    from manman_status.store.past import Moment
    from manman_status.store.pool import Connection


class Past(msgspec.Struct, frozen=True):
    retention: timedelta

    async def look_back(self, connection: Connection, at: datetime) -> Moment:
        """Raises InvalidParameter for a time that is not kept, or still to come."""
        try:
            return await look_back(connection, at, retention=self.retention)
        except (TimeNotKept, TimeToCome) as error:
            raise InvalidParameter("at", str(error)) from error


class FiltersAt(msgspec.Struct, frozen=True):
    """The filters that a cursor of a past time is for."""

    at: datetime
    filters: msgspec.Struct


def filters_at(at: datetime | None, filters: msgspec.Struct) -> msgspec.Struct:
    return filters if at is None else FiltersAt(at, filters)
