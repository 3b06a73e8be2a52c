"""The socket under a connection, known by its number: a forked child must let go of it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from yarl import URL


class OwnTransport(TransportFactory):
    """A factory of connections that remembers the newest. `reads` wraps the stream that is read
    from."""

    def __init__(
        self,
        url: str,
        *,
        reads: Callable[[asyncio.StreamReader], asyncio.StreamReader] = lambda stream: stream,
    ) -> None:
        self._reads = reads
        self._factory = (
            TLSTransportFactory() if URL(url).scheme == "amqps" else TCPTransportFactory()
        )
        self._writer: asyncio.StreamWriter | None = None

    async def create(
        self, url: URL, **kwargs: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, self._writer = await self._factory.create(url, **kwargs)
        return self._reads(reader), self._writer

    def abort(self) -> None:
        """Close the socket, after the connection was closed normally or could not be."""
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None

    def let_go(self) -> None:
        """Let go of the socket, in a forked child: what is written there would reach the broker in
        the middle of the parent's messages, and the parent's death would not end the connection as
        long as the child held it.

        The number stays taken, by /dev/null: objects of the parent's that end in the child still
        close it.
        """
        if self._writer is None:
            return
        number: int = self._writer.get_extra_info("socket").fileno()
        with suppress(OSError):
            if _local_address(number) != self._writer.get_extra_info("sockname"):
                return  # closed before the fork, and by now the number of something else
            nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            os.dup2(nothing, number, inheritable=False)
            os.close(nothing)


def _local_address(number: int) -> Any:
    with socket.socket(fileno=os.dup(number)) as copy:
        return copy.getsockname()
