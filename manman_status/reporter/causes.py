"""Errors of RabbitMQ and the network, in one plain sentence each."""

from __future__ import annotations

import re
import socket
import ssl
from typing import TYPE_CHECKING

from aio_pika.exceptions import (
    IncompatibleProtocolError,
    InvalidFrameError,
    ProbableAuthenticationError,
    ProtocolSyntaxError,
)
from aiormq.exceptions import AMQPChannelError, ChannelAccessRefused, ConnectionNotAllowed
from pamqp import commands
from yarl import URL

from manman_status.errors import BrokerRefuses, BrokerUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

REFUSED = re.compile(
    r"access to (?P<what>\S+ '[^']*') in vhost '[^']*' refused for user '(?P<user>[^']*)'"
)


def fault_of(error: BaseException, url: str, *, right: str = "use") -> BrokerUnavailable:
    """Describe what went wrong at this broker. `right` is the right that was needed: to configure,
    write to, read from."""
    at = URL(url)
    if refusal := _refusal(error, at, right):
        return BrokerRefuses(cause=refusal)
    place = f"{at.host}:{at.port or (5671 if at.scheme == 'amqps' else 5672)}"
    return BrokerUnavailable(cause=_network_fault(error, at, place) or str(error) or repr(error))


def _refusal(error: BaseException, at: URL, right: str) -> str | None:
    """Describe what RabbitMQ refuses; None when it refuses nothing."""
    user = at.user or "guest"
    match error:
        case ProbableAuthenticationError():
            return f"RabbitMQ refused the login of user {user!r}"
        case ChannelAccessRefused() if found := REFUSED.search(str(error)):
            return f"user {found['user']!r} may not {right} {found['what']}"
        case AMQPChannelError():
            return f"RabbitMQ refuses: {error}"
        case _ if text := _why_closed(error):
            return _virtual_host_refused(text, at.path[1:].replace("%2F", "/") or "/", user)
    return None


def _virtual_host_refused(text: str, virtual_host: str, user: str) -> str:
    if "not found" in text:
        return f"RabbitMQ has no virtual host {virtual_host!r}"
    if "refused for user" in text:
        return f"user {user!r} may not use the virtual host {virtual_host!r}"
    return f"RabbitMQ closed the connection: {text.removeprefix('NOT_ALLOWED - ')}"


def _why_closed(error: BaseException) -> str | None:
    """The reason why RabbitMQ closed the connection, in its own words.

    Where it refuses a virtual host, aiormq expects another frame and drops this one into an
    InvalidFrameError without its text: only the traceback's frames still have it.
    """
    if isinstance(error, ConnectionNotAllowed):
        return str(error)
    trace = error.__traceback__ if isinstance(error, InvalidFrameError) else None
    while trace is not None:
        if isinstance(found := trace.tb_frame.f_locals.get("frame"), commands.Connection.Close):
            return found.reply_text
        trace = trace.tb_next
    return None


def _network_fault(error: BaseException, at: URL, place: str) -> str | None:
    """Describe a fault of the network, or of another program at that address; None when it is
    neither."""
    return next(filter(None, (_fault_in(each, at, place) for each in _chain(error))), None)


def _fault_in(error: BaseException, at: URL, place: str) -> str | None:  # noqa: PLR0911
    match error:
        case socket.gaierror():
            return f"the host name {at.host!r} is not known"
        case ConnectionRefusedError():
            return f"nothing listens at {place}"
        case ssl.SSLCertVerificationError():
            return f"the certificate of {place} is not trusted: {error.verify_message}"
        case ssl.SSLError():
            return f"{place} does not speak TLS: is it the port for amqps?"
        case IncompatibleProtocolError() | ProtocolSyntaxError():
            return f"what answers at {place} does not speak AMQP: is it the right port?"
        case TimeoutError():
            return str(error) or f"no answer from {place}"
        case _ if "unexpectedly closed" in str(error):
            return (
                f"{place} closed the connection; if it does so each time, is it RabbitMQ's port for"
                f" {at.scheme}?"
            )
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its causes. aiormq keeps an OSError's arguments and drops its class, but
    not the cause."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__
