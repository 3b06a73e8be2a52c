"""The part that both reporters share: they take each report at once, whatever becomes of it, and
never fail the worker for it."""

from __future__ import annotations

import functools
import logging
import os
import signal
import threading
from asyncio import CancelledError
from collections.abc import Callable
from weakref import WeakSet

from yarl import URL

from manman_status.reporter.delivery import Delivery
from manman_status.reporter.life import InvalidReport, WorkerLife

log = logging.getLogger("manman_status.reporter")

CLOSE_WITHIN_SECONDS = 5.0


class Reporting:
    """One life of one worker, from `start` to `close`. A later life is another object.

    `labels` go with every heartbeat; the fleet guard and filters use `group`. With `inventory`, the
    heartbeats list all server instances that were reported here, so one that was not counts as
    ended. Give False when others report them. Without `heartbeats`, for use beside another reporter
    of the same worker, only events of server instances are sent, ordered by their times.
    `buffer_size` events wait for an unavailable broker; beyond that the oldest are dropped.

    Raises InvalidReport (a ValueError) for what the processor would refuse. Once it is started
    nothing raises: later errors are logged as `manman_status.reporter`.
    """

    def __init__(
        self,
        rabbitmq_url: str,
        *,
        worker_id: int,
        interval_seconds: float = 10.0,
        labels: dict[str, str] | None = None,
        heartbeats: bool = True,
        inventory: bool = True,
        buffer_size: int = 10_000,
        exchange: str = "internal_service_events",
    ) -> None:
        if URL(rabbitmq_url).scheme not in {"amqp", "amqps"}:
            raise InvalidReport(
                worker_id=worker_id,
                what="it",
                reason="rabbitmq_url must begin with amqp:// or amqps://",
            )
        self._life = WorkerLife(
            worker_id,
            interval_seconds=interval_seconds,
            labels=labels,
            heartbeats=heartbeats,
            inventory=inventory,
            outbox_size=buffer_size,
        )
        self._delivery = Delivery(
            self._life, rabbitmq_url, exchange=exchange, interval_seconds=interval_seconds
        )
        self._was_started = False
        self._is_open = False
        self._is_child = False
        self._has_logged_as_child = False
        self._dropped_before = 0
        _know_of_forks()
        _all.add(self)

    @property
    def incarnation(self) -> int | None:
        """The start of this life, in µs since the epoch; None without heartbeats."""
        return self._life.incarnation

    @property
    def is_connected(self) -> bool:
        """True when the broker confirmed the last message."""
        return self._delivery.is_connected

    @property
    def waiting(self) -> int:
        """Number of events that the broker has not confirmed."""
        return self._life.waiting

    @property
    def dropped(self) -> int:
        """Number of events that were dropped because more than `buffer_size` waited."""
        return self._life.dropped

    def _begin(self) -> None:
        if self._was_started:
            raise RuntimeError("a reporter is one life, and is started once: make another")
        self._was_started = self._is_open = True
        self._life.begin()

    def _end(self, *, graceful: bool) -> bool:
        """End this life. False when there is nothing to end here."""
        if self._is_child or not self._is_open:
            return False
        self._is_open = False
        if graceful:
            self._life.end()
        return True

    def _wake(self) -> None:
        """Have the delivery look for new events."""
        raise NotImplementedError

    def _report(self, put: Callable[[], None]) -> None:
        if self._is_child:
            self._log_as_child()
            return
        try:
            if not self._is_open:
                raise InvalidReport(
                    worker_id=self._life.worker_id,
                    what="anything",
                    reason="its reporter is not open",
                )
            put()
            self._wake()
        except Exception as error:  # the worker goes on, whatever it is
            log.error("%s", error, exc_info=not isinstance(error, InvalidReport))  # noqa: TRY400
        self._log_dropped()

    def _log_as_child(self) -> None:
        if not self._has_logged_as_child:
            self._has_logged_as_child = True
            log.warning(
                "this is a forked child: worker %d is reported by its parent alone",
                self._life.worker_id,
            )

    def _log_dropped(self) -> None:
        """Log dropped events: the first, and whenever there are twice as many."""
        if self.dropped > 2 * self._dropped_before:
            self._dropped_before = self.dropped
            worker = self._life.worker_id
            log.error(
                "worker %d: too many events wait for RabbitMQ, the oldest %d were dropped",
                worker,
                self.dropped,
            )

    def _log_unsent(self) -> None:
        if self.waiting:
            log.error(
                "worker %d: %d events were not sent before the end",
                self._life.worker_id,
                self.waiting,
            )

    def _become_child(self) -> None:
        self._is_child = True
        self._delivery.go_silent()
        self._life.forget_the_lock()


class Terminated(SystemExit):
    """SIGTERM, within the block of a reporter: the block is left normally, and the process ends
    with this code."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


def may_take_sigterm() -> bool:
    """True where SIGTERM would end Python at once, as if the worker had died, and we can do
    something about it."""
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def is_requested(error: BaseException | None) -> bool:
    """True when leaving a block with this error was requested. Every other error is a crash, which
    silence shows."""
    if isinstance(error, SystemExit):
        return not error.code or isinstance(error, Terminated)
    return error is None or isinstance(error, KeyboardInterrupt | CancelledError | GeneratorExit)


_all: WeakSet[Reporting] = WeakSet()


@functools.cache
def _know_of_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_in_child)


def _in_child() -> None:
    for reporting in list(_all):
        reporting._become_child()  # noqa: SLF001
