"""The servers that the tests and `manman-status dev` run on."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import TYPE_CHECKING

import aio_pika
import asyncpg
import pytest

from manman_status.dev.postgres import EmbeddedPostgres
from manman_status.dev.rabbitmq import EmbeddedRabbitMQ

if TYPE_CHECKING:
    from tests.conftest import Eventually, ProcessTree

PARENT = """
import sys
from pathlib import Path
from manman_status.dev.postgres import EmbeddedPostgres
from manman_status.dev.rabbitmq import EmbeddedRabbitMQ
postgres, rabbitmq = EmbeddedPostgres(Path(sys.argv[1]) / "a"), EmbeddedRabbitMQ(Path(sys.argv[1]) / "b")
with postgres, rabbitmq:
    print("both run", flush=True)
    sys.stdin.read()
"""


async def query(url: str, sql: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def test_each_test_has_a_migrated_database(database: str) -> None:
    assert await query(database, "SELECT count(*) FROM workers") == 0


async def test_each_test_has_a_virtual_host_of_its_own(broker: str, rabbitmq: EmbeddedRabbitMQ) -> None:
    async with await aio_pika.connect(broker) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("mine", durable=True)
        await channel.default_exchange.publish(aio_pika.Message(b"hello"), "mine")
        assert (await queue.get(timeout=5)).body == b"hello"
    async with await aio_pika.connect(rabbitmq.url) as connection:
        channel = await connection.channel()
        with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
            await channel.declare_queue("mine", passive=True)


async def test_postgres_keeps_its_data_over_stop_and_kill(server_folder: Path) -> None:
    with EmbeddedPostgres(server_folder / "restarted") as server:
        await query(server.url, "CREATE TABLE kept ()")
        url = server.url
        server.stop()
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncpg.connect(url)
        server.start()
        server.kill()
        server.start()
        assert server.url == url
        assert await query(url, "SELECT count(*) FROM kept") == 0


async def test_a_killed_parent_leaves_no_process_behind(
    server_folder: Path, process_tree: ProcessTree, eventually: Eventually
) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(server_folder / "orphans"), stdin=PIPE, stdout=PIPE
    )
    assert parent.stdout is not None
    assert await parent.stdout.readline() == b"both run\n"
    tree = process_tree(parent.pid)
    names = " ".join(tree.values())
    assert all(name in names for name in ("postgres", "beam", "epmd", "checkpointer"))
    parent.kill()
    await parent.wait()
    await eventually(lambda: not tree.keys() & process_tree().keys())
