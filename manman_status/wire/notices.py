"""Messages of our own that travel the workers' way: canaries, and a person's word about the guard and about alerts."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, TypeAlias

import msgspec

CANARY = "CANARY"
RELEASE_GUARD = "RELEASE_GUARD"
SILENCE = "SILENCE"
END_SILENCE = "END_SILENCE"
ACKNOWLEDGE = "ACKNOWLEDGE"
FORGET = "FORGET"

CANARY_KEYS = {"heartbeats": "worker.canary.heartbeat", "lifecycle": "worker.canary.lifecycle"}
"""Routing keys that the queues' bindings take like any worker's."""

GUARD_KEY = "worker.guard.lifecycle"
ALERTS_KEY = "worker.alerts.lifecycle"
FORGET_KEY = "worker.forget.lifecycle"
LONGEST_SILENCE_SECONDS = 90 * 86_400
LONGEST_TEXT = 500


class CanarySent(msgspec.Struct, frozen=True, tag=True):
    """A processor's own message, sent at this database time through the same exchange as everybody's."""

    sent_at: datetime


class GuardReleased(msgspec.Struct, frozen=True, tag=True):
    """A person asks that the held workers of a group be lost now."""

    group: str


Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=LONGEST_TEXT)]
LabelValue: TypeAlias = Annotated[str, msgspec.Meta(max_length=255)]


class SilenceAsked(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Alerts that match all that is given are not to be told for so long. The same id is the same silence."""

    silence_id: Annotated[str, msgspec.Meta(pattern="^[0-9a-z]{4,40}$")]
    seconds: Annotated[float, msgspec.Meta(gt=0, le=LONGEST_SILENCE_SECONDS)]
    why: Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_TEXT)]
    by: Text = ""
    group: LabelValue | None = None
    worker_id: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)] | None = None
    rule: LabelValue | None = None
    labels: dict[str, LabelValue] = {}


class SilenceEnded(msgspec.Struct, frozen=True, tag=True):
    silence_id: str


class AlertAcknowledged(msgspec.Struct, frozen=True, tag=True):
    """A person has taken an alert on: it is not told again, but that it gets worse and that it is over."""

    alert_id: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    by: Text = ""
    why: Text = ""


class Forget(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Delete a worker with its server instances, or one server instance: what is received next begins anew."""

    worker_id: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)] | None = None
    instance_id: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)] | None = None
    by: Text = ""
    why: Text = ""

    def __post_init__(self) -> None:
        if (self.worker_id is None) == (self.instance_id is None):
            raise ValueError("needs one of worker_id and instance_id")


Notice: TypeAlias = CanarySent | GuardReleased | SilenceAsked | SilenceEnded | AlertAcknowledged | Forget
"""What concerns the processors themselves and no row of the fleet."""


def canary(processor_id: str, sent_at: datetime) -> bytes:
    return msgspec.json.encode({"command_type": CANARY, "command_args": [processor_id], "sent_at": sent_at})


def guard_release(group: str) -> bytes:
    return msgspec.json.encode({"command_type": RELEASE_GUARD, "command_args": [group]})


def alert_notice(notice: SilenceAsked | SilenceEnded | AlertAcknowledged | Forget) -> bytes:
    """One argument, an object with the notice's fields."""
    kinds = {SilenceAsked: SILENCE, SilenceEnded: END_SILENCE, AlertAcknowledged: ACKNOWLEDGE, Forget: FORGET}
    fields = {name: getattr(notice, name) for name in notice.__struct_fields__}
    return msgspec.json.encode({"command_type": kinds[type(notice)], "command_args": [fields]})
