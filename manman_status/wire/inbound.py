"""Bytes from the broker to events. Everything that cannot be understood becomes a reason, never an exception."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import blake2b
from typing import Annotated, Any, TypeAlias

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
from manman_status.wire.notices import CANARY, RELEASE_GUARD

MAX_BODY_BYTES = 1024 * 1024
MAX_EVENTS = 1_000
MAX_BIGINT = 2**63 - 1
LAST_MICROSECOND = 253_402_300_799_000_000  # within the year 9999
MAX_LABELS = 64
MAX_LABEL_KEY = 63
MAX_LABEL_VALUE = 255

IGNORED_COMMANDS = frozenset({"START", "STOP", "STDIN"})
"""ManMan's own commands to its workers: they pass on the same exchange and are not ours."""


class Poison(msgspec.Struct, frozen=True):
    """An event nobody can understand: what was wrong and where, and its bytes as they came."""

    reason: str
    body: bytes


class CanarySent(msgspec.Struct, frozen=True, tag=True):
    """A processor's own message, sent at this database time through the same exchange as everybody's."""

    sent_at: datetime


class GuardReleased(msgspec.Struct, frozen=True, tag=True):
    """A person asks that the held workers of a group be lost now."""

    group: str


Notice: TypeAlias = CanarySent | GuardReleased
"""What concerns the processors themselves and no row of the fleet."""


class Decoded(msgspec.Struct):
    events: list[ReportedEvent] = msgspec.field(default_factory=list)
    notices: list[Notice] = msgspec.field(default_factory=list)
    ignored: int = 0
    poison: list[Poison] = msgspec.field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.events) + len(self.notices) + self.ignored + len(self.poison)


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


_decode_any = msgspec.json.Decoder(WireEvent | list[WireEvent]).decode
_decode_one = msgspec.json.Decoder(WireEvent).decode
_decode_servers = msgspec.json.Decoder(list[WireServer] | None).decode
_decode_parts = msgspec.json.Decoder(list[msgspec.Raw]).decode
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode(body: bytes) -> Decoded:
    """One message's events in their order. Never raises: an unreadable body is one poison, an unreadable
    element of an array is poison alone, with its own bytes."""
    decoded = Decoded()
    try:
        if len(body) > MAX_BODY_BYTES:
            raise PoisonMessage(f"body of {len(body)} bytes; at most {MAX_BODY_BYTES}")
        if not body:
            raise PoisonMessage("empty body")
        wired = _decode_any(body)
    except PoisonMessage as error:
        decoded.poison.append(Poison(error.reason, body))
    except UNREADABLE as error:
        _decode_separately(body, error, decoded)
    else:
        if isinstance(wired, WireEvent):
            _add(wired, body, decoded)
        elif problem := _count_problem(len(wired)):
            decoded.poison.append(Poison(problem, body))
        else:
            for event in wired:
                _add(event, b"", decoded)
            _name_bodies(body, decoded)
    return decoded


def _decode_separately(body: bytes, error: Exception, decoded: Decoded) -> None:
    """Find which elements of an array are unreadable; a body that is no array is unreadable as a whole."""
    try:
        parts = _decode_parts(body)
    except UNREADABLE:
        decoded.poison.append(Poison(_reason(error), body))
        return
    if problem := _count_problem(len(parts)):
        decoded.poison.append(Poison(problem, body))
        return
    for part in map(bytes, parts):
        try:
            _add(_decode_one(part), part, decoded)
        except UNREADABLE as fault:
            decoded.poison.append(Poison(_reason(fault), part))


def _name_bodies(body: bytes, decoded: Decoded) -> None:
    """Give the poison of an array its own bytes: rare, so the array is only taken apart again then."""
    if not decoded.poison:
        return
    decoded.events.clear()
    decoded.notices.clear()
    decoded.poison.clear()
    decoded.ignored = 0
    for part in map(bytes, _decode_parts(body)):
        _add(_decode_one(part), part, decoded)


def find_body(body: bytes, event: ReportedEvent) -> bytes:
    """The bytes of this event within the message it came in."""
    try:
        parts = [bytes(part) for part in _decode_parts(body)]
    except UNREADABLE:
        return body
    return next((part for part in parts if decode(part).events == [event]), body)


def _count_problem(count: int) -> str:
    return "" if 1 <= count <= MAX_EVENTS else f"array of {count} events; 1 to {MAX_EVENTS} are allowed"


def _reason(error: Exception) -> str:
    match error:
        case UnicodeDecodeError():
            return f"not UTF-8: {error.reason} at byte {error.start}"
        case RecursionError():
            return "nested too deeply"
        case msgspec.ValidationError():
            return str(error)
        case _:
            return f"not JSON: {error}"


def _add(wired: WireEvent, body: bytes, decoded: Decoded) -> None:
    try:
        if wired.command_type is None:
            decoded.events.append(_status_info(wired))
        elif wired.command_type in IGNORED_COMMANDS:
            decoded.ignored += 1
        elif build := COMMANDS.get(wired.command_type):
            decoded.events.append(build(wired, _order(wired)))
        elif wired.command_type == CANARY:
            decoded.notices.append(CanarySent(_canary_time(wired)))
        elif wired.command_type == RELEASE_GUARD:
            decoded.notices.append(GuardReleased(_group(wired)))
        else:
            raise PoisonMessage(f"unknown command_type {wired.command_type[:40]!r} - at `$.command_type`")
    except PoisonMessage as error:
        decoded.poison.append(Poison(error.reason, body))


def _order(wired: WireEvent) -> dict[str, Any]:
    for name, value in (("incarnation", wired.incarnation), ("seq", wired.seq)):
        if value is not None and not 1 <= value <= MAX_BIGINT:
            raise PoisonMessage(f"{value} is not 1 to 2^63-1 - at `$.{name}`")
    return {"incarnation": wired.incarnation, "seq": wired.seq, "sent_at": _microseconds(wired.sent_at)}


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
        raise PoisonMessage(str(error).replace("`$", "`$.servers")) from None
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


def _canary_time(wired: WireEvent) -> datetime:
    if wired.sent_at is None or wired.sent_at.tzinfo is None:
        raise PoisonMessage("a canary needs a time with a zone - at `$.sent_at`")
    return wired.sent_at


def _group(wired: WireEvent) -> str:
    group = _argument(wired, 0, "a group")
    if not isinstance(group, str) or len(group) > MAX_LABEL_VALUE or "\0" in group:
        raise PoisonMessage("the group is no label's value - at `$.command_args[0]`")
    return group


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


COMMANDS: dict[str, Callable[[WireEvent, dict[str, Any]], ReportedEvent]] = {
    "HEARTBEAT": _heartbeat,
    "WORKER_STARTED": _worker_started,
    "WORKER_STOPPED": _worker_stopped,
    "SERVER_STARTED": _server_started,
    "SERVER_STOPPED": _server_stopped,
}
