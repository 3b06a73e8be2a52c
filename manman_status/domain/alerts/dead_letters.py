"""Somebody sends what nobody understands, or what cannot be delivered: it is kept, and waits for a
person."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import msgspec

from manman_status.domain.alerts.alert import Finding, OpenAlert, Severity
from manman_status.domain.alerts.scene import Memory, Scene

QUIET = timedelta(minutes=10)
STUCK = timedelta(minutes=1)


class DeadLetters:
    """Opens when more arrive. Over when the queue is empty, or when none has arrived for a
    while."""

    name = "dead_letters"

    def find(self, scene: Scene) -> Iterator[Finding]:
        waiting, before = scene.dead_letters, scene.memory.dead_letters
        if waiting is not None and waiting > before:
            yield Finding(
                key=self.name,
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
        if scene.dead_letters == 0:
            return "the queue is empty"
        grew_at = remember(scene).dead_letters_grew_at
        quiet = grew_at is None or scene.now - grew_at >= QUIET
        return f"none arrived for {QUIET.seconds // 60} minutes" if quiet else None


class DeadLettersStuck:
    """Dead letters wait in the database because the broker's queue does not take them. Over when
    none does."""

    name = "dead_letters_stuck"

    def find(self, scene: Scene) -> Iterator[Finding]:
        since = scene.dead_letters_unsent_since
        if since is not None and scene.now - since > STUCK:
            yield Finding(
                key=self.name,
                rule=self.name,
                severity=Severity.WARNING,
                summary=(
                    "Dead letters cannot be moved to the dead-letter queue. They are safe in the"
                    " database, which grows. Run `manman-status doctor`."
                ),
                evidence={"since": since},
            )

    def over(self, alert: OpenAlert, scene: Scene) -> str | None:  # noqa: ARG002
        since = scene.dead_letters_unsent_since
        return (
            None
            if since is not None and scene.now - since > STUCK
            else "the queue takes them again"
        )


def remember(scene: Scene) -> Memory:
    """What must be known the next time."""
    waiting, memory = scene.dead_letters, scene.memory
    if waiting is None or waiting == memory.dead_letters:
        return memory
    grew_at = scene.now if waiting > memory.dead_letters else memory.dead_letters_grew_at
    return msgspec.structs.replace(memory, dead_letters=waiting, dead_letters_grew_at=grew_at)
