"""The reporter of a worker that runs on asyncio."""

from __future__ import annotations

import asyncio
import signal
from types import TracebackType
from typing import Self

from manman_status.cancellation import cancel
from manman_status.reporter.reporting import (
    CLOSE_WITHIN_SECONDS,
    Reporting,
    Terminated,
    is_requested,
    may_take_sigterm,
)


class StatusReporter(Reporting):
    """A reporter within the worker's event loop.

        async with StatusReporter("amqp://…", worker_id=7, labels={"group": "eu-1"}) as report:
            await report.server_started(31)
            ...
            await report.server_stopped(31, exit_code=0)

    Leaving the block reports that the worker stopped; leaving it with an exception reports nothing,
    as a crash would. (Being cancelled or interrupted is no crash.) SIGTERM leaves the block, unless
    the program handles it.
    """

    _loop_of_sigterm: asyncio.AbstractEventLoop | None = None
    _is_terminated = False

    async def start(self) -> None:
        """Report that the worker started, and keep sending heartbeats. Does not wait for the
        broker."""
        self._begin()
        self._task = asyncio.create_task(self._delivery.run(), name="manman-status reporter")

    async def close(self, *, graceful: bool = True) -> None:
        """Send what waits, for some seconds at most. Report that the worker stopped only if
        `graceful`."""
        if not self._end(graceful=graceful):
            return
        self._delivery.close()
        await asyncio.wait({self._task}, timeout=CLOSE_WITHIN_SECONDS)
        await cancel(self._task)
        self._log_unsent()

    async def server_started(
        self, instance_id: int, *, game_server_config_id: int | None = None
    ) -> None:
        """Report that a server instance runs now. Returns at once and never fails."""
        self._report(lambda: self._life.start_server(instance_id, game_server_config_id))

    async def server_stopped(self, instance_id: int, *, exit_code: int | None = None) -> None:
        """Report that a server instance ended: normally, or crashed when the exit code is not 0.
        Returns at once and never fails."""
        self._report(lambda: self._life.stop_server(instance_id, exit_code))

    async def drain(self) -> None:
        """Mark the worker as draining: from its next heartbeat on, stopping or going silent raises
        no alert."""
        self._report(self._life.drain)

    async def __aenter__(self) -> Self:
        await self.start()
        task = asyncio.current_task()
        if task is not None and may_take_sigterm():
            self._loop_of_sigterm = asyncio.get_running_loop()
            self._loop_of_sigterm.add_signal_handler(signal.SIGTERM, self._terminate, task)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.close(graceful=is_requested(error))
        finally:
            if self._loop_of_sigterm is not None:
                self._loop_of_sigterm.remove_signal_handler(signal.SIGTERM)
        if self._is_terminated:
            raise Terminated from None

    def _terminate(self, task: asyncio.Task[object]) -> None:
        """Leave the block, not the event loop: the waiting events are still to be sent."""
        self._is_terminated = True
        task.cancel()

    def _wake(self) -> None:
        self._delivery.wake()
