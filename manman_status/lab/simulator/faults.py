"""Faults that were ordered on the command line. Times are seconds since the fleet began."""

from __future__ import annotations

from typing import TypeAlias

import msgspec


class Kill(msgspec.Struct, frozen=True):
    """Kill `count` workers for good; they report nothing."""

    count: int
    at: float


class KillGroup(msgspec.Struct, frozen=True):
    """Kill `percent` of a group's members at once."""

    group: str
    percent: float
    at: float


class Pause(msgspec.Struct, frozen=True):
    """Freeze `count` workers for `seconds`; then they continue."""

    count: int
    at: float
    seconds: float


Fault: TypeAlias = Kill | KillGroup | Pause


def by_time(fault: Fault) -> float:
    return fault.at
