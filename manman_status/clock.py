"""Compares the database's clock with this processor's own.

A step is found by whichever processor reads the clock first after it:

- Its own readings differ by more than the time that passed between them.
- Or the database's time lies before one that is stored already. This also shows a step back that
happened while no processor ran, or a failover to a server whose clock is behind.

A step forward needs both a difference of our own and that nobody else has read the new time yet. A
processor whose machine was paused sees the former, but another that ran meanwhile has read the
clock all along. A step forward while no processor ran cannot be distinguished from an outage.
"""

from __future__ import annotations

import time
from datetime import datetime

from manman_status.domain.clock import STEP_SECONDS, ClockReading, step_between


def elapsed() -> float:
    """Monotonic seconds that go on while the machine sleeps, where the system has such a clock."""
    return (
        time.clock_gettime(time.CLOCK_BOOTTIME)
        if hasattr(time, "CLOCK_BOOTTIME")
        else time.monotonic()
    )


class DatabaseClock:
    """This processor's newest reading of the database's clock. `steps` numbers the steps that were
    taken before it."""

    def __init__(self) -> None:
        self._reading: ClockReading | None = None
        self._steps = 0

    def keep(self, reading: ClockReading, steps: int) -> None:
        self._reading, self._steps = reading, steps

    def step_at(self, reading: ClockReading, *, steps: int) -> float:
        """Seconds by which the clock stepped since the newest reading. 0.0 if it did not, if
        nothing was read yet, or if another processor has taken the step, by the database's number
        of `steps`."""
        if self._reading is None or steps != self._steps:
            return 0.0
        return step_between(self._reading, reading)

    def step_to_take(
        self, reading: ClockReading, *, steps: int, last_read: datetime | None
    ) -> float:
        """The step that this processor is the first to find; 0.0 without one. `last_read` is the
        newest time that any processor has stored."""
        step = self.step_at(reading, steps=steps)
        ahead = 0.0 if last_read is None else (reading.at - last_read).total_seconds()
        if step < 0:
            return step
        if ahead < -STEP_SECONDS:
            return ahead
        return step if ahead > STEP_SECONDS else 0.0
