"""What a worker's labels mean here."""

from __future__ import annotations

from collections.abc import Mapping

DRAIN = "drain"
"""The label by which a worker says that it is being emptied: that it ends or falls silent then is
expected."""
NOT_DRAINING = frozenset({"", "0", "false", "no", "off"})


def is_draining(labels: Mapping[str, str]) -> bool:
    return labels.get(DRAIN, "").lower() not in NOT_DRAINING
