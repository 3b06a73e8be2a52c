"""Parse faults from a command line: `3@30s`, `eu-1@40%@60s`, `5@30s:20s`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeAlias

from cyclopts import CoercionError, Parameter, Token

from manman_status.lab.simulator.faults import Kill, KillGroup, Pause
from manman_status.lab.simulator.fleet import GROUPS

SECONDS = {"": 1, "ms": 0.001, "s": 1, "m": 60, "h": 3600}
DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")


def kill(text: str) -> Kill:
    count, at = _parts(text, "@", wanted="COUNT@TIME, as 3@30s")
    return Kill(_count(count), seconds(at))


def kill_group(text: str) -> KillGroup:
    group, share, at = _parts(text, "@", "@", wanted="GROUP@SHARE@TIME, as eu-1@40%@60s")
    if group not in GROUPS:
        raise ValueError(f"there is no group {group!r}, only {', '.join(GROUPS)}")
    percent = share.removesuffix("%")
    if not re.fullmatch(r"\d+(\.\d+)?", percent) or not 0 < float(percent) <= 100:
        raise ValueError(f"the share must be above 0 and up to 100%, not {share!r}")
    return KillGroup(group, float(percent), seconds(at))


def pause(text: str) -> Pause:
    count, at, length = _parts(text, "@", ":", wanted="COUNT@TIME:DURATION, as 5@30s:20s")
    if not seconds(length):
        raise ValueError("a pause of no time is none")
    return Pause(_count(count), seconds(at), seconds(length))


def seconds(text: str) -> float:
    """Parse 90s, 1.5m or 1h to seconds; a bare number is seconds."""
    found = DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no time, as 500ms, 30s, 5m or 1h are")
    return float(found[1]) * SECONDS[found[2] or ""]


def _count(text: str) -> int:
    if not re.fullmatch(r"\d{1,6}", text) or not int(text):
        raise ValueError(f"{text!r} is no number of workers")
    return int(text)


def _parts(text: str, *separators: str, wanted: str) -> list[str]:
    parts = []
    rest = text
    for separator in separators:
        part, found, rest = rest.partition(separator)
        if not found:
            raise ValueError(f"it must be {wanted}")
        parts.append(part)
    return [*parts, rest]


def _each(read: Callable[[str], object]) -> Callable[[Any, Sequence[Token]], list[object]]:
    def convert(_: Any, tokens: Sequence[Token]) -> list[object]:
        return [_explained(read, token) for token in tokens]

    return convert


def _only(_: Any, tokens: Sequence[Token]) -> object:
    return _explained(seconds, tokens[0])


def _explained(read: Callable[[str], object], token: Token) -> object:
    try:
        return read(token.value)
    except ValueError as error:
        raise CoercionError(
            msg=f"Invalid value for {token.keyword}: {token.value}: {error}"
        ) from None


Kills: TypeAlias = Annotated[
    tuple[Kill, ...], Parameter(converter=_each(kill), n_tokens=1, negative="", show_default=False)
]
KillGroups: TypeAlias = Annotated[
    tuple[KillGroup, ...],
    Parameter(converter=_each(kill_group), n_tokens=1, negative="", show_default=False),
]
Pauses: TypeAlias = Annotated[
    tuple[Pause, ...],
    Parameter(converter=_each(pause), n_tokens=1, negative="", show_default=False),
]
Seconds: TypeAlias = Annotated[float, Parameter(converter=_only, show_default=False)]
