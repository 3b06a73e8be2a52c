"""The servers that the tests and `manman-status dev` run on."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import TYPE_CHECKING

import aio_pika
import asyncpg
import pytest

from manman_status.dev.ports import free_port
from manman_status.dev.postgres import EmbeddedPostgres
from manman_status.dev.processes import ServerFailed
from manman_status.dev.rabbitmq import BANNER, EmbeddedRabbitMQ, rabbitmq_server
from manman_status.errors import CommandFailed

if TYPE_CHECKING:
    from tests.kinds import Eventually, ProcessTree

PARENT = """
import sys
from pathlib import Path
from manman_status.dev.postgres import EmbeddedPostgres
from manman_status.dev.rabbitmq import EmbeddedRabbitMQ
folder = Path(sys.argv[1])
postgres, rabbitmq = EmbeddedPostgres(folder / "a"), EmbeddedRabbitMQ(folder / "b")
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


async def test_each_test_has_a_virtual_host_of_its_own(
    broker: str, rabbitmq: EmbeddedRabbitMQ
) -> None:
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


def test_rabbitmq_reads_no_configuration_but_its_own(rabbitmq: EmbeddedRabbitMQ) -> None:
    """The configuration in /etc/rabbitmq is ignored. The banner names what was read."""
    files = re.search(r"Config file\(s\): (.+?)\n\n", rabbitmq.child.log, re.DOTALL)
    assert files
    assert set(files[1].split()) == {
        f"{rabbitmq.folder}/{name}" for name in ("advanced.config", "rabbitmq.conf")
    }


def test_a_server_that_cannot_start_says_why_in_one_line(server_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        port = taken.getsockname()[1]
        for server in (
            EmbeddedRabbitMQ(server_folder / "refused-broker", port=port),
            EmbeddedPostgres(server_folder / "refused-database", port=port),
        ):
            with pytest.raises(ServerFailed) as caught:
                server.start()
            said = str(caught.value)
            assert "address already in use" in said.lower()
            assert said.endswith(f"Log: {server.log_file}")
            assert "\n" not in said


def test_data_of_another_rabbitmq_is_named_with_what_to_do(
    rabbitmq: EmbeddedRabbitMQ, server_folder: Path
) -> None:
    [version] = set(BANNER.findall(rabbitmq.child.log))
    assert (rabbitmq.folder / "version").read_text("ascii") == f"{version}\n"
    folder = server_folder / "older-broker"
    folder.mkdir()
    (folder / "version").write_text("3.7.28\n", "ascii")
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        server = EmbeddedRabbitMQ(folder, port=taken.getsockname()[1])
        with pytest.raises(CommandFailed) as caught:
            server.start()
    said = str(caught.value)
    assert (
        f"RabbitMQ {version} does not start on the data of RabbitMQ 3.7.28: delete {folder}" in said
    )
    assert "MANMAN_STATUS_RABBITMQ_SERVER" in said
    assert "\n" not in said


def test_the_server_that_is_named_is_the_one_that_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "rabbitmq-server"
    monkeypatch.setenv("MANMAN_STATUS_RABBITMQ_SERVER", str(script))
    with pytest.raises(CommandFailed, match="there is no program"):
        rabbitmq_server()
    script.write_text("#!/bin/sh\n", "ascii")
    script.chmod(0o755)
    assert rabbitmq_server() == script
    monkeypatch.setenv("MANMAN_STATUS_RABBITMQ_SERVER", str(tmp_path))
    assert rabbitmq_server() == script


@pytest.mark.skipif(os.geteuid() != 0, reason="any other user reaches what it made")
async def test_postgres_data_is_where_its_user_can_reach_it(tmp_path: Path) -> None:
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
