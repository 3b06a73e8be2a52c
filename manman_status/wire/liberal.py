"""The second reading of an event, for those that the strict decoder refuses.

It is liberal where nothing is lost by it, and it leaves out alone what cannot be understood: a
worker with one bad label in every heartbeat is alive, and must not end as LOST. What may be left
out is decided by what a wrong guess would cost:

- Of a HEARTBEAT every field may. The next one corrects it.
- Of a lifecycle event or StatusInfo, what merely describes may (config id, interval, labels,
servers).
  What decides its status or its place in the order may not (exit code, incarnation, seq, time): of
  two ends the first stands, so a half-understood one would stand for good. The whole event waits as
  a dead letter for `dead replay` instead.
- An inventory is taken whole or not at all: what it does not list counts as ended.
- A label is left out alone, but a bad `group` takes the others with it, so that the worker stays in
the
  group it was in.

Control messages are never read liberally: they come from our own programs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import msgspec

from manman_status.domain.events import ReportedEvent
from manman_status.domain.status import Entity
from manman_status.errors import PoisonMessage
from manman_status.wire.commands import (
    EVENTS,
    IGNORED_COMMANDS,
    NOTICES,
    ReportableStatus,
    WireEvent,
    WireServer,
    check_label,
    check_label_count,
    counter,
    given,
    identity,
    understand,
)
from manman_status.wire.notices import Notice
from manman_status.wire.reasons import UNREADABLE, shown, unreadable
from manman_status.wire.values import instant, integer, label_text, number

Value = TypeVar("Value")

NOTHING = b"null"
GROUP = "group"
PLACE_OF_WORKER = {
    "HEARTBEAT": 0,
    "WORKER_STARTED": 0,
    "WORKER_STOPPED": 0,
    "SERVER_STARTED": 1,
    "SERVER_STOPPED": 1,
}
"""The place of the worker's id among the arguments."""

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_value = msgspec.json.Decoder().decode


class Read(NamedTuple):
    """What an event means, and what of it was left out."""

    meaning: ReportedEvent | Notice | None
    left_out: list[PoisonMessage]


def read_liberally(event: bytes, refusal: PoisonMessage) -> Read:
    """Read one event that the strict decoder refused for `refusal`. Raises PoisonMessage."""
    try:
        fields = _decode_fields(event)
    except UNREADABLE:
        raise refusal from None
    reading = _Reading(fields)
    kind = reading.take("command_type", _text)
    if kind is None:
        return Read(understand(_status_info(reading)), reading.left_out)
    kind = kind.upper()
    if kind in IGNORED_COMMANDS:
        return Read(None, [])
    if kind in NOTICES or kind not in EVENTS:
        raise refusal
    return Read(understand(_command(reading, kind)), reading.left_out)


def find_sender(event: bytes) -> str:
    """Who sent an event that was refused, as far as it can be told: `worker 7`, or an empty
    text."""
    try:
        reading = _Reading(_decode_fields(event))
        kind = reading.take("command_type", _text)
        if kind is None and (reading.take("entity_type", _text) or "").lower() == Entity.WORKER:
            worker_id = reading.take("identifier", identity)
        else:
            place = PLACE_OF_WORKER[(kind or "").upper()]
            worker_id = identity((reading.take("command_args", _array) or [])[place], "")
    except (*UNREADABLE, PoisonMessage, LookupError):
        return ""
    return f"worker {worker_id}" if worker_id else ""


class _Reading:
    """The fields of an event, each decoded by itself, so that one that cannot be leaves the others
    alone."""

    def __init__(self, fields: dict[str, msgspec.Raw]) -> None:
        self._fields = fields
        self.left_out: list[PoisonMessage] = []

    def take(
        self, name: str, read: Callable[[Any, str], Value], *, is_optional: bool = False
    ) -> Value | None:
        """The field as `read` understands it, None when it is absent. One that is optional is left
        out when it cannot be understood; another raises PoisonMessage."""
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
        """The same for a value within a field."""
        try:
            return None if given(value) is None else read(value, at)
        except PoisonMessage as problem:
            self.left_out.append(problem)
            return None


def _command(reading: _Reading, kind: str) -> WireEvent:
    is_heartbeat = kind == "HEARTBEAT"
    wired = WireEvent(command_type=kind, command_args=reading.take("command_args", _array))
    wired.incarnation = reading.take("incarnation", _counter, is_optional=is_heartbeat)
    wired.seq = reading.take("seq", _counter, is_optional=is_heartbeat)
    is_counted = bool(wired.incarnation and wired.seq)  # its time orders nothing then
    wired.sent_at = reading.take("sent_at", instant, is_optional=is_heartbeat or is_counted)
    if kind in {"HEARTBEAT", "WORKER_STARTED"}:
        wired.interval_seconds = reading.take("interval_seconds", _interval, is_optional=True)
        wired.labels = reading.take(
            "labels", lambda labels, _: _labels(labels, reading), is_optional=True
        )
        servers = reading.take(
            "servers", lambda servers, at: _servers(servers, at, reading), is_optional=True
        )
        wired.servers = msgspec.Raw(b"" if servers is None else msgspec.json.encode(servers))
    if kind == "SERVER_STARTED" and wired.command_args is not None and len(wired.command_args) > 2:
        wired.command_args[2] = reading.take_optional(
            wired.command_args[2], identity, "$.command_args[2]"
        )
    return wired


def _status_info(reading: _Reading) -> WireEvent:
    entity_type = reading.take("entity_type", _text)
    return WireEvent(
        entity_type=None if entity_type is None else entity_type.lower(),
        identifier=reading.take("identifier", identity),
        status_type=reading.take("status_type", _status),
        as_of=reading.take("as_of", instant),
    )


def _text(value: Any, at: str) -> str:
    if not isinstance(value, str):
        raise PoisonMessage("is no text", at=at, found=shown(value))
    return value


def _array(value: Any, at: str) -> list[Any]:
    if not isinstance(value, list):
        raise PoisonMessage("is no array", at=at, found=shown(value))
    return value


def _object(value: Any, at: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PoisonMessage("is no object", at=at, found=shown(value))
    return value


def _counter(value: Any, at: str) -> int | None:
    counted = integer(value)
    if counted is None:
        raise PoisonMessage("is not 1 to 2^63-1", at=at, found=shown(value))
    return counter(counted, at)


def _interval(value: Any, at: str) -> float:
    interval = number(value)
    if interval is None:
        raise PoisonMessage("is no number of seconds", at=at, found=shown(value))
    return float(min(max(interval, -MOST_SECONDS), MOST_SECONDS))


MOST_SECONDS = 10**9
"""Far beyond what an interval may be: an integer may be larger than a float can hold."""


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


def _servers(value: Any, at: str, reading: _Reading) -> list[WireServer]:
    return [
        _server(entry, f"{at}[{place}]", reading) for place, entry in enumerate(_array(value, at))
    ]


def _server(value: Any, at: str, reading: _Reading) -> WireServer:
    entry = _object(value, at)
    status = entry.get("status")
    return WireServer(
        identity(entry.get("instance_id"), f"{at}.instance_id"),
        reading.take_optional(
            entry.get("game_server_config_id"), identity, f"{at}.game_server_config_id"
        ),
        None if status is None else _status(status, f"{at}.status"),
    )
