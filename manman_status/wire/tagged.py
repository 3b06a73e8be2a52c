"""The usual form of each event: a struct that its `command_type` picks, and one step to the event.

Nearly all that is read is a heartbeat in exactly the form of the contract's table, and reading it
is much of what it costs. What these structs refuse is not wrong yet: it is read again, liberally.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, TypeAlias

import msgspec

from manman_status.domain.events import (
    Heartbeat,
    ReportedEvent,
    ServerStarted,
    ServerStopped,
    WorkerStarted,
    WorkerStopped,
)
from manman_status.domain.liveness import bounded_interval
from manman_status.errors import PoisonMessage
from manman_status.wire.commands import (
    MAX_LABEL_KEY,
    MAX_LABEL_VALUE,
    MAX_LABELS,
    as_exit_code,
    epoch_microseconds,
    given,
    identity,
    inventory,
    microseconds,
)
from manman_status.wire.values import MAX_BIGINT

Counter: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=MAX_BIGINT)]
Labels: TypeAlias = Annotated[
    dict[
        Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_LABEL_KEY)],
        Annotated[str, msgspec.Meta(max_length=MAX_LABEL_VALUE)],
    ],
    msgspec.Meta(max_length=MAX_LABELS),
]


class _Tagged(msgspec.Struct, tag_field="command_type", gc=False):
    command_args: list[str | int | None]
    incarnation: Counter | None = None
    seq: Counter | None = None
    sent_at: datetime | None = None


class _Beat(_Tagged, gc=False):
    interval_seconds: float | None = None
    servers: msgspec.Raw = msgspec.Raw()
    labels: Labels | None = None

    def event(self) -> Heartbeat:
        return self._as(Heartbeat)

    def _as(self, kind: type[Heartbeat]) -> Heartbeat:
        interval = self.interval_seconds
        return kind(
            incarnation=epoch_microseconds(self.incarnation),
            seq=self.seq,
            sent_at=microseconds(self.sent_at),
            worker_id=identity(self.command_args[0], ""),
            interval_seconds=None if interval is None else bounded_interval(interval),
            labels=self.labels,
            servers=inventory(self.servers),
        )


class _Heartbeat(_Beat, tag="HEARTBEAT", gc=False):
    pass


class _WorkerStarted(_Beat, tag="WORKER_STARTED", gc=False):
    def event(self) -> WorkerStarted:
        return self._as(WorkerStarted)  # type: ignore[return-value]


class _WorkerStopped(_Tagged, tag="WORKER_STOPPED", gc=False):
    def event(self) -> WorkerStopped:
        return WorkerStopped(
            incarnation=epoch_microseconds(self.incarnation),
            seq=self.seq,
            sent_at=microseconds(self.sent_at),
            worker_id=identity(self.command_args[0], ""),
        )


class _ServerStarted(_Tagged, tag="SERVER_STARTED", gc=False):
    def event(self) -> ServerStarted:
        instance_id, worker_id, *others = self.command_args
        config = given(others[0]) if others else None
        return ServerStarted(
            incarnation=epoch_microseconds(self.incarnation),
            seq=self.seq,
            sent_at=microseconds(self.sent_at),
            instance_id=identity(instance_id, ""),
            worker_id=identity(worker_id, ""),
            game_server_config_id=None if config is None else identity(config, ""),
        )


class _ServerStopped(_Tagged, tag="SERVER_STOPPED", gc=False):
    def event(self) -> ServerStopped:
        instance_id, worker_id, *others = self.command_args
        return ServerStopped(
            incarnation=epoch_microseconds(self.incarnation),
            seq=self.seq,
            sent_at=microseconds(self.sent_at),
            instance_id=identity(instance_id, ""),
            worker_id=identity(worker_id, ""),
            exit_code=as_exit_code(given(others[0]) if others else None),
        )


Tagged: TypeAlias = _Heartbeat | _WorkerStarted | _WorkerStopped | _ServerStarted | _ServerStopped

_decode = msgspec.json.Decoder(Tagged | list[Tagged]).decode

ESCAPED_NUL = rb"\u0000"
"""The only form in which JSON can hold the character that PostgreSQL refuses in a label."""


def decode_tagged(body: bytes) -> list[ReportedEvent]:
    """The events of a body in the usual form. Raises whatever another body makes it raise."""
    if ESCAPED_NUL in body:
        raise PoisonMessage("a NUL character")
    wired = _decode(body)
    return [each.event() for each in wired] if isinstance(wired, list) else [wired.event()]
