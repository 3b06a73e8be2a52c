"""Quiet logs: the AMQP library logs at each retry, as errors, what the reporter logs once. The
worker's other connections are not touched: only records from the reporter's own context are left
out."""

from __future__ import annotations

import logging
from contextvars import ContextVar

LIBRARIES = {"aio_pika", "aiormq"}

_is_own: ContextVar[bool] = ContextVar("manman_status_reporter_is_own", default=False)


def quiet_own_connections() -> None:
    """Quiet the AMQP library for the current context and the tasks that begin in it."""
    _is_own.set(True)
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in LIBRARIES:
            logging.getLogger(name).addFilter(_is_worth_saying)


def _is_worth_saying(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.CRITICAL or not _is_own.get()
