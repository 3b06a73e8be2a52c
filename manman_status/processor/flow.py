"""A bound in bytes on what was read and is not settled yet.

The broker counts messages: 2,000 of them may be in flight, of any size. So the bytes are counted here, and the socket
is not read while there are too many: TCP holds the broker back.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, cast

from aio_pika import RobustConnection
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from yarl import URL

MOST_BYTES = 32 * 1024 * 1024
BYTES_OF_AN_EVENT = 600
"""About what a decoded event takes, beside the bytes that it came in."""


class Flow:
    """Pauses the connection's transport above `most_bytes` in flight, until half of them are settled."""

    def __init__(self, *, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._transport: asyncio.ReadTransport | None = None
        self._paused: asyncio.ReadTransport | None = None

    def use(self, transport: asyncio.ReadTransport) -> None:
        """From now on this is the connection's transport."""
        self._transport = transport

    def take(self, size: int) -> None:
        """So many bytes more are in flight."""
        self._bytes += size
        if self._bytes > self._most_bytes and self._transport is not None and self._paused is not self._transport:
            self._paused = self._transport
            with suppress(RuntimeError):  # it is closing
                self._paused.pause_reading()

    def settle(self, size: int) -> None:
        """So many bytes are no longer in flight."""
        self._bytes -= size
        if self._paused is not None and self._bytes <= self._most_bytes // 2:
            with suppress(RuntimeError):
                self._paused.resume_reading()
            self._paused = None


class _NotedTransports(TransportFactory):
    def __init__(self, flow: Flow) -> None:
        self._flow = flow

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        factory = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        reader, writer = await factory.create(url, **kwargs)
        self._flow.use(cast("asyncio.Transport", writer.transport))
        return reader, writer


def connection_with(flow: Flow) -> type[RobustConnection]:
    """A connection whose transports, the first and each after a reconnection, `flow` may pause."""

    class Connection(RobustConnection):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.kwargs["transport_factory"] = _NotedTransports(flow)

    return Connection
