"""Messages that nobody understands or that cannot be delivered are kept, and wait for a person."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from manman_status.alerts.rule import Finding, OpenAlert, Rule
from manman_status.alerts.scene import Memory, Scene
from manman_status.domain.alert import Severity

if TYPE_CHECKING:
    from manman_status.store.pool import Connection

QUIET = timedelta(minutes=10)
STUCK = timedelta(minutes=1)


# Each processor counts the dead letters at another moment: of several numbers, the older might seem
# to be the newer.
WAITING = """
SELECT (statistics ->> 'dead_letters_waiting')::bigint FROM processors, leases
 WHERE leases.name = 'leader' AND processor_id = holder
"""


class DeadLetters(Rule[int | None]):
    """Opens when more arrive. Over when the queue is empty, or when none has arrived for a
    while."""

    name = "dead_letters"

    async def read(self, connection: Connection, scene: Scene) -> int | None:  # noqa: ARG002
        """The number of letters in the queue; None when the broker did not answer."""
        waiting: int | None = await connection.fetchval(WAITING)
        return waiting

    def find(self, scene: Scene) -> Iterator[Finding]:
        waiting, before = scene.seen(DeadLetters), scene.memory.dead_letters
        if waiting is not None and waiting > before:
            yield Finding(
                key=self.key(),
                rule=self.name,
                severity=Severity.WARNING,
                summary=(
                    f"{waiting} dead letter{'s' if waiting > 1 else ''} in the queue:"
                    " `manman-status dead list` says what is wrong with them, `manman-status dead"
                    " replay` sends them again"
                ),
                evidence={"waiting": waiting, "arrived": waiting - before},
            )

    def over(self, alert: OpenAlert, scene: Scene) -> str | None:  # noqa: ARG002
        if scene.seen(DeadLetters) == 0:
            return "the queue is empty"
        grew_at = self.remember(scene.memory, scene).dead_letters_grew_at
        quiet = grew_at is None or scene.now - grew_at >= QUIET
        return f"none arrived for {QUIET.seconds // 60} minutes" if quiet else None

    def remember(self, memory: Memory, scene: Scene) -> Memory:
        waiting = scene.seen(DeadLetters)
        if waiting is None or waiting == memory.dead_letters:
            return memory
        grew_at = scene.now if waiting > memory.dead_letters else memory.dead_letters_grew_at
        return msgspec.structs.replace(memory, dead_letters=waiting, dead_letters_grew_at=grew_at)


UNSENT_SINCE = "SELECT min(at) FROM dead_letter_outbox"


class DeadLettersStuck(Rule[datetime | None]):
    """Dead letters wait in the database because the broker's queue does not take them. Over when
    none does."""

    name = "dead_letters_stuck"

    async def read(
        self,
        connection: Connection,
        scene: Scene,  # noqa: ARG002
    ) -> datetime | None:
        """The time since when the oldest waits; None when none waits."""
        since: datetime | None = await connection.fetchval(UNSENT_SINCE)
        return since

    def find(self, scene: Scene) -> Iterator[Finding]:
        since = scene.seen(DeadLettersStuck)
        if since is not None and scene.now - since > STUCK:
            yield Finding(
                key=self.key(),
                rule=self.name,
                severity=Severity.WARNING,
                summary=(
                    "Dead letters cannot be moved to the dead-letter queue. They are safe in the"
                    " database, which grows. Run `manman-status doctor`."
                ),
                evidence={"since": since},
            )

    def over(self, alert: OpenAlert, scene: Scene) -> str | None:  # noqa: ARG002
        since = scene.seen(DeadLettersStuck)
        return (
            None
            if since is not None and scene.now - since > STUCK
            else "the queue takes them again"
        )
