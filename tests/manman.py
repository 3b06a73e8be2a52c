"""A ManMan as its bridge and the broker see one: its two tables and its statuses, and workers that
beat into its database as HTTP handlers would have them do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from manman_status.dev.postgres import EmbeddedPostgres
from tests.conftest import temporary_database
from tests.kinds import StartRole
from tests.messaging import Publisher

BEAT_EVERY_SECONDS = 0.5
TABLES = """
CREATE SCHEMA manman;
CREATE TYPE statustype AS ENUM
    ('CREATED', 'INITIALIZING', 'RUNNING', 'LOST', 'COMPLETE', 'CRASHED');
CREATE TABLE manman.workers (
    worker_id serial PRIMARY KEY, created_date timestamp NOT NULL DEFAULT now(),
    end_date timestamp, last_heartbeat timestamp);
CREATE TABLE manman.game_server_instances (
    game_server_instance_id serial PRIMARY KEY, game_server_config_id int NOT NULL,
    created_date timestamp NOT NULL DEFAULT now(), end_date timestamp,
    worker_id int REFERENCES manman.workers, last_heartbeat timestamp);
CREATE TABLE manman.status_info (
    class_name varchar NOT NULL, status_type statustype NOT NULL, as_of timestamp NOT NULL,
    status_info_id serial PRIMARY KEY, worker_id int REFERENCES manman.workers,
    game_server_instance_id int REFERENCES manman.game_server_instances);
"""


class ManMan:
    """ManMan's database at `url`, with workers that beat until `kill`."""

    def __init__(self, url: str, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self.url = url
        self._connection = connection
        self._alive: set[int] = set()

    async def start_worker(self) -> int:
        """Add a worker, which ends every other, as ManMan has it."""
        worker_id: int = await self.value(
            "INSERT INTO manman.workers DEFAULT VALUES RETURNING worker_id"
        )
        await self.value(
            "UPDATE manman.workers SET end_date = now() WHERE end_date IS NULL AND worker_id <> $1",
            worker_id,
        )
        self._alive = {worker_id}
        return worker_id

    async def start_server(self, worker_id: int, *, config_id: int = 3) -> int:
        instance_id: int = await self.value(
            "INSERT INTO manman.game_server_instances (worker_id, game_server_config_id)"
            " VALUES ($1, $2) RETURNING game_server_instance_id",
            worker_id,
            config_id,
        )
        return instance_id

    def kill(self, worker_id: int) -> None:
        """Stop its beats without a word."""
        self._alive.discard(worker_id)

    async def end(self, table: str, key: str, number: int) -> None:
        await self.value(f"UPDATE manman.{table} SET end_date = now() WHERE {key} = $1", number)

    async def value(self, sql: str, *arguments: Any) -> Any:
        return await self._connection.fetchval(sql, *arguments)

    async def statuses(self, key: str, number: int) -> list[tuple[str, str]]:
        """Class and status of what ManMan's readers find of one of its rows, oldest first."""
        rows = await self._connection.fetch(
            f"SELECT class_name, status_type::text FROM manman.status_info WHERE {key} = $1"
            " ORDER BY status_info_id",
            number,
        )
        return [tuple(row) for row in rows]

    async def beat(self) -> None:
        """One connection, as the tables are few and the workers beat together."""
        beating = await asyncpg.connect(self.url)
        try:
            while True:
                await beating.execute(
                    "UPDATE manman.workers SET last_heartbeat = now() WHERE worker_id = ANY($1)",
                    [*self._alive],
                )
                await asyncio.sleep(BEAT_EVERY_SECONDS)
        finally:
            beating.terminate()


@pytest.fixture
async def manman(postgres: EmbeddedPostgres) -> AsyncIterator[ManMan]:
    async for url in temporary_database(postgres, "template1"):
        connection = await asyncpg.connect(url)
        await connection.execute(TABLES)
        manman = ManMan(url, connection)
        beating = asyncio.create_task(manman.beat())
        yield manman
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        await connection.close()


@pytest.fixture
def start_bridge(start_role: Any, database: str, broker: str, manman: ManMan) -> StartRole:
    """Starts a bridge from this ManMan, with more settings where given."""

    async def start(**settings: object) -> Any:
        given = {
            "database_url": database,
            "rabbitmq_url": broker,
            "manman_database_url": manman.url,
        }
        return start_role("bridge", **{**given, **settings})

    return start


async def report(publish: Publisher, entity: str, number: int, status: str, as_of: str) -> None:
    """Send a StatusInfo as a worker of ManMan does."""
    body = {
        "entity_type": entity,
        "identifier": str(number),
        "status_type": status,
        "as_of": as_of,
    }
    await publish(body, f"{entity}.{number}.status")
