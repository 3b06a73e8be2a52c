"""Complaints of a simulated fleet on stderr."""

from __future__ import annotations


def complaints(err: str) -> list[str]:
    """Its lines, but for what it says of a slow machine."""
    return [line for line in err.splitlines() if "too much for this machine" not in line]
