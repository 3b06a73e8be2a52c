"""Messages of our own that travel the workers' way: canaries, and a person's word about the guard."""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias

import msgspec

CANARY = "CANARY"
RELEASE_GUARD = "RELEASE_GUARD"

CANARY_KEYS = {"heartbeats": "worker.canary.heartbeat", "lifecycle": "worker.canary.lifecycle"}
"""Routing keys that the queues' bindings take like any worker's."""

GUARD_KEY = "worker.guard.lifecycle"


class CanarySent(msgspec.Struct, frozen=True, tag=True):
    """A processor's own message, sent at this database time through the same exchange as everybody's."""

    sent_at: datetime


class GuardReleased(msgspec.Struct, frozen=True, tag=True):
    """A person asks that the held workers of a group be lost now."""

    group: str


Notice: TypeAlias = CanarySent | GuardReleased
"""What concerns the processors themselves and no row of the fleet."""


def canary(processor_id: str, sent_at: datetime) -> bytes:
    return msgspec.json.encode({"command_type": CANARY, "command_args": [processor_id], "sent_at": sent_at})


def guard_release(group: str) -> bytes:
    return msgspec.json.encode({"command_type": RELEASE_GUARD, "command_args": [group]})
