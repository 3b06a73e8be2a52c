"""The servers that the tests and `manman-status dev` run on."""

from __future__ import annotations

import asyncio
import os
import shutil
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
    folder = server_folder / "restarted"
    with EmbeddedPostgres(folder) as server:
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
    with EmbeddedPostgres(folder) as later:
        assert await query(later.url, "SELECT count(*) FROM kept") == 0


@pytest.mark.slow
async def test_rabbitmq_keeps_its_data_over_stop_and_kill(server_folder: Path) -> None:
    with EmbeddedRabbitMQ(server_folder / "restarted-broker") as server:
        url = server.url
        async with await aio_pika.connect(url) as connection:
            channel = await connection.channel()
            await channel.declare_queue("kept", durable=True, arguments={"x-queue-type": "quorum"})
            await channel.default_exchange.publish(aio_pika.Message(b"hello"), "kept")
        server.stop()
        with pytest.raises(OSError, match="Connect call failed"):
            await aio_pika.connect(url)
        server.start()
        server.kill()
        server.start()
        assert server.url == url
        async with await aio_pika.connect(url) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue("kept", passive=True)
            letter = await queue.get(timeout=5)
            assert letter is not None
            assert letter.body == b"hello"


@pytest.mark.skipif(os.geteuid() != 0, reason="any other user reaches what it made")
async def test_where_the_user_of_postgres_cannot_come_its_data_is_elsewhere(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path)
    try:
        with server:
            assert await query(server.url, "SELECT 1") == 1
        assert server.folder.parent == Path("/var/tmp")
        assert EmbeddedPostgres(tmp_path).folder == server.folder
    finally:
        shutil.rmtree(server.folder)


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
