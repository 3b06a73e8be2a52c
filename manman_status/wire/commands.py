"""What one JSON object of a message means: a Command or a StatusInfo to an event."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import blake2b
from typing import Annotated, Any, TypeVar

import msgspec

from manman_status.domain.events import (
    Heartbeat,
    Inventory,
    InventoryEntry,
    ReportedEvent,
    ServerStarted,
    ServerStatusReported,
    ServerStopped,
    WorkerStarted,
    WorkerStatusReported,
    WorkerStopped,
)
from manman_status.domain.liveness import bounded_interval
from manman_status.domain.status import Entity, StatusType
from manman_status.errors import PoisonMessage
from manman_status.wire.notices import (
    ACKNOWLEDGE,
    CANARY,
    END_SILENCE,
    FORGET,
    RELEASE_GUARD,
    SILENCE,
    AlertAcknowledged,
    CanarySent,
    Forget,
    GuardReleased,
    Notice,
    SilenceAsked,
    SilenceEnded,
)
from manman_status.wire.reasons import UNREADABLE, shown, unreadable
from manman_status.wire.values import LAST_MICROSECOND, MAX_BIGINT, exit_code, integer

MAX_LABELS = 64
MAX_LABEL_KEY = 63
MAX_LABEL_VALUE = 255

Asked = TypeVar("Asked", SilenceAsked, SilenceEnded, AlertAcknowledged, Forget)

PLACE_HOLDERS = frozenset({"", "None", "null"})
"""Texts that hold the place of an optional argument that is not given."""

IGNORED_COMMANDS = frozenset({"START", "STOP", "STDIN"})
"""ManMan's own commands to its workers: they pass on the same exchange and are not ours."""


Id = Annotated[int, msgspec.Meta(ge=1, le=MAX_BIGINT)]


class ReportableStatus(StrEnum):
    """What can be reported: LOST is only ever concluded."""

    CREATED = "CREATED"
    INITIALIZING = "INITIALIZING"
    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    CRASHED = "CRASHED"


class WireServer(msgspec.Struct, gc=False):
    instance_id: Id
    game_server_config_id: Id | None = None
    status: ReportableStatus | None = None


class WireEvent(msgspec.Struct, gc=False):
    """A Command or a StatusInfo: which one is told by the fields that are there. Null counts as
    absent."""

    command_type: str | None = None
    command_args: list[Any] | None = None
    incarnation: int | None = None
    seq: int | None = None
    sent_at: datetime | None = None
    interval_seconds: float | None = None
    servers: msgspec.Raw = msgspec.Raw()
    labels: dict[str, str] | None = None
    entity_type: str | None = None
    identifier: str | int | None = None
    as_of: datetime | None = None
    status_type: ReportableStatus | None = None


_decode_servers = msgspec.json.Decoder(list[WireServer] | None).decode


def understand(wired: WireEvent) -> ReportedEvent | Notice | None:
    """None for what is not ours. Raises PoisonMessage, saying what is wrong and where."""
    if wired.command_type is None:
        return _status_info(wired)
    if wired.command_type in IGNORED_COMMANDS:
        return None
    if build := EVENTS.get(wired.command_type):
        return build(wired, _order(wired))
    if build_notice := NOTICES.get(wired.command_type):
        return build_notice(wired)
    raise PoisonMessage(
        "unknown command_type", at="$.command_type", found=f"{shown(wired.command_type)}:"
    )


def _order(wired: WireEvent) -> dict[str, Any]:
    incarnation, seq = wired.incarnation, wired.seq
    return {
        "incarnation": None
        if incarnation is None
        else epoch_microseconds(counter(incarnation, "$.incarnation")),
        "seq": None if seq is None else counter(seq, "$.seq"),
        "sent_at": microseconds(wired.sent_at),
    }


def counter(value: int, at: str) -> int | None:
    """An incarnation or a seq: 0 counts as not given, as does a field that was never set."""
    if value == 0:
        return None
    if not 1 <= value <= MAX_BIGINT:
        raise PoisonMessage("is not 1 to 2^63-1", at=at, found=shown(value))
    return value


def epoch_microseconds(number: int | None) -> int | None:
    """A time since the epoch in s, ms, µs or ns, as its size says, in µs. A number of another size
    stays as it is."""
    if number is None or 10**14 <= number < 10**18:
        return number
    if 10**9 <= number < 10**11:
        return number * 1_000_000
    if 10**12 <= number < 10**14:
        return number * 1_000
    return number // 1_000 if number >= 10**18 else number


def microseconds(time: datetime | None) -> int | None:
    """µs since the epoch; a time without a zone is UTC, which is what Python's
    `utcnow().isoformat()` sends. What lies outside 1970 to 9999 counts as the nearer of the two."""
    if time is None:
        return None
    since_epoch = round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1_000_000)
    return (
        since_epoch
        if 0 < since_epoch < LAST_MICROSECOND
        else min(max(since_epoch, 1), LAST_MICROSECOND)
    )


def identity(value: Any, at: str) -> int:
    number = integer(value)
    if number is None or not 1 <= number <= MAX_BIGINT:
        raise PoisonMessage("is no id of 1 to 2^63-1", at=at, found=shown(value))
    return number


def given(value: Any) -> Any:
    """None for what is not there, and for the place holders of optional arguments."""
    return None if isinstance(value, str) and value in PLACE_HOLDERS else value


def _argument(wired: WireEvent, index: int, name: str) -> Any:
    arguments = wired.command_args or ()
    if len(arguments) <= index:
        raise PoisonMessage(f"{wired.command_type} needs {name}", at=f"$.command_args[{index}]")
    return arguments[index]


def _id_argument(wired: WireEvent, index: int, name: str) -> int:
    return identity(_argument(wired, index, name), f"$.command_args[{index}]")


def _optional_argument(wired: WireEvent, index: int) -> Any:
    arguments = wired.command_args or ()
    return given(arguments[index]) if len(arguments) > index else None


def _labels(labels: dict[str, str] | None) -> dict[str, str] | None:
    if labels is None:
        return None
    check_label_count(labels)
    for key, value in labels.items():
        check_label(key, value)
    return labels


def check_label_count(labels: dict[str, Any]) -> None:
    if len(labels) > MAX_LABELS:
        raise PoisonMessage(
            f"labels are more than {MAX_LABELS}", at="$.labels", found=str(len(labels))
        )


def check_label(key: str, value: str) -> None:
    if not 1 <= len(key) <= MAX_LABEL_KEY:
        raise PoisonMessage(
            f"is no key of a label, which has 1 to {MAX_LABEL_KEY} characters",
            at="$.labels",
            found=shown(key),
        )
    if len(value) > MAX_LABEL_VALUE:
        raise PoisonMessage(
            f"has a value of more than {MAX_LABEL_VALUE} characters",
            at="$.labels",
            found=shown(key),
        )
    if "\0" in key or "\0" in value:
        raise PoisonMessage("has a NUL character", at="$.labels", found=shown(key))


def inventory(servers: msgspec.Raw) -> Inventory | None:
    """Checked now, but only taken apart when it says something new: most inventories repeat the one
    before."""
    raw = bytes(servers)
    if not raw:
        return None
    try:
        listed = _decode_servers(raw)
    except UNREADABLE as error:
        raise unreadable(error, at="$.servers") from None
    if listed is None:
        return None
    digest = int.from_bytes(blake2b(raw, digest_size=8).digest(), signed=True)
    return Inventory(digest or 1, lambda: _entries(listed))  # 0 stands for "none yet"


def _entries(servers: list[WireServer]) -> tuple[InventoryEntry, ...]:
    entries = {
        server.instance_id: InventoryEntry(
            server.instance_id,
            StatusType(server.status or StatusType.RUNNING),
            server.game_server_config_id,
        )
        for server in servers
    }
    return tuple(entries[instance_id] for instance_id in sorted(entries))


def _beat(wired: WireEvent) -> dict[str, Any]:
    interval = wired.interval_seconds
    return {
        "worker_id": _id_argument(wired, 0, "worker_id"),
        "interval_seconds": None if interval is None else bounded_interval(interval),
        "labels": _labels(wired.labels),
        "servers": inventory(wired.servers),
    }


def _heartbeat(wired: WireEvent, order: dict[str, Any]) -> Heartbeat:
    return Heartbeat(**order, **_beat(wired))


def _worker_started(wired: WireEvent, order: dict[str, Any]) -> WorkerStarted:
    return WorkerStarted(**order, **_beat(wired))


def _worker_stopped(wired: WireEvent, order: dict[str, Any]) -> WorkerStopped:
    return WorkerStopped(**order, worker_id=_id_argument(wired, 0, "worker_id"))


def _server_started(wired: WireEvent, order: dict[str, Any]) -> ServerStarted:
    config = _optional_argument(wired, 2)
    return ServerStarted(
        **order,
        instance_id=_id_argument(wired, 0, "instance_id"),
        worker_id=_id_argument(wired, 1, "worker_id"),
        game_server_config_id=None if config is None else identity(config, "$.command_args[2]"),
    )


def _server_stopped(wired: WireEvent, order: dict[str, Any]) -> ServerStopped:
    return ServerStopped(
        **order,
        instance_id=_id_argument(wired, 0, "instance_id"),
        worker_id=_id_argument(wired, 1, "worker_id"),
        exit_code=as_exit_code(_optional_argument(wired, 2)),
    )


def as_exit_code(value: Any) -> int | None:
    """Signals are negative in Python and above 255 on Windows, so any 64-bit number will do."""
    if value is None:
        return None
    code = exit_code(value)
    if code is None or not -MAX_BIGINT <= code <= MAX_BIGINT:
        raise PoisonMessage("is no exit code", at="$.command_args[2]", found=shown(value))
    return code


def _canary_sent(wired: WireEvent) -> CanarySent:
    if wired.sent_at is None or wired.sent_at.tzinfo is None:
        raise PoisonMessage("a canary needs a time with a zone", at="$.sent_at")
    given = wired.command_args or []
    processor_id, mac, clock_steps = [*given, *("", "", 0)[len(given) :]][:3]
    if not (
        isinstance(processor_id, str) and isinstance(mac, str) and isinstance(clock_steps, int)
    ):
        raise PoisonMessage("a canary needs two strings and a number", at="$.command_args")
    try:
        sent_at = wired.sent_at.astimezone(UTC)
    except OverflowError:  # at the ends of years 1 and 9999 another zone leaves what can be stored
        raise PoisonMessage("a time outside of years 1 to 9999", at="$.sent_at") from None
    return CanarySent(sent_at, processor_id, mac, clock_steps)


def _guard_released(wired: WireEvent) -> GuardReleased:
    group = _argument(wired, 0, "a group")
    if not isinstance(group, str) or len(group) > MAX_LABEL_VALUE or "\0" in group:
        raise PoisonMessage("the group is no label value", at="$.command_args[0]")
    return GuardReleased(group)


def _alert_notice(kind: type[Asked]) -> Callable[[WireEvent], Asked]:
    def build(wired: WireEvent) -> Asked:
        fields = _argument(wired, 0, "an object")
        if isinstance(fields, dict):
            fields = {name: value for name, value in fields.items() if value is not None}
        try:
            notice = msgspec.convert(fields, kind)
        except (*UNREADABLE, TypeError) as error:
            raise unreadable(error, at="$.command_args[0]") from None
        if rb"\u0000" in msgspec.json.encode(notice):
            raise PoisonMessage("a NUL character", at="$.command_args[0]")
        return notice

    return build


def _status_info(wired: WireEvent) -> WorkerStatusReported | ServerStatusReported:
    if wired.entity_type is None:
        raise PoisonMessage("neither a command_type nor an entity_type")
    if wired.identifier is None:
        raise PoisonMessage("no identifier", at="$.identifier")
    if wired.status_type is None:
        raise PoisonMessage("no status_type", at="$.status_type")
    identifier = identity(wired.identifier, "$.identifier")
    as_of = microseconds(wired.as_of)
    if wired.entity_type == Entity.WORKER:
        return WorkerStatusReported(
            sent_at=as_of, worker_id=identifier, status=StatusType(wired.status_type)
        )
    if wired.entity_type == Entity.SERVER_INSTANCE:
        return ServerStatusReported(
            sent_at=as_of, instance_id=identifier, status=StatusType(wired.status_type)
        )
    raise PoisonMessage(
        "unknown entity_type", at="$.entity_type", found=f"{shown(wired.entity_type)}:"
    )


EVENTS: dict[str, Callable[[WireEvent, dict[str, Any]], ReportedEvent]] = {
    "HEARTBEAT": _heartbeat,
    "WORKER_STARTED": _worker_started,
    "WORKER_STOPPED": _worker_stopped,
    "SERVER_STARTED": _server_started,
    "SERVER_STOPPED": _server_stopped,
}

NOTICES: dict[str, Callable[[WireEvent], Notice]] = {
    CANARY: _canary_sent,
    RELEASE_GUARD: _guard_released,
    SILENCE: _alert_notice(SilenceAsked),
    END_SILENCE: _alert_notice(SilenceEnded),
    ACKNOWLEDGE: _alert_notice(AlertAcknowledged),
    FORGET: _alert_notice(Forget),
}
