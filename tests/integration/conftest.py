from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from manman_status.store.pool import create_pool
from tests.manman import manman, start_bridge
from tests.messaging import channel, dead_letters, depth, publish, publisher_at, rows
from tests.sink import sink, start_sink

__all__ = [
    "channel",
    "dead_letters",
    "depth",
    "manman",
    "publish",
    "publisher_at",
    "rows",
    "sink",
    "start_bridge",
    "start_sink",
]


@pytest.fixture
async def connection(database: str) -> AsyncIterator[Any]:
    async with (
        create_pool(database, application="test", size=1, timeout_seconds=30) as pool,
        pool.acquire() as one,
    ):
        yield one
