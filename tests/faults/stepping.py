"""A PostgreSQL whose clock steps when a test says so: under libfaketime."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from manman_status.dev.postgres import EmbeddedPostgres
from manman_status.store.migrate import migrate
from tests.conftest import CHEAP, run_sql

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
needs_libfaketime = pytest.mark.skipif(
    not LIBRARIES, reason="libfaketime is not installed (apt-get install libfaketime)"
)


class SteppingPostgres:
    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._offset = folder / "offset"
        self.step_to(0)
        environment = {
            "LD_PRELOAD": str(LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.server = EmbeddedPostgres(
            folder / "postgres", options=CHEAP, environment=environment
        ).start()

    def step_to(self, seconds: float) -> None:
        """The clock is ahead of the true one by these from now on."""
        unfinished = self._offset.with_suffix(".unfinished")
        unfinished.write_text(f"{seconds:+d}")
        unfinished.rename(self._offset)


@pytest.fixture(scope="module")
def stepping_postgres(server_folder: Path) -> Iterator[SteppingPostgres]:
    postgres = SteppingPostgres(server_folder / "stepping")
    yield postgres
    postgres.server.kill()


@pytest.fixture
async def clock(stepping_postgres: SteppingPostgres) -> SteppingPostgres:
    """`step_to` steps the clock of `database`."""
    stepping_postgres.step_to(0)
    return stepping_postgres


@pytest.fixture
async def stepping_database(clock: SteppingPostgres) -> AsyncIterator[str]:
    """The URL of a migrated database there; a module of tests makes it its `database`."""
    name = f"test_{uuid.uuid4().hex}"
    await run_sql(clock.server.url, f"CREATE DATABASE {name}")
    url = clock.server.url.replace("/postgres", f"/{name}")
    await asyncio.to_thread(migrate, url)
    yield url
    await run_sql(clock.server.url, f"DROP DATABASE {name} WITH (FORCE)")
