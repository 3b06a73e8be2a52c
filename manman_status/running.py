"""Keeps the parts of a processor running, and waits unless the processor is stopped.

Only our own cancellation ends a part. aiormq raises CancelledError into whoever waits for a
connection that is lost; a TaskGroup takes a task that ends so for one that was stopped, and says
nothing.

A part is running, or restarting after a fault. The end of reading or storing, without which nothing
is left to do, is the end of the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from time import monotonic
from types import coroutine
from typing import Any, Protocol, TypeVar

import structlog

from manman_status.backoff import Backoff
from manman_status.cancellation import Abandoned, cancel, is_cancelled
from manman_status.errors import ManManStatusError
from manman_status.store.faults import plain
from manman_status.store.pool import DATABASE_ERRORS

log = structlog.get_logger()

T = TypeVar("T")

LASTED_SECONDS = 60.0
"""A part that ran for so long before it failed begins again at once, and says so again."""


class Runs(Protocol):
    async def run(self) -> None: ...


class PartEnded(ManManStatusError):  # noqa: N818
    """{name} ended, and nobody stopped it"""


class Pulse:
    """The time at which a task last moved."""

    def __init__(self) -> None:
        self._moved_at = monotonic()

    def beat(self) -> None:
        self._moved_at = monotonic()

    @property
    def age_seconds(self) -> float:
        return monotonic() - self._moved_at


class Part:
    """One of the processor's tasks. `rests_seconds` is how long it may wait for something to do and
    not move."""

    def __init__(self, runs: Runs, *, rests_seconds: float) -> None:
        self.name = type(runs).__name__
        self.pulse = Pulse()
        self._runs = runs
        self._rests_seconds = rests_seconds

    async def keep_running(self) -> None:
        """A fault is logged, and the part begun again: the others, and what is being stored, go
        on."""
        backoff = Backoff()
        while True:
            began = monotonic()
            fault: BaseException
            try:
                await watched(self._runs.run(), self.pulse)
                fault = PartEnded(name=self.name)
            except asyncio.CancelledError:
                if is_cancelled():
                    raise
                fault = Abandoned()
            except Exception as error:  # noqa: BLE001 - whatever it is, the part begins again
                fault = error
            if monotonic() - began > LASTED_SECONDS:
                backoff = Backoff()
            delay = backoff.failed()
            if backoff.is_worth_saying:
                log.error("task_failed", task=self.name, failures=backoff.failures, exc_info=fault)
            await asyncio.sleep(delay)

    def is_stuck(self, *, for_seconds: float) -> bool:
        return self.pulse.age_seconds > self._rests_seconds + for_seconds


async def vital(
    work: Coroutine[Any, Any, None], name: str, *, until: asyncio.Event | None = None
) -> None:
    """Do the work. Raises PartEnded when it ends, before `until`, without our having cancelled
    it."""
    try:
        await work
    except asyncio.CancelledError:
        if is_cancelled():
            raise
    if until is None or not until.is_set():
        raise PartEnded(name=name)


@coroutine
def watched(work: Coroutine[Any, Any, T], pulse: Pulse) -> Generator[Any, Any, T]:
    """Await the work, and note each time that it goes on after a wait."""
    answer, fault = None, None
    while True:
        pulse.beat()
        try:
            waits_for = work.send(answer) if fault is None else work.throw(fault)
        except StopIteration as result:
            return result.value  # type: ignore[no-any-return]
        answer, fault = None, None
        try:
            answer = yield waits_for
        except GeneratorExit:
            work.close()
            raise
        except BaseException as error:  # noqa: BLE001 - a cancellation is for the work
            fault = error


async def when_available(work: Callable[[], Awaitable[T]]) -> T:
    """Return the result of what is done in the database first of all, tried until the database is
    available. Its other errors are raised."""
    backoff = Backoff()
    while True:
        try:
            return await work()
        except DATABASE_ERRORS as error:
            delay = backoff.failed()
            if backoff.is_worth_saying:
                log.warning("database_unavailable", error=plain(error))
            await asyncio.sleep(delay)


async def unless_stopped(work: Coroutine[Any, Any, T], stopping: asyncio.Event) -> T | None:
    """Return the result of the work, or None when the processor is stopped before it is done."""
    doing, waiting = asyncio.ensure_future(work), asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait([doing, waiting], return_when=asyncio.FIRST_COMPLETED)
        return doing.result() if doing.done() else None
    finally:
        await cancel(doing, waiting)
