"""Faults as they were ordered. `at` and all times are seconds since the fleet began."""

from __future__ import annotations

from typing import TypeAlias

import msgspec


class Kill(msgspec.Struct, frozen=True):
    """So many workers die without a word, for good."""

    count: int
    at: float


class KillGroup(msgspec.Struct, frozen=True):
    """So much of a group, in percent of its members, dies at once."""

    group: str
    percent: float
    at: float


class Pause(msgspec.Struct, frozen=True):
    """So many workers freeze, and go on as if nothing had been."""

    count: int
    at: float
    seconds: float


Fault: TypeAlias = Kill | KillGroup | Pause


def by_time(fault: Fault) -> float:
    return fault.at
