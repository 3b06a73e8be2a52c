"""What a worker says, as JSON for the broker: CONTRACT §3."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import msgspec

from manman_status.domain.status import StatusType
from manman_status.wire.topology import (
    instance_lifecycle_key,
    worker_heartbeat_key,
    worker_lifecycle_key,
)


class Report(msgspec.Struct, frozen=True):
    """One message. A durable one (lifecycle) must arrive; a heartbeat that is lost costs nothing.
    `headers` are the trace context of whoever reported it."""

    routing_key: str
    body: bytes
    durable: bool
    headers: dict[str, str] = {}


class RunningServer(msgspec.Struct, frozen=True):
    """A server instance as heartbeats list it."""

    instance_id: int
    game_server_config_id: int | None = None
    status: StatusType = StatusType.RUNNING


class Command(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    command_type: str
    command_args: tuple[str, ...]
    incarnation: int | None = None
    seq: int | None = None
    sent_at: datetime | None = None
    interval_seconds: float | None = None
    servers: tuple[RunningServer, ...] | None = None
    labels: dict[str, str] | None = None


def utc_now() -> datetime:
    return datetime.now(UTC)


class Incarnation:
    """One life of a worker: builds its events, numbered in the order in which they are asked for.

    `number` is the start of that life in µs since the epoch; a later life needs a larger one. With
    None the events carry neither incarnation nor number, and stand in the order of their times.
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
        """Of all heartbeats from now on."""
        self._labels = {**(self._labels or {}), name: value}

    def worker_started(self) -> Report:
        command = self._command(
            "WORKER_STARTED",
            self.worker_id,
            interval_seconds=self._interval_seconds,
            labels=self._labels,
        )
        return _durable(worker_lifecycle_key(self.worker_id), command)

    def heartbeat(self, servers: Iterable[RunningServer] | None = None) -> Report:
        """`servers` is the complete inventory: what it does not list has ended. None says nothing
        about servers."""
        command = self._command(
            "HEARTBEAT",
            self.worker_id,
            interval_seconds=self._interval_seconds,
            servers=None if servers is None else tuple(servers),
            labels=self._labels,
        )
        return Report(
            worker_heartbeat_key(self.worker_id), msgspec.json.encode(command), durable=False
        )

    def worker_stopped(self) -> Report:
        return _durable(
            worker_lifecycle_key(self.worker_id), self._command("WORKER_STOPPED", self.worker_id)
        )

    def server_started(
        self, instance_id: int, *, game_server_config_id: int | None = None
    ) -> Report:
        arguments = _given(instance_id, self.worker_id, game_server_config_id)
        return _durable(
            instance_lifecycle_key(instance_id), self._command("SERVER_STARTED", *arguments)
        )

    def server_stopped(self, instance_id: int, *, exit_code: int | None = None) -> Report:
        arguments = _given(instance_id, self.worker_id, exit_code)
        return _durable(
            instance_lifecycle_key(instance_id), self._command("SERVER_STOPPED", *arguments)
        )

    def _command(
        self,
        command_type: str,
        *arguments: int,
        interval_seconds: float | None = None,
        servers: tuple[RunningServer, ...] | None = None,
        labels: dict[str, str] | None = None,
    ) -> Command:
        self._seq += 1
        return Command(
            command_type=command_type,
            command_args=tuple(map(str, arguments)),
            incarnation=self.number,
            seq=None if self.number is None else self._seq,
            sent_at=self._clock(),
            interval_seconds=interval_seconds,
            servers=servers,
            labels=labels or None,
        )


def microseconds_now() -> int:
    return time.time_ns() // 1_000


def _given(*arguments: int | None) -> list[int]:
    return [argument for argument in arguments if argument is not None]


def _durable(routing_key: str, command: Command) -> Report:
    return Report(routing_key, msgspec.json.encode(command), durable=True)
