"""The second reading of an event, for those that the strict decoder refuses.

It is liberal where nothing is lost by it, and it leaves out alone what cannot be understood: a
worker with one bad label in every heartbeat is alive, and must not end as LOST. The cost of a wrong
guess decides what may be left out:

- HEARTBEAT: every field. The next one corrects it.
- Lifecycle events and StatusInfo: what merely describes (config id, interval, labels, servers).
  What decides the status or the place in the order may not be left out (exit code, incarnation,
  seq, time): the first of two ends stands, so a half-understood one would stand for good. The whole
  event waits as a dead letter for `dead replay` instead.
- Inventories: whole or not at all, as a server that is not listed counts as ended.
- Labels: each alone. But a bad `group` takes the others with it, so that the worker stays in the
  group it was in.

Control messages are never read liberally, as they come from our own programs; but null is absent in
them as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import msgspec

from manman_status.domain.events import ReportedEvent
from manman_status.domain.status import Entity
from manman_status.errors import PoisonMessage
from manman_status.wire.control import CONTROL_COMMANDS, AnyControlCommand, ControlMessage
from manman_status.wire.messages import (
    COMMANDS,
    IGNORED_COMMANDS,
    AnyCommand,
    Heartbeat,
    ReportableStatus,
    RunningServer,
    ServerStarted,
    StatusInfo,
)
from manman_status.wire.reasons import UNREADABLE, shown, unreadable
from manman_status.wire.values import (
    check_label,
    check_label_count,
    counter,
    identity,
    instant,
    is_placeholder,
    label_text,
    number,
)

Value = TypeVar("Value")

NOTHING = b"null"
GROUP = "group"
MOST_SECONDS = 10**9
"""A bound far beyond any interval: an integer may be larger than a float can hold."""
ESCAPED_NUL = rb"\u0000"
"""The only form in which JSON can hold the character that PostgreSQL refuses."""

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_value = msgspec.json.Decoder().decode


class Read(NamedTuple):
    """The meaning of an event, and what was left out of it."""

    meaning: ReportedEvent | ControlMessage | None
    left_out: list[PoisonMessage]


def read_liberally(event: bytes) -> Read:
    """Read one event that the strict decoder refused. Raises PoisonMessage, or what msgspec
    raises."""
    reading = _Reading(_decode_fields(event))
    kind = reading.take("command_type", _text)
    if kind is None:
        return Read(_status_info(reading).meaning(), reading.left_out)
    if kind in CONTROL_COMMANDS:
        return Read(_control(event), [])
    if kind.upper() in IGNORED_COMMANDS:
        return Read(None, [])
    if kind.upper() not in COMMANDS:
        raise PoisonMessage("unknown command_type", at="$.command_type", found=f"{shown(kind)}:")
    return Read(_command(reading, kind.upper()).meaning(), reading.left_out)


def find_sender(event: bytes) -> str:
    """Find the sender of an event that was refused: `worker 7`, or an empty text when it is
    unknown."""
    try:
        reading = _Reading(_decode_fields(event))
        kind = reading.take("command_type", _text)
        if kind is None and (reading.take("entity_type", _text) or "").lower() == Entity.WORKER:
            worker_id = reading.take("identifier", identity)
        else:
            place = COMMANDS[(kind or "").upper()].ARGUMENTS.index("worker_id")
            worker_id = identity((reading.take("command_args", _array) or [])[place], "")
    except (*UNREADABLE, PoisonMessage, LookupError):
        return ""
    return f"worker {worker_id}" if worker_id else ""


class _Reading:
    """The fields of an event, each decoded by itself, so that one that fails leaves the others
    alone."""

    def __init__(self, fields: dict[str, msgspec.Raw]) -> None:
        self._fields = fields
        self.left_out: list[PoisonMessage] = []

    def take(
        self, name: str, read: Callable[[Any, str], Value], *, is_optional: bool = False
    ) -> Value | None:
        """Read a field with `read`; None when it is absent. An optional field that cannot be
        understood is left out; another raises PoisonMessage."""
        raw = self._fields.get(name)
        if raw is None or bytes(raw) == NOTHING:
            return None
        try:
            return read(_decode_value(raw), f"$.{name}")
        except (*UNREADABLE, PoisonMessage) as error:
            problem = unreadable(error, at=f"$.{name}")
            if not is_optional:
                raise problem from None
            self.left_out.append(problem)
            return None

    def take_optional(self, value: Any, read: Callable[[Any, str], Value], at: str) -> Value | None:
        """Read a value within a field, as `take` reads an optional field."""
        try:
            return None if is_placeholder(value) else read(value, at)
        except PoisonMessage as problem:
            self.left_out.append(problem)
            return None


def _control(message: bytes) -> ControlMessage:
    """Read a control message without its nulls. Raises PoisonMessage, or what msgspec raises."""
    if ESCAPED_NUL in message:
        raise PoisonMessage("a NUL character", at="$.command_args[0]")
    fields = _decode_value(message)
    match fields.get("command_args"):
        case [dict(request), *_]:
            fields["command_args"][0] = {
                name: value for name, value in request.items() if value is not None
            }
    command: AnyControlCommand = msgspec.convert(fields, AnyControlCommand)
    return command.meaning()


def _command(reading: _Reading, kind: str) -> AnyCommand:
    shape = COMMANDS[kind]
    is_heartbeat = kind == "HEARTBEAT"
    command = shape(reading.take("command_args", _array) or [])
    for place, name in enumerate(shape.ARGUMENTS[: shape.REQUIRED]):
        if len(command.command_args) <= place:
            raise PoisonMessage(f"{kind} needs {name}", at=f"$.command_args[{place}]")
    command.incarnation = reading.take("incarnation", counter, is_optional=is_heartbeat)
    command.seq = reading.take("seq", counter, is_optional=is_heartbeat)
    is_counted = bool(command.incarnation and command.seq)  # then its time does not order it
    command.sent_at = reading.take("sent_at", instant, is_optional=is_heartbeat or is_counted)
    match command:
        case Heartbeat():  # and WORKER_STARTED
            command.interval_seconds = reading.take("interval_seconds", _interval, is_optional=True)
            command.labels = reading.take(
                "labels", lambda labels, _: _labels(labels, reading), is_optional=True
            )
            servers = reading.take(
                "servers", lambda servers, at: _servers(servers, at, reading), is_optional=True
            )
            if servers is not None:
                command.servers = msgspec.Raw(msgspec.json.encode(servers))
        case ServerStarted(command_args=[_, _, config, *_]):
            command.command_args[2] = reading.take_optional(config, identity, "$.command_args[2]")
    return command


def _status_info(reading: _Reading) -> StatusInfo:
    entity_type = reading.take("entity_type", _entity)
    if entity_type is None:
        raise PoisonMessage("neither a command_type nor an entity_type")
    identifier = reading.take("identifier", identity)
    if identifier is None:
        raise PoisonMessage("no identifier", at="$.identifier")
    status_type = reading.take("status_type", _status)
    if status_type is None:
        raise PoisonMessage("no status_type", at="$.status_type")
    return StatusInfo(
        entity_type,
        identifier,
        status_type,
        reading.take("as_of", instant),
    )


def _text(value: Any, at: str) -> str:
    if not isinstance(value, str):
        raise PoisonMessage("is no text", at=at, found=shown(value))
    return value


def _entity(value: Any, at: str) -> Entity:
    try:
        return Entity(_text(value, at).lower())
    except ValueError:
        raise PoisonMessage("unknown entity_type", at=at, found=f"{shown(value)}:") from None


def _array(value: Any, at: str) -> list[Any]:
    if not isinstance(value, list):
        raise PoisonMessage("is no array", at=at, found=shown(value))
    return value


def _object(value: Any, at: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PoisonMessage("is no object", at=at, found=shown(value))
    return value


def _interval(value: Any, at: str) -> float:
    interval = number(value)
    if interval is None:
        raise PoisonMessage("is no number of seconds", at=at, found=shown(value))
    return float(min(max(interval, -MOST_SECONDS), MOST_SECONDS))


def _status(value: Any, at: str) -> ReportableStatus:
    try:
        return ReportableStatus(_text(value, at).upper())
    except ValueError:
        raise PoisonMessage(
            "is no status that can be reported", at=at, found=shown(value)
        ) from None


def _labels(value: Any, reading: _Reading) -> dict[str, str]:
    said = _object(value, "$.labels")
    check_label_count(said)
    labels: dict[str, str] = {}
    for key, content in said.items():
        if content is None:
            continue
        try:
            text = label_text(content)
            if text is None:
                raise PoisonMessage(
                    "is a label whose value is no text", at="$.labels", found=shown(key)
                )
            check_label(key, text)
        except PoisonMessage as problem:
            if key == GROUP:
                raise
            reading.left_out.append(problem)
        else:
            labels[key] = text
    return labels


def _servers(value: Any, at: str, reading: _Reading) -> list[RunningServer]:
    return [
        _server(entry, f"{at}[{place}]", reading) for place, entry in enumerate(_array(value, at))
    ]


def _server(value: Any, at: str, reading: _Reading) -> RunningServer:
    entry = _object(value, at)
    status = entry.get("status")
    return RunningServer(
        identity(entry.get("instance_id"), f"{at}.instance_id"),
        reading.take_optional(
            entry.get("game_server_config_id"), identity, f"{at}.game_server_config_id"
        ),
        None if status is None else _status(status, f"{at}.status"),
    )
