"""The meaning of a worker's labels."""

from __future__ import annotations

from collections.abc import Mapping

DRAIN = "drain"
"""The label of a worker that is being emptied: stopping or going silent is then expected."""
NOT_DRAINING = frozenset({"", "0", "false", "no", "off"})


def is_draining(labels: Mapping[str, str]) -> bool:
    return labels.get(DRAIN, "").lower() not in NOT_DRAINING
