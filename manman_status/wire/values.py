"""Values of messages: their bounds, and the forms in which they may come besides their own.

Digits in a string are a number, and a number is a time.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from manman_status.errors import PoisonMessage
from manman_status.wire.reasons import shown

MAX_BIGINT = 2**63 - 1
MAX_LABELS = 64
MAX_LABEL_KEY = 63
MAX_LABEL_VALUE = 255
PLACEHOLDERS = frozenset({"", "None", "null"})
"""Texts that hold the place of an optional argument that is not given."""
LAST_MICROSECOND = 253_402_300_799_000_000  # within the year 9999

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EXACT_FLOATS = 2**53
"""The bound beyond which a float cannot distinguish neighbouring integers."""
INTEGER = re.compile(r"-?[0-9]{1,19}(?:\.0{1,19})?")
NUMBER = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{1,30})?")
HEXADECIMAL = re.compile(r"0[xX][0-9a-fA-F]{1,16}")
LEAP_SECOND = re.compile(r"(:[0-5][0-9]):60")
LONGEST_TIME = 64

UNITS = ((10**9, 10**12, 1_000_000), (10**12, 10**15, 1_000), (10**15, 10**18, 1))
"""Seconds, milliseconds and microseconds since the epoch: the numbers from the first to the second
are of one unit, and the third is its µs.

A number of one unit, from 2001 on, is larger than any of this millennium in the unit before.
"""


def integer(value: Any) -> int | None:
    """An integer from `7`, `7.0`, `"7"` or `"7.0"`; None when it is not one."""
    if type(value) is int:  # no bool
        return value
    if isinstance(value, str) and INTEGER.fullmatch(value):
        return int(value) if value.isdigit() else int(value.partition(".")[0])
    if isinstance(value, float) and value.is_integer() and abs(value) <= EXACT_FLOATS:
        return int(value)
    return None


def number(value: Any) -> int | float | None:
    """A number from `2.5` or `"2.5"`; None when it is not one."""
    match value:
        case bool():
            return None
        case int() | float():
            return value
        case str() if NUMBER.fullmatch(value):
            return float(value) if "." in value else int(value)
        case _:
            return None


def identity(value: Any, at: str) -> int:
    """An id of 1 to 2^63-1. Raises PoisonMessage."""
    found = integer(value)
    if found is None or not 1 <= found <= MAX_BIGINT:
        raise PoisonMessage("is no id of 1 to 2^63-1", at=at, found=shown(value))
    return found


def counter(value: Any, at: str) -> int | None:
    """An incarnation or a seq; 0 counts as not given, as senders write for a field that was never
    set."""
    counted = integer(value)
    if counted == 0:
        return None
    if counted is None or not 1 <= counted <= MAX_BIGINT:
        raise PoisonMessage("is not 1 to 2^63-1", at=at, found=shown(value))
    return counted


def as_exit_code(value: Any, at: str) -> int:
    """An integer, or hexadecimal digits as Windows shows a status. Raises PoisonMessage.

    Signals are negative in Python and above 255 on Windows, so any 64-bit number will do.
    """
    is_hexadecimal = isinstance(value, str) and HEXADECIMAL.fullmatch(value)
    code = int(value, 16) if is_hexadecimal else integer(value)
    if code is None or not -MAX_BIGINT <= code <= MAX_BIGINT:
        raise PoisonMessage("is no exit code", at=at, found=shown(value))
    return code


def is_placeholder(value: Any) -> bool:
    """True for null and for the texts that hold the place of an argument that is not given."""
    return value is None or (isinstance(value, str) and value in PLACEHOLDERS)


def epoch_microseconds(number: int | None) -> int | None:
    """Convert a time since the epoch to µs. Its size says whether it is in s, ms, µs or ns; a
    number of another size stays as it is."""
    if number is None or 10**14 <= number < 10**18:
        return number
    if 10**9 <= number < 10**11:
        return number * 1_000_000
    if 10**12 <= number < 10**14:
        return number * 1_000
    return number // 1_000 if number >= 10**18 else number


def microseconds(time: datetime | None) -> int | None:
    """Convert a time to µs since the epoch. Without a zone it is UTC, as Python's
    `utcnow().isoformat()` sends it. One outside 1970 to 9999 counts as the nearer of the two."""
    if time is None:
        return None
    since_epoch = round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1_000_000)
    return (
        since_epoch
        if 0 < since_epoch < LAST_MICROSECOND
        else min(max(since_epoch, 1), LAST_MICROSECOND)
    )


def instant(value: Any, at: str) -> datetime:
    """A time from ISO 8601 text or from a number since the epoch, whose size says its unit.

    A leap second is the second after it; a time outside 1970 to 9999 is the nearer of the two.
    Raises PoisonMessage.
    """
    counted = number(value)
    if counted is not None:
        return EPOCH + timedelta(microseconds=_microseconds(counted, at))
    if isinstance(value, str) and len(value) <= LONGEST_TIME:
        text, leaps = LEAP_SECOND.subn(r"\1:59", value, count=1)
        try:
            time = _iso_time(text)
        except ValueError:
            pass
        else:
            time = time if time.tzinfo else time.replace(tzinfo=UTC)
            microseconds = (time - EPOCH) // timedelta(microseconds=1) + leaps * 1_000_000
            return EPOCH + timedelta(microseconds=_within_bounds(microseconds))
    raise PoisonMessage("is no time", at=at, found=shown(value))


def _iso_time(text: str) -> datetime:
    """Read a time as the strict reading does, or in another form that Python's `fromisoformat`
    takes."""
    try:
        return msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        return datetime.fromisoformat(text)


def _microseconds(counted: float, at: str) -> int:
    for least, beyond, factor in UNITS:
        if least <= counted < beyond:
            return _within_bounds(round(counted * factor))
    if 10**18 <= counted <= MAX_BIGINT:
        return _within_bounds(int(counted) // 1_000)
    raise PoisonMessage(
        "is no time: numbers count from the epoch, from 10^9 (seconds) on",
        at=at,
        found=shown(counted),
    )


def _within_bounds(microseconds: int) -> int:
    return min(max(microseconds, 1), LAST_MICROSECOND)


def label_text(value: Any) -> str | None:
    """A label's value as text: numbers and booleans as JSON writes them; None for arrays and
    objects."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case _:
            return None


def check_label_count(labels: dict[str, Any]) -> None:
    """Raise PoisonMessage for more labels than a worker may have."""
    if len(labels) > MAX_LABELS:
        raise PoisonMessage(
            f"labels are more than {MAX_LABELS}", at="$.labels", found=str(len(labels))
        )


def check_label(key: str, value: str) -> None:
    """Raise PoisonMessage for a label that cannot be stored."""
    if not 1 <= len(key) <= MAX_LABEL_KEY:
        problem = f"is no key of a label, which has 1 to {MAX_LABEL_KEY} characters"
    elif len(value) > MAX_LABEL_VALUE:
        problem = f"has a value of more than {MAX_LABEL_VALUE} characters"
    elif "\0" in key or "\0" in value:
        problem = "has a NUL character"
    else:
        return
    raise PoisonMessage(problem, at="$.labels", found=shown(key))
