"""Crashes of server instances, as two rules look at them: each crash, and those that repeat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec

from manman_status.alerts.scene import Change, WorkerNow
from manman_status.domain.status import Entity, Reason, StatusType

if TYPE_CHECKING:
    from manman_status.store.pool import Connection

SERVER_CRASHED: Final = "server_crashed"
"""The rule whose alerts are the crashes."""
REPORTED = (Reason.REPORTED, Reason.EXIT_CODE)
"""The reasons of a crash that its worker reported."""

Culprit = tuple[str, int]
"""`config` or `worker`, and its id."""


class Crash(msgspec.Struct, frozen=True):
    """A crash of a server instance. `was_inferred` when nobody reported it: the instance is gone
    from its worker's inventory."""

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


class Crashes:
    """Crashes, oldest first, and the workers they happened on. `last_at` is by culprit."""

    def __init__(
        self, crashes: Sequence[Crash] = (), workers: Mapping[int, WorkerNow] | None = None
    ) -> None:
        self.all = crashes
        self.workers = workers or {}
        self.last_at: dict[Culprit, datetime] = {}
        for crash in crashes:
            for culprit in crash.culprits:
                self.last_at[culprit] = max(crash.at, self.last_at.get(culprit, crash.at))


def is_crash(change: Change) -> bool:
    """False for a server that was lost before, and for one that a draining worker has dropped. A
    server that its controller reports as lost counts as crashed."""
    if change.entity is not Entity.SERVER_INSTANCE or change.old_status is StatusType.LOST:
        return False
    if change.reason in REPORTED:
        return True
    dropped = change.new_status is StatusType.CRASHED or change.was_left
    return dropped and not (change.worker is not None and change.worker.is_draining)


def crash_of(change: Change) -> Crash:
    worker_id = None if change.worker is None else change.worker.worker_id
    return Crash(change.at, worker_id, change.game_server_config_id, change.reason not in REPORTED)


def crashes_in(changes: Iterable[Change]) -> list[Crash]:
    return [crash_of(change) for change in changes if is_crash(change)]


CRASHES = """
SELECT (evidence ->> 'at')::timestamptz AS at, worker_id, game_server_config_id,
       NOT evidence ->> 'reason' = ANY($2::text[]) AS was_inferred
  FROM alerts
 WHERE rule = $4 AND opened_at > now() - $1::interval
 ORDER BY opened_at DESC
 LIMIT $3
"""


async def read_crashes(connection: Connection, *, within: timedelta, at_most: int) -> list[Crash]:
    """The crashes for which an alert was opened, oldest first; of very many the newest."""
    rows = await connection.fetch(CRASHES, within, REPORTED, at_most, SERVER_CRASHED)
    return sorted((Crash(*row) for row in rows), key=lambda crash: crash.at)
