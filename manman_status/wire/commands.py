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

MAX_BIGINT = 2**63 - 1
LAST_MICROSECOND = 253_402_300_799_000_000  # within the year 9999
MAX_LABELS = 64
MAX_LABEL_KEY = 63
MAX_LABEL_VALUE = 255

Asked = TypeVar("Asked", SilenceAsked, SilenceEnded, AlertAcknowledged, Forget)

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
    """A Command or a StatusInfo: which one is told by the fields that are there. Null counts as absent."""

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
    raise PoisonMessage(f"unknown command_type {wired.command_type[:40]!r} - at `$.command_type`")


def _order(wired: WireEvent) -> dict[str, Any]:
    for name, value in (("incarnation", wired.incarnation), ("seq", wired.seq)):
        if value is not None and not 1 <= value <= MAX_BIGINT:
            raise PoisonMessage(f"{value} is not 1 to 2^63-1 - at `$.{name}`")
    incarnation = None if wired.incarnation is None else epoch_microseconds(wired.incarnation)
    return {"incarnation": incarnation, "seq": wired.seq, "sent_at": _microseconds(wired.sent_at)}


def epoch_microseconds(number: int) -> int:
    """A time since the epoch in s, ms, µs or ns, as its size says, in µs. A number of another size stays as it is."""
    if 10**9 <= number < 10**11:
        return number * 1_000_000
    if 10**12 <= number < 10**14:
        return number * 1_000
    return number // 1_000 if number >= 10**18 else number


def _microseconds(time: datetime | None) -> int | None:
    """µs since the epoch; a time without a zone is UTC, which is what Python's `utcnow().isoformat()` sends.
    What lies outside 1970 to 9999 counts as the nearer of the two."""
    if time is None:
        return None
    microseconds = round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1_000_000)
    return min(max(microseconds, 1), LAST_MICROSECOND)


def _id(value: Any, place: str) -> int:
    number = -1
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, str) and len(value) <= 19 and value.isascii() and value.isdigit():
        number = int(value)
    if not 1 <= number <= MAX_BIGINT:
        shown = repr(value)
        raise PoisonMessage(f"{shown if len(shown) <= 40 else shown[:40] + '…'} is no id of 1 to 2^63-1 - at `{place}`")
    return number


def _argument(wired: WireEvent, index: int, name: str) -> Any:
    arguments = wired.command_args or ()
    if len(arguments) <= index:
        raise PoisonMessage(f"{wired.command_type} needs {name} - at `$.command_args[{index}]`")
    return arguments[index]


def _id_argument(wired: WireEvent, index: int, name: str) -> int:
    return _id(_argument(wired, index, name), f"$.command_args[{index}]")


def _optional_argument(wired: WireEvent, index: int) -> Any:
    """None for what is not there, and for the empty or null place holders of positional arguments."""
    arguments = wired.command_args or ()
    value = arguments[index] if len(arguments) > index else None
    return None if value in ("", "None", "null") else value


def _labels(labels: dict[str, str] | None) -> dict[str, str] | None:
    if labels is None:
        return None
    if len(labels) > MAX_LABELS:
        raise PoisonMessage(f"{len(labels)} labels; at most {MAX_LABELS} - at `$.labels`")
    for key, value in labels.items():
        if not 1 <= len(key) <= MAX_LABEL_KEY or len(value) > MAX_LABEL_VALUE:
            raise PoisonMessage(
                f"a label's key has 1 to {MAX_LABEL_KEY} characters, its value at most {MAX_LABEL_VALUE}"
                f" - at `$.labels[{key[:MAX_LABEL_KEY]!r}]`"
            )
        if "\0" in key or "\0" in value:
            raise PoisonMessage(f"a NUL character - at `$.labels[{key!r}]`")
    return labels


def _inventory(servers: msgspec.Raw) -> Inventory | None:
    """Checked now, but only taken apart when it says something new: most inventories repeat the one before."""
    raw = bytes(servers)
    if not raw:
        return None
    try:
        listed = _decode_servers(raw)
    except msgspec.ValidationError as error:
        problem = str(error) if "`$" in str(error) else f"{error} - at `$`"  # msgspec does not name the root
        raise PoisonMessage(problem.replace("`$", "`$.servers")) from None
    if listed is None:
        return None
    digest = int.from_bytes(blake2b(raw, digest_size=8).digest(), signed=True)
    return Inventory(digest or 1, lambda: _entries(listed))  # 0 stands for "none yet"


def _entries(servers: list[WireServer]) -> tuple[InventoryEntry, ...]:
    entries = {
        server.instance_id: InventoryEntry(
            server.instance_id, StatusType(server.status or StatusType.RUNNING), server.game_server_config_id
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
        "servers": _inventory(wired.servers),
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
        game_server_config_id=None if config is None else _id(config, "$.command_args[2]"),
    )


def _server_stopped(wired: WireEvent, order: dict[str, Any]) -> ServerStopped:
    return ServerStopped(
        **order,
        instance_id=_id_argument(wired, 0, "instance_id"),
        worker_id=_id_argument(wired, 1, "worker_id"),
        exit_code=_exit_code(_optional_argument(wired, 2)),
    )


def _exit_code(value: Any) -> int | None:
    """Signals are negative in Python and above 255 on Windows, so any 64-bit number will do."""
    if value is None:
        return None
    digits = value.removeprefix("-") if isinstance(value, str) else ""
    if len(digits) <= 19 and digits.isascii() and digits.isdigit():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not -MAX_BIGINT <= value <= MAX_BIGINT:
        raise PoisonMessage(f"{str(value)[:40]!r} is no exit code - at `$.command_args[2]`")
    return value


def _canary_sent(wired: WireEvent) -> CanarySent:
    if wired.sent_at is None or wired.sent_at.tzinfo is None:
        raise PoisonMessage("a canary needs a time with a zone - at `$.sent_at`")
    return CanarySent(wired.sent_at)


def _guard_released(wired: WireEvent) -> GuardReleased:
    group = _argument(wired, 0, "a group")
    if not isinstance(group, str) or len(group) > MAX_LABEL_VALUE or "\0" in group:
        raise PoisonMessage("the group is no label's value - at `$.command_args[0]`")
    return GuardReleased(group)


def _alert_notice(kind: type[Asked]) -> Callable[[WireEvent], Asked]:
    def build(wired: WireEvent) -> Asked:
        fields = _argument(wired, 0, "an object")
        if isinstance(fields, dict):
            fields = {name: value for name, value in fields.items() if value is not None}
        try:
            notice = msgspec.convert(fields, kind)
        except msgspec.ValidationError as error:
            problem = str(error) if "`$" in str(error) else f"{error} - at `$`"
            raise PoisonMessage(problem.replace("`$", "`$.command_args[0]")) from None
        if rb"\u0000" in msgspec.json.encode(notice):
            raise PoisonMessage("a NUL character - at `$.command_args[0]`")
        return notice

    return build


def _status_info(wired: WireEvent) -> WorkerStatusReported | ServerStatusReported:
    if wired.entity_type is None:
        raise PoisonMessage("neither a command_type nor an entity_type")
    if wired.identifier is None:
        raise PoisonMessage("no identifier - at `$.identifier`")
    if wired.status_type is None:
        raise PoisonMessage("no status_type - at `$.status_type`")
    identifier = _id(wired.identifier, "$.identifier")
    as_of = _microseconds(wired.as_of)
    if wired.entity_type == Entity.WORKER:
        return WorkerStatusReported(sent_at=as_of, worker_id=identifier, status=StatusType(wired.status_type))
    if wired.entity_type == Entity.SERVER_INSTANCE:
        return ServerStatusReported(sent_at=as_of, instance_id=identifier, status=StatusType(wired.status_type))
    raise PoisonMessage(f"unknown entity_type {wired.entity_type[:40]!r} - at `$.entity_type`")


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
