"""Monitoring itself is late or blind: nobody is marked LOST meanwhile, and answers are old."""

from __future__ import annotations

from collections.abc import Iterator

from manman_status.alerts.rule import Finding, OpenAlert, Rule
from manman_status.alerts.rules.no_processor import NoProcessor
from manman_status.alerts.scene import Scene
from manman_status.domain.alert import Severity

DEGRADED_FOR_SECONDS = 10.0
"""The time for which monitoring may be degraded without an alert: a restart is no news."""


class Observer(Rule[None]):
    """Degraded for a while is a warning, blind is critical: one alert that gets worse. Over when it
    sees well."""

    name = "observer"
    causes = (NoProcessor,)

    def find(self, scene: Scene) -> Iterator[Finding]:
        lag = scene.lag_seconds
        if lag is None:
            return
        blind = lag > scene.blind_after_seconds
        if blind or lag > scene.degraded_after_seconds + DEGRADED_FOR_SECONDS:
            yield Finding(
                key=self.key(),
                rule=self.name,
                severity=Severity.CRITICAL if blind else Severity.WARNING,
                summary=(
                    f"the observer is {'blind' if blind else 'late'}, nothing of the last {lag:.0f}"
                    " s is known: look at RabbitMQ and the processors (`manman-status doctor`)."
                    " Nobody is given up meanwhile"
                ),
                evidence={"lag_seconds": round(lag, 1)},
                causes=(NoProcessor.key(),),
            )

    def over(self, alert: OpenAlert, scene: Scene) -> str | None:  # noqa: ARG002
        lag = scene.lag_seconds
        return (
            "everything is seen again"
            if lag is not None and lag <= scene.degraded_after_seconds
            else None
        )
