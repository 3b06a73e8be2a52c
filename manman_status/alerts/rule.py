"""A rule, the findings it makes, and the keys of alerts, which are made here alone."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import msgspec

from manman_status.domain.alert import Severity, Subject
from manman_status.domain.rows import Evidence

if TYPE_CHECKING:
    from manman_status.alerts.scene import Memory, Scene
    from manman_status.store.pool import Connection


OPEN_AT_ONCE = 5_000
"""The bound of open alerts of one rule, beside the one that stands for the rest."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a rule has found wrong. The same `key` is the same alert until that is over.

    `causes` are keys of alerts of which this would be a part: the first that is open counts.
    """

    key: str
    rule: str
    severity: Severity
    summary: str
    subject: Subject = Subject()
    evidence: Evidence = {}
    causes: tuple[str, ...] = ()


class OpenAlert(msgspec.Struct, frozen=True, kw_only=True):
    """An alert that is not over. `part_of` is the key of its cause."""

    key: str
    rule: str
    severity: Severity
    summary: str
    subject: Subject
    opened_at: datetime
    part_of: str | None = None


Seen = TypeVar("Seen")


class Rule(Generic[Seen]):
    """One kind of thing that can be wrong, and what it reads to detect it.

    `find` and `over` are pure functions of the scene: time is in it, and `scene.seen(SomeRule)` is
    what that rule has read. A new rule is a module in `alerts/rules/` and a line in `RULES`.
    """

    name: ClassVar[str]
    causes: ClassVar[tuple[type[Rule[Any]], ...]] = ()
    """The rules whose alerts can be causes of this rule's: they are judged before it, wherever
    they stand in `RULES`. A finding is never a part of an alert of any other rule."""
    unread: ClassVar[Any] = None
    """The value of `seen` in a scene for which the rule has read nothing."""

    async def read(self, connection: Connection, scene: Scene) -> Seen:  # noqa: ARG002
        """Read what this rule needs beyond the scene, each query within a bound."""
        seen: Seen = self.unread
        return seen

    def find(self, scene: Scene) -> Iterable[Finding]:
        """Find what is wrong now, or went wrong by the changes since the last look. An open alert
        may be found again: its summary and subject are then brought up to date, and its severity
        when it is worse."""
        raise NotImplementedError

    def over(self, alert: OpenAlert, scene: Scene) -> str | None:
        """Say why an alert of this rule is over; None while it is not."""
        raise NotImplementedError

    def remember(self, memory: Memory, scene: Scene) -> Memory:  # noqa: ARG002
        """Add to the memory what this rule must know at the next look."""
        return memory

    @classmethod
    def key(cls, *about: object) -> str:
        """The key of the alert of this rule about one thing."""
        return ":".join((cls.name, *map(str, about)))


def rule_of(key: str) -> str:
    return key.partition(":")[0]


def fold_key(rule: str) -> str:
    """The key of the alert that stands for all findings of a rule beyond its bound."""
    return f"{rule}:more:0"
