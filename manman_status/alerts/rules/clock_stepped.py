"""The database's clock stepped: every time it gives is from another clock than the times before."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from manman_status.alerts.rule import Finding, OpenAlert, Rule
from manman_status.alerts.scene import Scene
from manman_status.domain.alert import Severity

STEADY_FOR = timedelta(minutes=10)


class ClockStepped(Rule[None]):
    """Open from a step until the clock has been steady for a while, so that one that steps again
    and again is one alert."""

    name = "clock_stepped"

    def find(self, scene: Scene) -> Iterator[Finding]:
        step = scene.clock_step
        if step is not None and scene.now - step.at < STEADY_FOR:
            direction = "back" if step.seconds < 0 else "forward"
            yield Finding(
                key=self.key(),
                rule=self.name,
                severity=Severity.WARNING,
                summary=(
                    f"the database's clock stepped {direction} by {abs(step.seconds):.0f} s: look"
                    " at the time synchronisation of its host, or which server has become the"
                    " primary. Times before and after it do not compare; nobody is marked LOST"
                    " until a whole timeout was observed since"
                ),
                evidence={"at": step.at, "seconds": round(step.seconds, 3)},
            )

    def over(self, alert: OpenAlert, scene: Scene) -> str | None:  # noqa: ARG002
        step = scene.clock_step
        if step is not None and scene.now - step.at < STEADY_FOR:
            return None
        return f"the clock has been steady for {STEADY_FOR.seconds // 60} minutes"
