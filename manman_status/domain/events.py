"""Events that workers report, in the past tense, after the wire has been checked.

Times are µs since the epoch by the sender's clock; they order events and never decide who is alive.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeAlias, TypeVar

import msgspec

from manman_status.domain.status import StatusType

TOLERATED_TIME_AHEAD = 5 * 60 * 1_000_000
TOLERATED_INCARNATION_AHEAD = 24 * 3_600 * 1_000_000
"""µs beyond the database's clock at receipt. A host's clock may be wrong by less without harm."""

SAME_CLOCK = 3_600 * 1_000_000
"""µs. Dates that are too far ahead are of one clock, and comparable, when they differ by less."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Position: TypeAlias = tuple[int, int]
"""The place of an event among others about the same thing: `(incarnation, seq)`, or `(0, µs)` for
one that has only a time. Positions compare as tuples, so a position that the worker counted
outranks one that it merely dated."""


def microseconds(time: datetime) -> int:
    return (time - EPOCH) // timedelta(microseconds=1)


def time_of(us: int) -> datetime:
    """The time of these µs since the epoch."""
    return EPOCH + timedelta(microseconds=us)


def utc_text(us: int) -> str:
    """The time of these µs since the epoch, as evidence has it."""
    return time_of(us).isoformat().replace("+00:00", "Z")


class InventoryEntry(msgspec.Struct, frozen=True, gc=False):
    instance_id: int
    status: StatusType
    game_server_config_id: int | None


class Inventory(msgspec.Struct, frozen=True):
    """The list of all instances of a worker at one moment. Equal digests mean equal inventories,
    and 0 is none's digest.

    `list_entries` returns them by id, each once.
    """

    digest: int
    list_entries: Callable[[], tuple[InventoryEntry, ...]]


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    incarnation: int | None = None
    seq: int | None = None
    sent_at: int | None = None
    ahead_at: int | None = None
    """`sent_at` as it came, when it was so far ahead that the time of receipt counts instead."""

    def time(self, received_at: int) -> int:
        """The time at which it was sent, else at which it was received."""
        return received_at if self.sent_at is None else self.sent_at

    def position(self, received_at: int) -> Position:
        if self.incarnation is None or self.seq is None:
            return (0, self.time(received_at))
        return (self.incarnation, self.seq)


class Heartbeat(Event, frozen=True, kw_only=True, gc=False):
    """The worker is alive. Fields that the heartbeat leaves out keep the value of the newest
    heartbeat that had them.

    One that `outlives_an_end` begins a new life when it follows an end by a timeout. All that its
    sender says comes by one queue in its order, so it is no late heartbeat of the life before.
    """

    worker_id: int
    interval_seconds: float | None = None
    labels: dict[str, str] | None = None
    servers: Inventory | None = None
    outlives_an_end: bool = False


class WorkerStarted(Heartbeat, frozen=True, kw_only=True, gc=False):
    """A new incarnation begins, and beats are promised from here on."""


class WorkerStopped(Event, frozen=True, kw_only=True, gc=False):
    worker_id: int


class ServerStarted(Event, frozen=True, kw_only=True, gc=False):
    instance_id: int
    worker_id: int
    game_server_config_id: int | None = None


class ServerStopped(Event, frozen=True, kw_only=True, gc=False):
    instance_id: int
    worker_id: int | None = None
    exit_code: int | None = None


class WorkerStatusReported(Event, frozen=True, kw_only=True, gc=False):
    """ManMan's StatusInfo about a worker; `sent_at` is its `as_of`."""

    worker_id: int
    status: StatusType


class ServerStatusReported(Event, frozen=True, kw_only=True, gc=False):
    """ManMan's StatusInfo about a server instance; `sent_at` is its `as_of`.

    A session of ManMan V2 reports itself by the same event. `reported_as` is its own word where
    our statuses have no such one, and LOST is the opinion of its controller.
    """

    instance_id: int
    status: StatusType
    reported_as: str = ""
    exit_code: int | None = None
    game_server_config_id: int | None = None


WorkerEvent: TypeAlias = Heartbeat | WorkerStarted | WorkerStopped | WorkerStatusReported
ServerEvent: TypeAlias = ServerStarted | ServerStopped | ServerStatusReported
ReportedEvent: TypeAlias = WorkerEvent | ServerEvent
AnyEvent = TypeVar("AnyEvent", bound=Event)


def as_received(event: AnyEvent, received_at: int) -> AnyEvent:
    """Drop values too far in the future when the event is received: such a time counts as the time
    of receipt, and an event with such an incarnation as one that has none. So no sender outranks
    what is yet to come."""
    incarnation, sent_at = event.incarnation, event.sent_at
    if incarnation is not None and incarnation > received_at + TOLERATED_INCARNATION_AHEAD:
        event = msgspec.structs.replace(event, incarnation=None, seq=None)
    if sent_at is not None and sent_at > received_at + TOLERATED_TIME_AHEAD:
        event = msgspec.structs.replace(event, sent_at=None, ahead_at=sent_at)
    return event
