"""The socket under a connection, known by its number: a forked child must let go of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from yarl import URL

from manman_status.reporter.forks import let_go_of


class OwnTransport(TransportFactory):
    """A factory of connections that remembers the newest. `reads` wraps the stream that is read
    from. Where the URL's query has a `server_hostname`, the certificate must be for that name."""

    def __init__(
        self,
        url: str,
        *,
        reads: Callable[[asyncio.StreamReader], asyncio.StreamReader] = lambda stream: stream,
    ) -> None:
        self._reads = reads
        to = URL(url)
        self._factory = TLSTransportFactory() if to.scheme == "amqps" else TCPTransportFactory()
        hostname = to.query.get("server_hostname") if to.scheme == "amqps" else None
        self._options = {"server_hostname": hostname} if hostname else {}
        self._writer: asyncio.StreamWriter | None = None

    async def create(
        self, url: URL, **kwargs: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, self._writer = await self._factory.create(url, **kwargs, **self._options)
        return self._reads(reader), self._writer

    def abort(self) -> None:
        """Close the socket, after the connection was closed normally or could not be."""
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None

    def let_go(self) -> None:
        """Let go of the socket, in a forked child."""
        if self._writer is not None:
            number: int = self._writer.get_extra_info("socket").fileno()
            let_go_of(number, self._writer.get_extra_info("sockname"))
