"""Reports over amqpstorm, whose calls block: each runs on a thread of its own, which ends with the
socket at the latest."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from amqpstorm.connection import Connection
from amqpstorm.exception import AMQPError
from yarl import URL

from manman_status.errors import BrokerRefuses, BrokerUnavailable
from manman_status.reporter.carrier import CLOSE_WITHIN_SECONDS, Socket, Unroutable
from manman_status.reporter.forks import let_go_of
from manman_status.reporter.messages import Report

T = TypeVar("T")

IN_FLIGHT = 20
"""amqpstorm waits for each confirmation before it sends the next report."""
ANSWER_WITHIN_SECONDS = 10
CONFIRM_WITHIN_SECONDS = 8
NO_ROUTE, NO_EXCHANGE = 312, 404


class StormSocket:
    """The socket of amqpstorm's newest connection."""

    def __init__(self) -> None:
        self.connection: Any = None
        self._local_address: Any = None

    def hold(self, connection: Any) -> None:
        self.connection = connection
        self._local_address = connection.socket and connection.socket.getsockname()

    def abort(self) -> None:
        """Shut the socket down: whoever waits for an answer stops waiting."""
        connection, self.connection = self.connection, None
        if connection is not None and (socket := connection.socket) is not None:
            with suppress(OSError):
                socket.shutdown(2)

    def let_go(self) -> None:
        if self.connection is not None and (socket := self.connection.socket) is not None:
            let_go_of(socket.fileno(), self._local_address)


class StormLink:
    def __init__(self, connection: Any, channel: Any, exchange: str) -> None:
        self._connection = connection
        self._channel = channel
        self._exchange = exchange

    @property
    def is_connected(self) -> bool:
        return bool(self._connection.is_open and not self._connection.exceptions)

    async def send(self, report: Report) -> None:
        [error] = await self.send_all([report])
        if error:
            raise error

    async def send_all(
        self, reports: Sequence[Report]
    ) -> list[Unroutable | BrokerUnavailable | None]:
        """Send reports one after the other. Those after a failure are not sent, and have the same
        error."""
        return await _on_a_thread(lambda: self._publish_all(reports))

    def _publish_all(
        self, reports: Sequence[Report]
    ) -> list[Unroutable | BrokerUnavailable | None]:
        errors: list[Unroutable | BrokerUnavailable | None] = []
        for report in reports:
            if error := self._publish(report):
                return errors + [error] * (len(reports) - len(errors))
            errors.append(None)
        return errors

    def _publish(self, report: Report) -> Unroutable | BrokerUnavailable | None:
        try:
            is_taken = self._channel.basic.publish(
                report.body,
                report.routing_key,
                exchange=self._exchange,
                properties={
                    "content_type": "application/json",
                    "delivery_mode": 2 if report.durable else 1,
                    "headers": {**report.headers},
                },
                mandatory=True,
            )
        except AMQPError as error:
            if error.error_code in {NO_ROUTE, NO_EXCHANGE}:
                return Unroutable(routing_key=report.routing_key, exchange=self._exchange)
            if self._connection.is_blocked:
                return BrokerRefuses(
                    cause="RabbitMQ holds back publishers because of a resource alarm"
                )
            return BrokerUnavailable(cause=str(error))
        return None if is_taken else BrokerUnavailable(cause="RabbitMQ did not take the message")


def new_socket(_url: str, /) -> Socket:
    return StormSocket()


@asynccontextmanager
async def open_link(
    socket: Socket, url: str, *, name: str, exchange: str, lost: Callable[[], None]
) -> AsyncIterator[StormLink]:
    """Open a link. `lost` is not called: the next heartbeat or event sees the loss."""
    del lost
    assert isinstance(socket, StormSocket)
    connection = Connection(**_parameters(URL(url), name), lazy=True)
    try:
        try:
            channel = await _on_a_thread(lambda: _open(connection, socket))
        except (AMQPError, OSError, ValueError) as error:
            raise BrokerUnavailable(cause=str(error)) from error
        yield StormLink(connection, channel, exchange)
    finally:
        with suppress(TimeoutError):
            await asyncio.wait_for(_on_a_thread(connection.close), CLOSE_WITHIN_SECONDS)
        socket.abort()


def _open(connection: Any, socket: StormSocket) -> Any:
    connection.open()
    socket.hold(connection)
    channel = connection.channel(rpc_timeout=CONFIRM_WITHIN_SECONDS)
    channel.confirm_deliveries()
    return channel


def _parameters(url: URL, name: str) -> dict[str, Any]:
    uses_tls = url.scheme == "amqps"
    return {
        "hostname": url.host or "localhost",
        "username": url.user or "guest",
        "password": url.password or "guest",
        "port": url.port or (5671 if uses_tls else 5672),
        "virtual_host": url.path[1:].replace("%2F", "/") or "/",
        "heartbeat": int(url.query.get("heartbeat", "60")),
        "timeout": ANSWER_WITHIN_SECONDS,
        "ssl": uses_tls,
        "ssl_options": _tls(url) if uses_tls else {},
        "client_properties": {"connection_name": name},
    }


def _tls(url: URL) -> dict[str, Any]:
    """TLS as the parameters of the URL want it; they have the names that aio-pika knows."""
    context = ssl.create_default_context(
        cafile=url.query.get("cafile"), capath=url.query.get("capath")
    )
    if url.query.get("no_verify_ssl", "0") != "0":
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate := url.query.get("certfile"):
        context.load_cert_chain(certificate, url.query.get("keyfile"))
    return {"context": context, "server_hostname": url.query.get("server_hostname", url.host)}


async def _on_a_thread(call: Callable[[], T]) -> T:
    """Run a call that blocks. Its thread is a daemon: nobody waits for it when the process ends."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(result)  # type: ignore[arg-type]
        else:
            done.set_exception(error)

    def run() -> None:
        result: T | None = None
        failure: BaseException | None = None
        try:
            result = call()
        except Exception as error:  # noqa: BLE001 - raised where the call is awaited
            failure = error
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, name="manman-status amqpstorm", daemon=True).start()
    return await done
