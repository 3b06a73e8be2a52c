"""A bound in bytes on what was read and is not settled yet.

The broker counts messages: 2,000 of them may be in flight, of any size. So the bytes are counted here, and the socket
is not read while there are too many: TCP holds the broker back. (Pausing the transport would not do: a
StreamReader resumes it whenever it waits for data.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, cast

MOST_BYTES = 32 * 1024 * 1024
BYTES_OF_AN_EVENT = 600
"""About what a decoded event takes, beside the bytes that it came in."""


class Flow:
    """Lets nothing more be read above `most_bytes` in flight, until half of them are settled."""

    def __init__(self, *, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._room = asyncio.Event()
        self._room.set()

    def take(self, size: int) -> None:
        """So many bytes more are in flight."""
        self._bytes += size
        if self._bytes > self._most_bytes:
            self._room.clear()

    def settle(self, size: int) -> None:
        """So many bytes are no longer in flight."""
        self._bytes -= size
        if self._bytes <= self._most_bytes // 2:
            self._room.set()

    def reader(self, reader: asyncio.StreamReader) -> asyncio.StreamReader:
        """What the AMQP library reads from instead: the same stream, as far as there is room."""
        return cast("asyncio.StreamReader", _Reader(reader, self))

    def read(self, reader: asyncio.StreamReader, size: int) -> Awaitable[bytes]:
        """Exactly so many bytes, once there is room."""
        return reader.readexactly(size) if self._room.is_set() else self._read_later(reader, size)

    async def _read_later(self, reader: asyncio.StreamReader, size: int) -> bytes:
        await self._room.wait()
        return await reader.readexactly(size)


class _Reader:
    """What the AMQP library reads from: the connection's stream, as far as there is room."""

    def __init__(self, reader: asyncio.StreamReader, flow: Flow) -> None:
        self._reader = reader
        self._flow = flow

    def readexactly(self, size: int) -> Awaitable[bytes]:
        return self._flow.read(self._reader, size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)
