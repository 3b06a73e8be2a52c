"""The reporter's way to the broker: aio-pika, or amqpstorm where aio-pika is too old.

amqpstorm before 3 and aio-pika since 7 need different versions of pamqp, so beside such an
amqpstorm only an ancient aio-pika can be installed. The worker's amqpstorm carries the reports
then. This module imports neither.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from manman_status.errors import BrokerUnavailable, ManManStatusError
from manman_status.reporter.messages import Report

OLDEST_AIO_PIKA = 9
CLOSE_WITHIN_SECONDS = 1.0


class Unroutable(ManManStatusError):  # noqa: N818
    """No queue takes {routing_key} from the exchange {exchange}: has a processor ever run here?"""


class Socket(Protocol):
    """The socket under a link, whoever made it."""

    def abort(self) -> None:
        """Close the socket, after the connection was closed normally or could not be."""

    def let_go(self) -> None:
        """Let go of the socket, in a forked child."""


class Link(Protocol):
    """A connection that publishes to one exchange, and does not recover."""

    @property
    def is_connected(self) -> bool: ...

    async def send(self, report: Report) -> None:
        """Send a report, and return once the broker confirms it. Raises Unroutable, or
        BrokerUnavailable: then it may have arrived."""

    async def send_all(
        self, reports: Sequence[Report]
    ) -> list[Unroutable | BrokerUnavailable | None]:
        """Send reports in their order, and return the error of each."""


class Carrier(Protocol):
    """A module that carries reports. `IN_FLIGHT`: most reports on their way at once."""

    IN_FLIGHT: int

    def new_socket(self, url: str, /) -> Socket: ...

    def open_link(
        self, socket: Socket, url: str, *, name: str, exchange: str, lost: Callable[[], None]
    ) -> AbstractAsyncContextManager[Link]:
        """Open a link, on which `lost` is called when its connection is. Raises
        BrokerUnavailable."""


def choose_carrier() -> Carrier:
    """Choose by what is installed."""
    try:
        version = importlib.metadata.version("aio-pika")
    except importlib.metadata.PackageNotFoundError:
        version = "0"
    if int(version.partition(".")[0]) >= OLDEST_AIO_PIKA:
        from manman_status.reporter import connection

        return connection
    from manman_status.reporter import storm

    return storm
