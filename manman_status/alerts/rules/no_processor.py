"""Nobody judged for a while: no processor ran, or none reached the database.

While it lasts only a monitor outside can notify of it; Prometheus has a rule for that. This alert
opens afterwards, so that the gap has a reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from manman_status.alerts.rule import Finding, OpenAlert, Rule
from manman_status.alerts.scene import Scene
from manman_status.domain.alert import Severity

UNJUDGED_SECONDS = 30.0
OPEN_FOR = timedelta(minutes=1)


class NoProcessor(Rule[None]):
    """Over once the processors are at it again and everything is seen."""

    name = "no_processor"

    def find(self, scene: Scene) -> Iterator[Finding]:
        gap = scene.unjudged_seconds
        if gap is not None and gap > UNJUDGED_SECONDS:
            yield Finding(
                key=self.key(),
                rule=self.name,
                severity=Severity.CRITICAL,
                summary=(
                    f"no processor was at work for {gap:.0f} s until now, or none reached the"
                    " database: look at why. What was reported meanwhile is being taken up, and"
                    " nobody was given up"
                ),
                evidence={"seconds": round(gap, 1), "until": scene.now},
            )

    def over(self, alert: OpenAlert, scene: Scene) -> str | None:
        sees = scene.lag_seconds is not None and scene.lag_seconds <= scene.degraded_after_seconds
        return (
            "processors are at work" if sees and scene.now - alert.opened_at >= OPEN_FOR else None
        )
