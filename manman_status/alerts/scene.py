"""The scene that rules look at: what has happened since the last look, and how things are now.

Only the leader judges, and only what it read: `now` is the database's time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from manman_status.alerts.rule import OpenAlert, Rule, Seen
from manman_status.domain.clock import ClockStep
from manman_status.domain.labels import is_draining
from manman_status.domain.status import Entity, Reason, StatusType

if TYPE_CHECKING:
    from manman_status.store.pool import Connection


class WorkerNow(msgspec.Struct, frozen=True):
    """A worker as it is now."""

    worker_id: int
    status: StatusType
    labels: Mapping[str, str] = {}

    @property
    def group(self) -> str:
        return self.labels.get("group", "")

    @property
    def is_draining(self) -> bool:
        return is_draining(self.labels)


WORKERS = "SELECT worker_id, status, labels FROM workers WHERE worker_id = ANY($1::bigint[])"


async def read_workers(connection: Connection, worker_ids: Iterable[int]) -> dict[int, WorkerNow]:
    rows = await connection.fetch(WORKERS, list(worker_ids))
    return {
        row["worker_id"]: WorkerNow(row["worker_id"], StatusType(row["status"]), row["labels"])
        for row in rows
    }


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A transition to LOST or CRASHED, with the worker as it is now; None when that is not known.

    A server that `was_left` was active still when its worker had ended in its own way.
    `lost_servers` went with a worker, and `held_since` is when the guard began to hold its group,
    if it did until the worker was marked LOST.
    """

    at: datetime
    entity: Entity
    entity_id: int
    old_status: StatusType | None
    new_status: StatusType
    reason: Reason
    worker: WorkerNow | None = None
    game_server_config_id: int | None = None
    exit_code: int | None = None
    was_left: bool = False
    lost_servers: int = 0
    held_since: datetime | None = None


class Minute(msgspec.Struct, frozen=True):
    """The number of workers reported for the first time in the minute that begins `at`."""

    at: datetime
    new_workers: int


class Folded(msgspec.Struct, frozen=True):
    """The number of findings of a rule without an alert each, and the time of the newest."""

    number: int
    at: datetime


class Memory(msgspec.Struct, frozen=True):
    """Facts that no row has and that the next look needs. `minutes` are those of the last ten with
    new workers, oldest first; `folded` is by rule."""

    dead_letters: int = 0
    dead_letters_grew_at: datetime | None = None
    minutes: tuple[Minute, ...] = ()
    folded: dict[str, Folded] = {}


class Scene(msgspec.Struct, kw_only=True):
    now: datetime
    after: int = 0
    """The revision through which was judged before; the changes are those after it."""
    through: int = 0
    """The revision through which is judged now."""
    changes: Sequence[Change] = ()
    """Oldest first."""
    workers: Mapping[int, WorkerNow] = {}
    """The workers that changed and that open alerts are about, as they are now; one that is gone
    is not there."""
    instances: Mapping[int, StatusType] = {}
    """The server instances that changed and that open alerts are about, likewise."""
    lag_seconds: float | None = None
    """The lag of monitoring; None before anything was received."""
    degraded_after_seconds: float = 5.0
    blind_after_seconds: float = 30.0
    unjudged_seconds: float | None = None
    """The time for which nobody judged; None at the very first look."""
    clock_step: ClockStep | None = None
    """The last step of the database's clock."""
    memory: Memory = Memory()
    open: dict[str, OpenAlert] = {}
    """Open alerts by key, with those found while judging: changed by `begin` and `end` alone."""
    read: dict[type[Rule[Any]], Any] = {}
    """The rows that each rule has read."""
    _parts: Counter[str] = msgspec.field(default_factory=Counter)
    _numbers: Counter[str] = msgspec.field(default_factory=Counter)

    def __post_init__(self) -> None:
        # Looked up for each of thousands of alerts, and so not searched for.
        self._parts = Counter(
            alert.part_of for alert in self.open.values() if alert.part_of is not None
        )
        self._numbers = Counter(alert.rule for alert in self.open.values())

    def seen(self, rule: type[Rule[Seen]]) -> Seen:
        """The rows that this rule has read."""
        seen: Seen = self.read.get(rule, rule.unread)
        return seen

    def has_open(self, rule: type[Rule[Any]]) -> bool:
        return self._numbers[rule.name] > 0

    def begin(self, alert: OpenAlert) -> None:
        self.open[alert.key] = alert
        self._numbers[alert.rule] += 1
        if alert.part_of is not None:
            self._parts[alert.part_of] += 1

    def end(self, key: str) -> None:
        alert = self.open.pop(key)
        self._numbers[alert.rule] -= 1
        if alert.part_of is not None:
            self._parts[alert.part_of] -= 1

    def number_of(self, rule: str) -> int:
        """Count the open alerts of this rule."""
        return self._numbers[rule]

    def parts_of(self, key: str) -> int:
        """Count the open alerts that are part of this one."""
        return self._parts[key]
