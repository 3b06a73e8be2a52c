"""Control messages: the processors' own canaries, and what operators send about guard and alerts.

Canaries go by the inbound exchange, since they prove that the workers' way works, and each carries
a MAC that only processors can make. What operators send goes by an exchange of its own, to which
workers have no right.
"""

from __future__ import annotations

import hmac
from datetime import datetime
from typing import Annotated, Literal, TypeAlias

import msgspec

CANARY = "CANARY"
RELEASE_GUARD = "RELEASE_GUARD"
SILENCE = "SILENCE"
END_SILENCE = "END_SILENCE"
ACKNOWLEDGE = "ACKNOWLEDGE"
FORGET = "FORGET"

CanaryKind: TypeAlias = Literal["heartbeats", "lifecycle"]
"""Part of the MAC: a canary of one kind of queue proves nothing of the other."""

CANARY_KEYS: dict[CanaryKind, str] = {
    "heartbeats": "worker.canary.heartbeat",
    "lifecycle": "worker.canary.lifecycle",
}
"""Routing keys that the queues' bindings take like any worker's."""


def partition_canary_key(number: int) -> str:
    """Where several queues share the heartbeats, the key decides which of them a canary reaches."""
    return f"worker.canary-{number}.heartbeat"


def is_canary_key(routing_key: str) -> bool:
    return routing_key.startswith(("worker.canary.", "worker.canary-"))


LONGEST_SILENCE_SECONDS = 90 * 86_400
LONGEST_TEXT = 500


class CanarySent(msgspec.Struct, frozen=True, tag=True):
    """A processor's own message, sent at this database time, after so many steps of the database's
    clock, through the workers' exchange. `came_by` is the routing key that it was delivered with.

    An empty `mac`: the sender is of a version before there were any, or no processor at all.
    """

    sent_at: datetime
    processor_id: str = ""
    mac: str = ""
    clock_steps: int = 0
    came_by: str = ""


class GuardReleased(msgspec.Struct, frozen=True, tag=True):
    """A person asks that the held workers of a group be lost now."""

    group: str


Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=LONGEST_TEXT)]
LabelValue: TypeAlias = Annotated[str, msgspec.Meta(max_length=255)]


class SilenceAsked(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Alerts that match all that is given are not to be told for so long. The same id is the same
    silence."""

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
    """A person has taken an alert on: it is not told again, but that it gets worse and that it is
    over."""

    alert_id: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    by: Text = ""
    why: Text = ""


class Forget(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Delete a worker with its server instances, or one server instance: what is received next
    begins anew."""

    worker_id: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)] | None = None
    instance_id: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)] | None = None
    by: Text = ""
    why: Text = ""

    def __post_init__(self) -> None:
        if (self.worker_id is None) == (self.instance_id is None):
            raise ValueError("needs one of worker_id and instance_id")


ControlMessage: TypeAlias = GuardReleased | SilenceAsked | SilenceEnded | AlertAcknowledged | Forget
"""What operators send."""

Notice: TypeAlias = CanarySent | ControlMessage
"""What concerns the processors themselves and no row of the fleet."""

CONTROL_KEYS: dict[type[ControlMessage], str] = {
    GuardReleased: "guard.release",
    SilenceAsked: "silence.add",
    SilenceEnded: "silence.remove",
    AlertAcknowledged: "alert.acknowledge",
    Forget: "forget",
}
"""Routing keys on the control exchange: one for each kind, so that topic permissions can tell them
apart."""


def canary_mac(secret: bytes, kind: CanaryKind, canary: CanarySent) -> str:
    """As JSON, no two canaries share a text."""
    text = msgspec.json.encode((kind, canary.processor_id, canary.sent_at, canary.clock_steps))
    return hmac.digest(secret, text, "sha256").hex()


def canary_message(canary: CanarySent) -> bytes:
    arguments = [canary.processor_id, canary.mac, canary.clock_steps]
    return msgspec.json.encode(
        {"command_type": CANARY, "command_args": arguments, "sent_at": canary.sent_at}
    )


def guard_release(group: str) -> bytes:
    return msgspec.json.encode({"command_type": RELEASE_GUARD, "command_args": [group]})


def alert_notice(notice: SilenceAsked | SilenceEnded | AlertAcknowledged | Forget) -> bytes:
    """One argument, an object with the notice's fields."""
    kinds = {
        SilenceAsked: SILENCE,
        SilenceEnded: END_SILENCE,
        AlertAcknowledged: ACKNOWLEDGE,
        Forget: FORGET,
    }
    fields = {name: getattr(notice, name) for name in notice.__struct_fields__}
    return msgspec.json.encode({"command_type": kinds[type(notice)], "command_args": [fields]})


def control_message(control: ControlMessage) -> bytes:
    return (
        guard_release(control.group)
        if isinstance(control, GuardReleased)
        else alert_notice(control)
    )


def control_key(control: ControlMessage) -> str:
    return CONTROL_KEYS[type(control)]
