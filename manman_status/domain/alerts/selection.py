"""Which alerts and which silences somebody wants to see."""

from __future__ import annotations

from enum import StrEnum


class AlertSelection(StrEnum):
    """`unresolved` are those that are open and those that somebody has acknowledged."""

    UNRESOLVED = "unresolved"
    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"
    ALL = "all"


class SilenceSelection(StrEnum):
    LASTING = "lasting"
    ENDED = "ended"
    ALL = "all"
