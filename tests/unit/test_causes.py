"""Errors of RabbitMQ and the network become one plain sentence each."""

from __future__ import annotations

import socket
import ssl
from typing import Any

import pytest
from aio_pika.exceptions import AMQPConnectionError, ProbableAuthenticationError
from aiormq.exceptions import (
    ChannelAccessRefused,
    ChannelLockedResource,
    ConnectionNotAllowed,
    IncompatibleProtocolError,
)

from manman_status.reporter.causes import fault_of

URL = "amqp://ann:secret@rabbit.example/games"


def caused_by(cause: Any) -> Any:
    """An error as aiormq passes it on from the operating system."""
    error = AMQPConnectionError(*cause.args)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ProbableAuthenticationError("ACCESS_REFUSED - …"),
            "RabbitMQ refused the login of user 'ann'",
        ),
        (
            ConnectionNotAllowed("NOT_ALLOWED - vhost games not found"),
            "RabbitMQ has no virtual host 'games'",
        ),
        (
            ConnectionNotAllowed("NOT_ALLOWED - access to vhost 'games' refused for user 'ann'"),
            "user 'ann' may not use the virtual host 'games'",
        ),
        (
            ConnectionNotAllowed("NOT_ALLOWED - connection limit (2) is reached"),
            "RabbitMQ closed the connection: connection limit (2) is reached",
        ),
        (
            ChannelAccessRefused(
                "ACCESS_REFUSED - access to queue 'q' in vhost 'games' refused for user 'ann'"
            ),
            "user 'ann' may not configure queue 'q'",
        ),
        (
            ChannelAccessRefused(
                "ACCESS_REFUSED - configure access to queue 'q' in vhost '/' refused for user 'ann'"
            ),
            "user 'ann' may not configure queue 'q'",
        ),
        (
            ChannelLockedResource(
                "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q'"
            ),
            (
                "RabbitMQ refuses: RESOURCE_LOCKED - cannot obtain exclusive access to locked"
                " queue 'q'"
            ),
        ),
        (
            caused_by(socket.gaierror(-2, "Name or service not known")),
            "RabbitMQ does not answer: the host name 'rabbit.example' is not known",
        ),
        (
            caused_by(ConnectionRefusedError(111, "refused")),
            "RabbitMQ does not answer: nothing listens at rabbit.example:5672",
        ),
        (
            caused_by(ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER]")),
            (
                "RabbitMQ does not answer: rabbit.example:5672 does not speak TLS: is it the port"
                " for amqps?"
            ),
        ),
        (
            IncompatibleProtocolError("AMQP 1.0"),
            (
                "RabbitMQ does not answer: what answers at rabbit.example:5672 does not speak AMQP:"
                " is it the right port?"
            ),
        ),
        (TimeoutError(), "RabbitMQ does not answer: no answer from rabbit.example:5672"),
        (TimeoutError("no answer within 10 s"), "RabbitMQ does not answer: no answer within 10 s"),
        (ConnectionResetError(), "RabbitMQ does not answer: ConnectionResetError()"),
    ],
)
def test_each_fault_is_said_plainly(error: Any, said: Any) -> None:
    assert str(fault_of(error, URL, right="configure")) == said
