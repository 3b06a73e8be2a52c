"""The forms in which a value may come besides its own: digits in a string, a number for a time."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from manman_status.errors import PoisonMessage
from manman_status.wire.reasons import shown

MAX_BIGINT = 2**63 - 1
LAST_MICROSECOND = 253_402_300_799_000_000  # within the year 9999

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EXACT_FLOATS = 2**53
"""Beyond this a float no longer tells neighbouring integers apart."""
INTEGER = re.compile(r"-?[0-9]{1,19}(?:\.0{1,19})?")
NUMBER = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{1,30})?")
HEXADECIMAL = re.compile(r"0[xX][0-9a-fA-F]{1,16}")
LEAP_SECOND = re.compile(r"(:[0-5][0-9]):60")
LONGEST_TIME = 64

UNITS = ((10**9, 10**12, 1_000_000), (10**12, 10**15, 1_000), (10**15, 10**18, 1))
"""Which numbers are seconds, milliseconds and microseconds since the epoch, and how many µs each
is.

A number of one unit, from 2001 on, is larger than any of this millennium in the unit before."""


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


def exit_code(value: Any) -> int | None:
    """An integer, or hexadecimal digits as Windows shows a status; None when it is neither."""
    if isinstance(value, str) and HEXADECIMAL.fullmatch(value):
        return int(value, 16)
    return integer(value)


def instant(value: Any, at: str) -> datetime:
    """A time from ISO 8601 text or from a number since the epoch, whose size tells its unit.

    A leap second is the second after it; what lies outside 1970 to 9999 is the nearer of the two.
    Raises PoisonMessage.
    """
    counted = number(value)
    if counted is not None:
        return EPOCH + timedelta(microseconds=_microseconds(counted, at))
    if isinstance(value, str) and len(value) <= LONGEST_TIME:
        text, leaps = LEAP_SECOND.subn(r"\1:59", value, count=1)
        try:
            time = datetime.fromisoformat(text)
        except ValueError:
            pass
        else:
            time = time if time.tzinfo else time.replace(tzinfo=UTC)
            microseconds = (time - EPOCH) // timedelta(microseconds=1) + leaps * 1_000_000
            return EPOCH + timedelta(microseconds=_within_bounds(microseconds))
    raise PoisonMessage("is no time", at=at, found=shown(value))


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
