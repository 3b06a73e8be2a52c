"""Workers report and never send a heartbeat: whether they live is unknown, and nobody is alerted
when they die."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from manman_status.alerts.rule import Finding, OpenAlert, Rule
from manman_status.alerts.scene import Scene
from manman_status.domain.alert import Severity
from manman_status.domain.fleet import unwatched_text
from manman_status.store.unwatched import count_unwatched

if TYPE_CHECKING:
    from manman_status.store.pool import Connection


class UnwatchedWorkers(Rule[int]):
    """Opens when a worker had time to send a heartbeat and did not. Over when each has sent one, or
    has ended."""

    name = "unwatched_workers"
    unread = 0

    async def read(self, connection: Connection, scene: Scene) -> int:  # noqa: ARG002
        return await count_unwatched(connection)

    def find(self, scene: Scene) -> Iterator[Finding]:
        number = scene.seen(UnwatchedWorkers)
        if number:
            yield Finding(
                key=self.key(),
                rule=self.name,
                severity=Severity.INFO,
                summary=(
                    f"{unwatched_text(number)}, and nobody is alerted when one dies. Run"
                    " `manman-status bridge` beside ManMan's database, use the reporter, or"
                    " publish HEARTBEAT for each"
                ),
                evidence={"workers": number},
            )

    def over(self, alert: OpenAlert, scene: Scene) -> str | None:  # noqa: ARG002
        return None if scene.seen(UnwatchedWorkers) else "every worker that reports is watched"
