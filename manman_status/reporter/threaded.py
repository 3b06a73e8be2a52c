"""The reporter of a worker that runs on threads."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import threading
from types import FrameType, TracebackType
from typing import Self

from manman_status.reporter.carrier import CLOSE_WITHIN_SECONDS as LET_GO_WITHIN_SECONDS
from manman_status.reporter.reporting import (
    CLOSE_WITHIN_SECONDS,
    Reporting,
    Terminated,
    is_requested,
    may_take_sigterm,
)


def _terminate(_: int, __: FrameType | None) -> None:
    raise Terminated


class ThreadedStatusReporter(Reporting):
    """A reporter in a thread of its own, which may be called from any thread.

        with ThreadedStatusReporter("amqp://…", worker_id=7, labels={"group": "eu-1"}) as report:
            report.server_started(31)
            ...
            report.server_stopped(31, exit_code=0)

    Leaving the block reports that the worker stopped; leaving it with an exception reports nothing,
    as a crash would. (Being interrupted is no crash.) SIGTERM leaves the block, unless the program
    handles it. The thread is a daemon, so it does not keep the process alive, and it has the
    context variables of the caller of `start`.
    """

    def start(self) -> None:
        """Report that the worker started, and keep sending heartbeats. Does not wait for the
        broker."""
        self._begin()
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(
            self._delivery.run(), context=contextvars.copy_context()
        )
        self._thread = threading.Thread(
            target=self._run, name="manman-status reporter", daemon=True
        )
        self._thread.start()

    def close(self, *, graceful: bool = True) -> None:
        """Send what waits, for some seconds at most. Report that the worker stopped only if
        `graceful`."""
        if not self._end(graceful=graceful):
            return
        self._loop.call_soon_threadsafe(self._delivery.close)
        self._thread.join(CLOSE_WITHIN_SECONDS)
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join(2 * LET_GO_WITHIN_SECONDS)
        self._log_unsent()

    def server_started(self, instance_id: int, *, game_server_config_id: int | None = None) -> None:
        """Report that a server instance runs now. Returns at once and never fails."""
        self._report(lambda: self._life.start_server(instance_id, game_server_config_id))

    def server_stopped(self, instance_id: int, *, exit_code: int | None = None) -> None:
        """Report that a server instance ended: normally, or crashed when the exit code is not 0.
        Returns at once and never fails."""
        self._report(lambda: self._life.stop_server(instance_id, exit_code))

    def drain(self) -> None:
        """Mark the worker as draining: from its next heartbeat on, stopping or going silent raises
        no alert."""
        self._report(self._life.drain)

    def __enter__(self) -> Self:
        self.start()
        if may_take_sigterm():
            signal.signal(signal.SIGTERM, _terminate)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close(graceful=is_requested(error))
        finally:
            if signal.getsignal(signal.SIGTERM) is _terminate:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _wake(self) -> None:
        self._loop.call_soon_threadsafe(self._delivery.wake)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(asyncio.wait({self._task}))
