"""A broker behind TLS whose certificate is for another name than the one it is reached by."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from manman_status.errors import BrokerUnavailable
from manman_status.reporter import connection, storm
from manman_status.reporter.carrier import Carrier, Unroutable
from manman_status.reporter.messages import Report

NAME = "mq.example"
REPORT = Report("worker.7.lifecycle", b"{}", durable=True)
CARRIERS: list[Carrier] = [connection, storm]


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"),
            *("-keyout", "both.pem", "-out", "certificate.pem"),
        ],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    both = tmp_path / "both.pem"
    both.write_bytes(both.read_bytes() + (tmp_path / "certificate.pem").read_bytes())
    return both


@pytest.fixture
async def tls_url(broker: str, certificate: Path) -> AsyncIterator[str]:
    """The test's broker behind TLS, by a URL that trusts the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    plain = urlsplit(broker)
    passing: set[asyncio.Task[None]] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection(plain.hostname, plain.port)
        passing.update(map(asyncio.create_task, (pass_on(reader, forth), pass_on(back, writer))))

    async with await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        path = certificate.with_name("certificate.pem")
        yield f"amqps://guest:guest@127.0.0.1:{port}{plain.path}?cafile={path}"
        for task in passing:
            task.cancel()
        await asyncio.gather(*passing, return_exceptions=True)


async def send(carrier: Carrier, url: str) -> None:
    link = carrier.open_link(
        carrier.new_socket(url), url, name="a test", exchange="internal", lost=lambda: None
    )
    async with link as opened:
        await opened.send(REPORT)


@pytest.mark.parametrize("carrier", CARRIERS, ids=("aio-pika", "amqpstorm"))
async def test_the_certificate_may_be_for_the_server_hostname(
    carrier: Carrier, tls_url: str
) -> None:
    """It connects; that there is no such exchange is another matter."""
    with pytest.raises(Unroutable):
        await send(carrier, f"{tls_url}&server_hostname={NAME}")


@pytest.mark.parametrize("carrier", CARRIERS, ids=("aio-pika", "amqpstorm"))
async def test_without_it_the_certificate_is_refused(carrier: Carrier, tls_url: str) -> None:
    with pytest.raises(BrokerUnavailable, match=r"(?i)certificate"):
        await send(carrier, tls_url)
