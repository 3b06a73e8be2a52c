"""A TCP proxy that breaks connections as networks do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import pytest

from manman_status.dev.ports import free_port


class Proxy:
    """Listens on a port of its own and passes everything on to the server of a URL, until it is
    set otherwise."""

    def __init__(self, url: str) -> None:
        self._to = urlsplit(url)
        self._url = url
        self.port = free_port()
        self._pairs: list[Any] = []
        self._server: asyncio.Server | None = None
        self._is_mute = False

    @property
    def url(self) -> Any:
        return self._url.replace(f"{self._to.hostname}:{self._to.port}", f"127.0.0.1:{self.port}")

    @property
    def connections(self) -> int:
        return len([pair for pair in self._pairs if pair.is_open])

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self._is_mute = False

    async def refuse(self) -> None:
        """Nothing listens any more, and what is open is reset. `start` ends it."""
        await self.close()

    def mute(self) -> None:
        """Reset open connections; accept new ones and never answer them. `speak` ends it."""
        self._is_mute = True
        self.reset()

    def speak(self) -> None:
        """Again. What was taken meanwhile is never answered."""
        self._is_mute = False

    def reset(self) -> None:
        for pair in self._pairs:
            pair.abort()
        self._pairs.clear()

    def swallow(self) -> None:
        """Drop everything, like a firewall that has forgotten the connections: nothing of what is
        open passes any more, in neither direction, and nobody is notified. New connections pass."""
        for pair in self._pairs:
            pair.swallows = True

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.reset()

    async def _accept(self, reader: Any, writer: Any) -> None:
        if self._is_mute:
            self._pairs.append(Pair(writer))
            return
        try:
            to_reader, to_writer = await asyncio.open_connection(self._to.hostname, self._to.port)
        except OSError:
            writer.transport.abort()
            return
        pair = Pair(writer, to_writer)
        self._pairs.append(pair)
        await asyncio.gather(pair.pump(reader, to_writer), pair.pump(to_reader, writer))


class Pair:
    def __init__(self, *writers: Any) -> None:
        self._writers = writers
        self.swallows = False

    @property
    def is_open(self) -> bool:
        return not any(writer.is_closing() for writer in self._writers)

    def abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def pump(self, reader: Any, writer: Any) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if not self.swallows:
                    writer.write(data)
                    await writer.drain()
        if not self.swallows:
            self.abort()


@pytest.fixture
async def proxy() -> AsyncIterator[Any]:
    """Starts a proxy before the server of a URL."""
    proxies = []

    async def start(url: str) -> Any:
        proxies.append(Proxy(url))
        await proxies[-1].start()
        return proxies[-1]

    yield start
    for each in proxies:
        await each.close()
