"""The bridge's connection to the broker, kept from one look to the next."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from manman_status.errors import BrokerUnavailable
from manman_status.reporter.connection import Publisher, open_connection, open_publisher


class Sending:
    """Opens a connection when one is needed, and ends it with the first fault."""

    def __init__(self, url: str, *, exchange: str) -> None:
        self._url = url
        self._exchange = exchange
        self._stack = AsyncExitStack()
        self._publisher: Publisher | None = None

    @asynccontextmanager
    async def publisher(self) -> AsyncIterator[Publisher]:
        """Lend the publisher. Raises BrokerUnavailable."""
        if self._publisher is None:
            try:
                self._publisher = await self._open()
            except BrokerUnavailable:
                await self.close()
                raise
        try:
            yield self._publisher
        except BaseException:
            await self.close()
            raise

    async def _open(self) -> Publisher:
        connection = await self._stack.enter_async_context(
            open_connection(self._url, name="manman-status bridge", heartbeat=10)
        )
        return await self._stack.enter_async_context(
            open_publisher(connection, exchange=self._exchange)
        )

    async def close(self) -> None:
        self._publisher = None
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()
