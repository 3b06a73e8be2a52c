"""The messages of one worker, encoded for the broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET

from manman_status.wire.messages import (
    AnyCommand,
    Heartbeat,
    RunningServer,
    ServerStarted,
    ServerStopped,
    WorkerStarted,
    WorkerStopped,
)
from manman_status.wire.topology import (
    instance_lifecycle_key,
    worker_heartbeat_key,
    worker_lifecycle_key,
)


class Report(msgspec.Struct, frozen=True):
    """One message. A durable one (lifecycle) must arrive; a heartbeat that is lost costs nothing.
    `headers` are the sender's trace context."""

    routing_key: str
    body: bytes
    durable: bool
    headers: dict[str, str] = {}


def utc_now() -> datetime:
    return datetime.now(UTC)


class Incarnation:
    """One life of a worker: builds its events, and numbers them in the order of its calls.

    `number` is the start of that life in µs since the epoch; a later life needs a larger one. With
    None the events carry neither incarnation nor number, and are ordered by their times.
    """

    def __init__(
        self,
        worker_id: int,
        *,
        number: int | None,
        first_seq: int = 1,
        interval_seconds: float | None = None,
        labels: dict[str, str] | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.worker_id = worker_id
        self.number = number
        self._interval_seconds = interval_seconds
        self._labels = labels
        self._clock = clock
        self._seq = first_seq - 1

    def set_label(self, name: str, value: str) -> None:
        """Set a label of all heartbeats from now on."""
        self._labels = {**(self._labels or {}), name: value}

    def worker_started(self) -> Report:
        return self._lifecycle(
            WorkerStarted([str(self.worker_id)], **self._order(), **self._description())
        )

    def heartbeat(self, servers: Iterable[RunningServer] | None = None) -> Report:
        """Build a heartbeat. `servers` is the complete inventory: what it does not list has ended.
        None says nothing about servers."""
        command = Heartbeat(
            [str(self.worker_id)],
            **self._order(),
            **self._description(),
            servers=UNSET if servers is None else msgspec.Raw(msgspec.json.encode([*servers])),
        )
        return Report(
            worker_heartbeat_key(self.worker_id), msgspec.json.encode(command), durable=False
        )

    def worker_stopped(self) -> Report:
        return self._lifecycle(WorkerStopped([str(self.worker_id)], **self._order()))

    def server_started(
        self, instance_id: int, *, game_server_config_id: int | None = None
    ) -> Report:
        arguments = _given(instance_id, self.worker_id, game_server_config_id)
        return self._lifecycle(ServerStarted(arguments, **self._order()), instance_id)

    def server_stopped(self, instance_id: int, *, exit_code: int | None = None) -> Report:
        arguments = _given(instance_id, self.worker_id, exit_code)
        return self._lifecycle(ServerStopped(arguments, **self._order()), instance_id)

    def _order(self) -> dict[str, Any]:
        """The fields that order the next event among the others."""
        self._seq += 1
        return {
            "incarnation": self.number,
            "seq": None if self.number is None else self._seq,
            "sent_at": self._clock(),
        }

    def _description(self) -> dict[str, Any]:
        """The fields that describe the worker."""
        return {"interval_seconds": self._interval_seconds, "labels": self._labels or None}

    def _lifecycle(self, command: AnyCommand, instance_id: int | None = None) -> Report:
        key = (
            worker_lifecycle_key(self.worker_id)
            if instance_id is None
            else instance_lifecycle_key(instance_id)
        )
        return Report(key, msgspec.json.encode(command), durable=True)


def microseconds_now() -> int:
    return time.time_ns() // 1_000


def _given(*arguments: int | None) -> list[str]:
    return [str(argument) for argument in arguments if argument is not None]
