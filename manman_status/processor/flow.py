"""A bound in bytes on what was read and is not settled yet.

The broker counts messages: 2,000 of them may be in flight, of any size. So the bytes are counted
here, and the socket is not read while there are too many: TCP holds the broker back. (Pausing the
transport would not do: a StreamReader resumes it whenever it waits for data.)
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

MOST_BYTES = 32 * 1024 * 1024
BYTES_OF_AN_EVENT = 600
"""About what a decoded event takes, beside the bytes that it came in."""
AT_ONCE_BYTES = 64 * 1024


class Flow:
    """Lets nothing more be read above `most_bytes` in flight, until half of them are settled."""

    def __init__(self, *, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._room = asyncio.Event()
        self._room.set()

    def take(self, size: int) -> None:
        """Count so many more bytes as in flight."""
        self._bytes += size
        if self._bytes > self._most_bytes:
            self._room.clear()

    def settle(self, size: int) -> None:
        """Count so many bytes as settled."""
        self._bytes -= size
        if self._bytes <= self._most_bytes // 2:
            self._room.set()

    def reader(self, reader: asyncio.StreamReader) -> asyncio.StreamReader:
        """Wrap a connection's stream for the AMQP library: the same bytes, as far as there is
        room."""
        return cast("asyncio.StreamReader", _Reader(reader, self))

    @property
    def has_room(self) -> bool:
        return self._room.is_set()

    async def wait(self) -> None:
        """Return once there is room."""
        await self._room.wait()


class _Reader:
    """The stream that the AMQP library reads: the connection's, as far as there is room.

    The library reads nine small pieces for each message, so the stream is read in large ones.
    """

    def __init__(self, stream: asyncio.StreamReader, flow: Flow) -> None:
        self._stream = stream
        self._flow = flow
        self._read = b""
        self._at = 0

    async def readexactly(self, size: int) -> bytes:
        """Exactly so many bytes, once there is room. Raises IncompleteReadError at the end of the
        stream."""
        if not self._flow.has_room:
            await self._flow.wait()
        end = self._at + size
        if end > len(self._read):
            await self._read_more(size)
            end = size
        start, self._at = self._at, end
        return self._read[start:end]

    def at_eof(self) -> bool:
        return self._at == len(self._read) and self._stream.at_eof()

    async def _read_more(self, size: int) -> None:
        self._read, self._at = self._read[self._at :], 0
        while len(self._read) < size:
            more = await self._stream.read(AT_ONCE_BYTES)
            if not more:
                raise asyncio.IncompleteReadError(self._read, size)
            self._read += more

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
