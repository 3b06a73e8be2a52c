"""Requests a second that a URL answers, over kept connections: `URL CONNECTIONS SECONDS`. Used
where wrk is missing."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from typing import cast
from urllib.parse import urlsplit

import uvloop

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class Client(asyncio.Protocol):
    """Sends the request again as soon as an answer is complete."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._received = bytearray()
        self._missing = 0
        self.answers = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(
            "asyncio.Transport", transport
        )  # uvloop's is one by its methods alone
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self._missing:
            self._received += data
            head, found, body = self._received.partition(b"\r\n\r\n")
            if not found:
                return
            assert head.startswith(b"HTTP/1.1 200"), head
            length = LENGTH.search(head + b"\r\n")
            assert length, head
            self._missing = int(length[1]) - len(body)
            self._received.clear()
        else:
            self._missing -= len(data)
        if not self._missing:
            self.answers += 1
            self._transport.write(self._request)


async def measure(url: str, connections: int, seconds: float) -> float:
    parts = urlsplit(url)
    assert parts.hostname, url
    assert parts.port, url
    host, port = parts.hostname, parts.port
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    request = f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda: Client(request), host, port)
        for _ in range(connections)
    ]
    began = time.perf_counter()
    before = sum(client.answers for _, client in made)
    await asyncio.sleep(seconds)
    answers = sum(client.answers for _, client in made) - before
    seconds = time.perf_counter() - began
    for transport, _ in made:
        transport.abort()
    return answers / seconds


if __name__ == "__main__":
    print(uvloop.run(measure(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))))
