"""Decoding: bytes from the broker to events. What cannot be understood becomes a reason, never an
exception.

A message is read strictly first, which is fast and what nearly all of them need. One that is
refused is taken apart and read again, event by event and liberally (`liberal.py`): only what is
refused then, or had to be left out, is poison. Both readings agree: what is read strictly means the
same when it is read liberally.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec

from manman_status.domain.events import Event, ReportedEvent
from manman_status.errors import PoisonMessage
from manman_status.wire.bodies import MAX_BODY_BYTES, unpack
from manman_status.wire.control import AnyControlCommand, ControlMessage
from manman_status.wire.liberal import ESCAPED_NUL, Read, find_sender, read_liberally
from manman_status.wire.messages import AnyCommand, StatusInfo
from manman_status.wire.reasons import bounded, shown, unreadable

MAX_EVENTS = 1_000
MOST_LEFT_OUT = 3
"""Most parts that a reason names, of those that were left out of one event."""
LEFT_OUT = " (left out, the rest was taken)"
"""End of the reason of partial poison."""


class Poison(msgspec.Struct, frozen=True):
    """Events that were not understood, or not whole, and their bytes: one as it came, several as an
    array.

    `cause` is what all of them have in common, without their values. `sender` is `worker 7`, or
    empty when it is unknown or they differ. They are `partial` when the rest of them was taken.
    """

    reason: str
    body: bytes
    cause: str = ""
    sender: str = ""
    events: int = 1
    partial: bool = False


Meaning: TypeAlias = ReportedEvent | ControlMessage
Admit: TypeAlias = Callable[[Meaning], Meaning | None]
"""A rule for what a sender may say. None: ignore it. Raises PoisonMessage to refuse it."""


class Decoded(msgspec.Struct):
    """The events and control messages of one message, and its poison. `json_bytes` is the size of
    the JSON that was read: a compressed body is far smaller."""

    json_bytes: int = 0
    events: list[ReportedEvent] = msgspec.field(default_factory=list)
    control: list[ControlMessage] = msgspec.field(default_factory=list)
    ignored: int = 0
    poison: list[Poison] = msgspec.field(default_factory=list)

    @property
    def refused(self) -> int:
        """Number of events of which nothing was taken."""
        return sum([poison.events for poison in self.poison if not poison.partial])

    @property
    def count(self) -> int:
        return len(self.events) + len(self.control) + self.ignored + self.refused

    def take(self, meaning: Meaning | None, admit: Admit | None) -> None:
        """Add what the sender may say. Raises PoisonMessage for what it may not."""
        if admit is not None and meaning is not None:
            meaning = admit(meaning)
        if isinstance(meaning, Event):
            self.events.append(meaning)
        elif meaning is None:
            self.ignored += 1
        else:
            self.control.append(meaning)


class Problem(NamedTuple):
    """One event that was not understood, or not whole."""

    reason: str
    cause: str
    body: bytes
    sender: str
    partial: bool = False


class _StatusInfo(StatusInfo, gc=False):
    """A StatusInfo that is no command, however its fields are written."""

    command_type: None = None


AnyMessage: TypeAlias = AnyCommand | AnyControlCommand

COMMAND_TYPE = b'"command_type"'
_command = msgspec.json.Decoder(AnyMessage).decode
_commands = msgspec.json.Decoder(AnyMessage | list[AnyMessage]).decode
_status_info = msgspec.json.Decoder(_StatusInfo).decode
_status_infos = msgspec.json.Decoder(_StatusInfo | list[_StatusInfo]).decode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode


def decode(
    body: bytes,
    admit: Admit | None = None,
    *,
    routing_key: str = "",  # noqa: ARG001 - other dialects read it
    content_encoding: str | None = None,
    content_type: str | None = None,
) -> Decoded:
    """Decode one message's events, in their order.

    Never raises: a body that cannot be read is poison, and so is an element of an array. `admit`,
    when given, sees each event. The content's encoding and type only appear in reasons: the bytes
    say what they are. So does the body of what it is about: the routing key is not read.
    """
    try:
        return _decode_usual(body, admit)
    except Exception:  # noqa: BLE001 - whatever it is, the second reading names it
        return decode_liberally(
            body, admit, content_encoding=content_encoding, content_type=content_type
        )


def decode_liberally(
    body: bytes,
    admit: Admit | None = None,
    *,
    content_encoding: str | None = None,
    content_type: str | None = None,
) -> Decoded:
    """Decode with the second reading alone: `decode` is faster where the body has the usual form,
    and agrees with it."""
    try:
        text = unpack(body)
        return _read_parts(_parts(text), admit, json_bytes=len(text))
    except Exception as error:  # noqa: BLE001 - the boundary of one message
        problem = unreadable(error)
        hints = (("content_encoding", content_encoding), ("content_type", content_type))
        said = ", ".join(f"{name} {shown(hint)}" for name, hint in hints if hint)
        reason = f"{problem.reason} ({said})" if said else problem.reason
        poison = Poison(bounded(reason), body, bounded(problem.cause))
        return Decoded(json_bytes=len(body), poison=[poison])


def find_body(body: bytes, item: Meaning) -> bytes:
    """Find the bytes of this event or control message within the message it came in."""
    try:
        parts = _parts(unpack(body))
    except Exception:  # noqa: BLE001 - as for decode
        return body
    wanted = [_identity(item)]
    return next((part for part in parts if [*map(_identity, _items(part))] == wanted), body)


def decode_strictly(body: bytes) -> list[Meaning]:
    """Read a body in the form that the contract's table gives. Raises anything for another body."""
    if ESCAPED_NUL in body:
        raise PoisonMessage("a NUL character")
    try:
        messages: AnyMessage | list[AnyMessage] | StatusInfo | list[_StatusInfo] = _commands(body)
    except msgspec.ValidationError:
        if COMMAND_TYPE in body:
            raise
        messages = _status_infos(body)
    if isinstance(messages, list):
        return [message.meaning() for message in messages]
    return [messages.meaning()]


def _decode_usual(body: bytes, admit: Admit | None) -> Decoded:
    """Decode a body in the usual form. Raises anything for another body."""
    if len(body) > MAX_BODY_BYTES:
        raise PoisonMessage("too long")
    meanings = decode_strictly(body)
    _check_count(meanings)
    decoded = Decoded(len(body))
    for meaning in meanings:
        decoded.take(meaning, admit)
    return decoded


def _parts(text: bytes) -> list[bytes]:
    """Split a body into its events. Raises PoisonMessage, or what msgspec raises for a body that is
    not JSON."""
    if not text.lstrip().startswith(b"["):
        _decode_raw(text)
        return [text]
    parts = _decode_array(text)
    _check_count(parts)
    return [bytes(part) for part in parts]


def _check_count(events: Sequence[object]) -> None:
    if not 1 <= len(events) <= MAX_EVENTS:
        raise PoisonMessage(
            f"an array has 1 to {MAX_EVENTS}", found=f"array of {len(events)} events:"
        )


def _read_parts(parts: list[bytes], admit: Admit | None, *, json_bytes: int) -> Decoded:
    decoded = Decoded(json_bytes)
    problems: list[Problem] = []
    # Equal elements are refused alike, and those that are no object by their first byte: a
    # thousand elements of two bytes must not cost more than they look.
    refused: dict[bytes, Problem] = {}
    for part in parts:
        key = part if part.startswith(b"{") else part[:1]
        if (known := refused.get(key)) is not None:
            problems.append(known._replace(body=part))
            continue
        try:
            meaning, left_out = _read(part)
            decoded.take(meaning, admit)
        except Exception as error:  # noqa: BLE001 - the boundary of one event
            problem = unreadable(error)
            refused[key] = Problem(problem.reason, problem.cause, part, find_sender(part))
            problems.append(refused[key])
        else:
            if left_out:
                problems.append(_partial(left_out, part))
    decoded.poison = _gather(problems)
    return decoded


def _read(part: bytes) -> Read:
    try:
        if ESCAPED_NUL not in part:
            return Read((_command if COMMAND_TYPE in part else _status_info)(part).meaning(), [])
    except Exception:  # noqa: BLE001, S110 - whatever it is, the second reading names it
        pass
    return read_liberally(part)


def _partial(left_out: list[PoisonMessage], part: bytes) -> Problem:
    named = [problem.reason for problem in left_out[:MOST_LEFT_OUT]]
    if more := len(left_out) - len(named):
        named.append(f"{more} more")
    return Problem("; ".join(named), left_out[0].cause, part, find_sender(part), partial=True)


def _gather(problems: list[Problem]) -> list[Poison]:
    """Make one poison of all events with the same cause: an array of a thousand bad events becomes
    a few."""
    alike: dict[tuple[str, bool], list[Problem]] = {}
    for problem in problems:
        alike.setdefault((problem.cause, problem.partial), []).append(problem)
    return [_poison(some) for some in alike.values()]


def _poison(alike: list[Problem]) -> Poison:
    first, *others = alike
    senders = {problem.sender for problem in alike}
    reason = bounded(f"{first.reason}; and {len(others)} more like it" if others else first.reason)
    return Poison(
        reason=reason + LEFT_OUT if first.partial else reason,
        body=b"[" + b",".join(problem.body for problem in alike) + b"]" if others else first.body,
        cause=bounded(first.cause),
        sender=senders.pop() if len(senders) == 1 else "",
        events=len(alike),
        partial=first.partial,
    )


def _items(part: bytes) -> list[Meaning]:
    decoded = decode(part)
    return [*decoded.events, *decoded.control]


def _identity(event: Meaning) -> tuple[type, dict[str, Any]]:
    """Return what makes two events the same one. Inventories are compared by their digests."""
    fields = msgspec.structs.asdict(event)
    if (servers := fields.get("servers")) is not None:
        fields["servers"] = servers.digest
    return type(event), fields
