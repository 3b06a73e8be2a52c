"""What the rules look at: all that has happened since they were last asked, and how things are now.

Everything is read in one transaction of the leader's, so it is of one moment; `now` is the
database's time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

import msgspec

from manman_status.domain.alerts.alert import OpenAlert
from manman_status.domain.clock import ClockStep
from manman_status.domain.labels import is_draining
from manman_status.domain.status import Entity, Reason, StatusType


class WorkerNow(msgspec.Struct, frozen=True):
    worker_id: int
    status: StatusType
    labels: Mapping[str, str] = {}

    @property
    def group(self) -> str:
        return self.labels.get("group", "")

    @property
    def is_draining(self) -> bool:
        return is_draining(self.labels)


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A transition to LOST or CRASHED, with the worker as it is now; None when that is not known.

    A server that `was_left` was active still when its worker had ended in its own way.
    `lost_servers` went with a worker, and `held_since` is when the guard began to hold its group,
    if it did until the worker was given up.
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


Culprit = tuple[str, int]
"""`config` or `worker`, and its id."""


class Crash(msgspec.Struct, frozen=True):
    """Of a server instance. `was_inferred` when nobody said so: it is gone from its worker's
    inventory."""

    at: datetime
    worker_id: int | None
    game_server_config_id: int | None
    was_inferred: bool = False

    @property
    def culprits(self) -> Iterator[Culprit]:
        if self.game_server_config_id is not None:
            yield "config", self.game_server_config_id
        if self.worker_id is not None:
            yield "worker", self.worker_id


class Flip(msgspec.Struct, frozen=True):
    """A worker became active, or was lost."""

    at: datetime
    is_up: bool


class Held(msgspec.Struct, frozen=True):
    """A group that the fleet guard holds."""

    group: str
    held: int
    group_size: int
    is_releasing: bool
    opened_at: datetime


class Duplicate(msgspec.Struct, frozen=True):
    """A worker as which two processes have beaten for one timeout, and still do, `since` the second
    was received."""

    worker: WorkerNow
    incarnation: int
    rival_incarnation: int
    rival_labels: Mapping[str, str]
    since: datetime


class Minute(msgspec.Struct, frozen=True):
    """How many workers were reported for the first time in the minute that begins `at`."""

    at: datetime
    new_workers: int


class Folded(msgspec.Struct, frozen=True):
    """How many findings of a rule found no room of their own, and the time of the newest."""

    number: int
    at: datetime


class Memory(msgspec.Struct, frozen=True):
    """What is not in the rows and has to be known the next time. `minutes` are those of the last
    ten with new workers, oldest first; `folded` is by rule."""

    dead_letters: int = 0
    dead_letters_grew_at: datetime | None = None
    minutes: tuple[Minute, ...] = ()
    folded: dict[str, Folded] = {}


class Unlisted(msgspec.Struct, frozen=True):
    """Workers that are lost or crashed without an alert of their own, and in how many groups."""

    workers: int
    groups: int


class Scene(msgspec.Struct, kw_only=True):
    now: datetime
    changes: Sequence[Change] = ()
    """Oldest first."""
    workers: Mapping[int, WorkerNow] = {}
    """Those that changed, that something crashed on and that open alerts are about, as they are
    now; one that is gone is not there."""
    instances: Mapping[int, StatusType] = {}
    """The server instances that open alerts are about, likewise."""
    crashes: Sequence[Crash] = ()
    """Of the last `CRASH_WINDOW`, with those among the changes; only looked up when one matters."""
    flips: Mapping[int, Sequence[Flip]] = {}
    """Of the workers that were lost now or flap, within `FLAP_WINDOW`; oldest first."""
    guards: Sequence[Held] = ()
    duplicates: Mapping[int, Duplicate] = {}
    lag_seconds: float | None = None
    """Of the observation; None before anything was observed."""
    degraded_after_seconds: float = 5.0
    blind_after_seconds: float = 30.0
    unjudged_seconds: float | None = None
    """How long the rules were not asked; None at the very first time."""
    clock_step: ClockStep | None = None
    """The last one of the database's clock."""
    dead_letters: int | None = None
    """In the dead-letter queue; None when the broker could not be asked."""
    dead_letters_unsent_since: datetime | None = None
    """Since when the oldest waits in the database for the dead-letter queue; None when none
    waits."""
    minutes: Sequence[Minute] = ()
    """Those of the last ten with new workers, oldest first."""
    workers_before: int | None = None
    """How many workers were known before those minutes; None when too few are new for it to
    matter."""
    unlisted: Unlisted | None = None
    """None while each lost worker has an alert of its own."""
    memory: Memory = Memory()
    open: dict[str, OpenAlert] = {}
    """By key, those that are found while judging too: changed by `begin` and `end` alone."""
    crashed_at: dict[Culprit, datetime] = {}
    """When each did last, of the crashes."""
    holding_since: dict[str, datetime] = {}
    """By group: since when the guard holds it."""
    _parts: Counter[str] = msgspec.field(default_factory=Counter)
    _numbers: Counter[str] = msgspec.field(default_factory=Counter)

    def __post_init__(self) -> None:
        # Looked up for each of thousands of alerts, and so not searched for.
        self._parts = Counter(
            alert.part_of for alert in self.open.values() if alert.part_of is not None
        )
        self._numbers = Counter(alert.rule for alert in self.open.values())
        self.holding_since = {guard.group: guard.opened_at for guard in self.guards}
        for crash in self.crashes:
            for culprit in crash.culprits:
                self.crashed_at[culprit] = max(crash.at, self.crashed_at.get(culprit, crash.at))

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
        """How many alerts of this rule are open."""
        return self._numbers[rule]

    def parts_of(self, key: str) -> int:
        """How many open alerts are part of this one."""
        return self._parts[key]
