"""Bytes from the broker to events. Everything that cannot be understood becomes a reason, never an exception."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from manman_status.domain.events import ReportedEvent
from manman_status.errors import PoisonMessage
from manman_status.wire.commands import WireEvent, understand
from manman_status.wire.notices import Notice

MAX_BODY_BYTES = 1024 * 1024
MAX_EVENTS = 1_000


class Poison(msgspec.Struct, frozen=True):
    """An event nobody can understand: what was wrong and where, and its bytes as they came."""

    reason: str
    body: bytes


Meaning: TypeAlias = ReportedEvent | Notice
Admit: TypeAlias = Callable[[Meaning], Meaning | None]
"""Decides whether the sender may say this. None: ignore it. Raises PoisonMessage to refuse it."""


class Decoded(msgspec.Struct):
    events: list[ReportedEvent] = msgspec.field(default_factory=list)
    notices: list[Notice] = msgspec.field(default_factory=list)
    ignored: int = 0
    poison: list[Poison] = msgspec.field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.events) + len(self.notices) + self.ignored + len(self.poison)


_decode_any = msgspec.json.Decoder(WireEvent | list[WireEvent]).decode
_decode_one = msgspec.json.Decoder(WireEvent).decode
_decode_parts = msgspec.json.Decoder(list[msgspec.Raw]).decode
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode(body: bytes, admit: Admit | None = None) -> Decoded:
    """One message's events in their order. Never raises: an unreadable body is one poison, an unreadable
    element of an array is poison alone, with its own bytes. `admit`, when given, sees each event."""
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
        _decode_separately(body, error, decoded, admit)
    else:
        if isinstance(wired, WireEvent):
            _add(wired, body, decoded, admit)
        elif problem := _count_problem(len(wired)):
            decoded.poison.append(Poison(problem, body))
        else:
            for event in wired:
                _add(event, b"", decoded, admit)
            _name_bodies(body, decoded, admit)
    return decoded


def _decode_separately(body: bytes, error: Exception, decoded: Decoded, admit: Admit | None) -> None:
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
            _add(_decode_one(part), part, decoded, admit)
        except UNREADABLE as fault:
            decoded.poison.append(Poison(_reason(fault), part))


def _name_bodies(body: bytes, decoded: Decoded, admit: Admit | None) -> None:
    """Give the poison of an array its own bytes: rare, so the array is only taken apart again then."""
    if not decoded.poison:
        return
    decoded.events.clear()
    decoded.notices.clear()
    decoded.poison.clear()
    decoded.ignored = 0
    for part in map(bytes, _decode_parts(body)):
        _add(_decode_one(part), part, decoded, admit)


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


def _add(wired: WireEvent, body: bytes, decoded: Decoded, admit: Admit | None) -> None:
    try:
        meaning = understand(wired)
        if admit is not None and meaning is not None:
            meaning = admit(meaning)
    except PoisonMessage as error:
        decoded.poison.append(Poison(error.reason, body))
        return
    if meaning is None:
        decoded.ignored += 1
    elif isinstance(meaning, Notice):
        decoded.notices.append(meaning)
    else:
        decoded.events.append(meaning)
