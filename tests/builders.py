"""Events and rows with defaults, for tests of the pure domain, and conditions to wait for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from manman_status.domain.events import Heartbeat, Inventory, InventoryEntry
from manman_status.domain.merge import merge
from manman_status.domain.rows import Receipt, Rows
from manman_status.domain.status import StatusType
from tests.kinds import FetchRows

START = datetime(2026, 1, 1, tzinfo=UTC)
BASE = 1_700_000_000_000_000  # a time in µs, and an incarnation
RECEIVED = BASE + 1_500_001  # within the times of sending, never equal to one


def inventory(*ids: Any, status: Any = StatusType.RUNNING, config: Any = None) -> Any:
    entries = tuple(InventoryEntry(instance_id, status, config) for instance_id in sorted(set(ids)))
    return Inventory(hash(entries) or 1, lambda: entries)


def heartbeat(worker: int = 1, **fields: Any) -> Any:
    return Heartbeat(worker_id=worker, **fields)


def fold(events: Any, *, rows: Rows | None = None, receipts: Any = None) -> Any:
    """The rows after the events in this order. An event is received when it is merged, unless
    `receipts` says."""
    rows = rows or Rows()
    for index, event in enumerate(events):
        order = receipts[index] if receipts else index
        merge(rows, event, Receipt(START + timedelta(seconds=order), RECEIVED + order))
    return rows


def counted(
    rows: FetchRows, number: int, source: str, *arguments: Any
) -> Callable[[], Awaitable[bool]]:
    """A condition: `source`, a table and perhaps a WHERE, has so many rows."""

    async def condition() -> bool:
        [found] = await rows(f"SELECT count(*) FROM {source}", *arguments)
        assert found["count"] == number, f"{found['count']} of {number} rows in {source}"
        return True

    return condition
