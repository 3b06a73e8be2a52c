"""Control messages: the processors' own canaries, and what operators send about guard and alerts.

Canaries go by the inbound exchange, since they prove that the workers' way works, and each carries
a MAC that only processors can make. What operators send goes by an exchange of its own, to which
workers have no right.
"""

from __future__ import annotations

import hmac
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, assert_never, get_args

import msgspec
from msgspec import Meta

from manman_status.errors import PoisonMessage
from manman_status.wire.messages import Examples, Id, LabelValue

LONGEST_SILENCE_SECONDS = 90 * 86_400
LONGEST_TEXT = 500

Text: TypeAlias = Annotated[str, Meta(max_length=LONGEST_TEXT)]

CanaryKind: TypeAlias = Literal["heartbeats", "lifecycle", "manman-v2"]
"""Part of the MAC: a canary of one kind of queue proves nothing of another."""

CANARY = "canary"


def canary_key(pattern: str, number: int | None = None) -> str:
    """The routing key of a canary that takes the binding with this pattern, like any worker's.

    Where several queues share the heartbeats, the number decides which of them it reaches.
    """
    return pattern.replace("*", CANARY if number is None else f"{CANARY}-{number}")


def is_canary_key(routing_key: str) -> bool:
    words = routing_key.split(".")
    return any(word == CANARY or word.startswith(f"{CANARY}-") for word in words)


class CanarySent(msgspec.Struct, frozen=True):
    """A canary: sent by a processor at this database time, after so many steps of the database's
    clock, through the workers' exchange. `came_by` is the routing key that it was delivered with.

    An empty `mac`: the sender is of a version before there were any, or no processor at all.
    """

    sent_at: datetime
    processor_id: str = ""
    mac: str = ""
    clock_steps: int = 0
    came_by: str = ""


class GuardReleased(msgspec.Struct, frozen=True):
    """A person's request that the held workers of a group are marked LOST now."""

    group: str


class SilenceRequested(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A silence for the alerts that match all that is given."""

    silence_id: Annotated[
        str,
        Meta(pattern="^[0-9a-z]{4,40}$", description="The same id again changes nothing."),
    ]
    seconds: Annotated[float, Meta(gt=0, le=LONGEST_SILENCE_SECONDS)]
    why: Annotated[str, Meta(min_length=1, max_length=LONGEST_TEXT)]
    by: Text = ""
    group: Annotated[LabelValue | None, Meta(description="Empty is the workers without one.")] = (
        None
    )
    worker_id: Id | None = None
    rule: LabelValue | None = None
    labels: dict[str, LabelValue] = {}


class SilenceEnded(msgspec.Struct, frozen=True):
    """The silence that a person ends."""

    silence_id: str


class AlertAcknowledged(msgspec.Struct, frozen=True, omit_defaults=True):
    """The alert that a person acknowledges: it notifies again only when it gets worse or is
    resolved."""

    alert_id: Id
    by: Text = ""
    why: Text = ""


class ForgetRequested(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The worker or the server instance to delete: what is received next begins anew."""

    worker_id: Id | None = None
    instance_id: Id | None = None
    by: Text = ""
    why: Text = ""

    def __post_init__(self) -> None:
        if (self.worker_id is None) == (self.instance_id is None):
            raise ValueError("needs one of worker_id and instance_id")


OperatorMessage: TypeAlias = (
    GuardReleased | SilenceRequested | SilenceEnded | AlertAcknowledged | ForgetRequested
)
ControlMessage: TypeAlias = CanarySent | OperatorMessage
"""A message that concerns the processors themselves and no row of the fleet."""

CONTROL_KEYS: dict[type[OperatorMessage], str] = {
    GuardReleased: "guard.release",
    SilenceRequested: "silence.add",
    SilenceEnded: "silence.remove",
    AlertAcknowledged: "alert.acknowledge",
    ForgetRequested: "forget",
}
"""Routing keys on the control exchange: one for each kind, so that topic permissions can
distinguish them."""


class CanaryArguments(msgspec.Struct, frozen=True, array_like=True):
    """The processor's id, the MAC that only processors can make, and how often the database's clock
    had stepped."""

    processor_id: str = ""
    mac: str = ""
    clock_steps: int = 0


class Canary(msgspec.Struct, tag_field="command_type", tag="CANARY", kw_only=True):
    """A processor's own message, by which it proves that all before it was stored."""

    EXAMPLES: ClassVar[Examples] = (
        {
            "command_type": "CANARY",
            "command_args": ["vm-e4049a17", "5f0c…", 0],
            "sent_at": "2026-11-23T08:00:00.5Z",
        },
    )

    command_args: Annotated[
        CanaryArguments | None, Meta(description="One without a MAC is ignored.")
    ] = None
    sent_at: Annotated[datetime, Meta(tz=True, description="The database's time, with a zone.")]

    def meaning(self) -> CanarySent:
        """The canary, its time in UTC. Raises PoisonMessage."""
        try:
            sent_at = self.sent_at.astimezone(UTC)
        except OverflowError:  # at the ends of years 1 and 9999 another zone cannot be stored
            raise PoisonMessage("a time outside of years 1 to 9999", at="$.sent_at") from None
        arguments = self.command_args or CanaryArguments()
        return CanarySent(sent_at, arguments.processor_id, arguments.mac, arguments.clock_steps)


class ReleaseGuard(msgspec.Struct, tag_field="command_type", tag="RELEASE_GUARD"):
    """Mark the held workers of a group LOST at once."""

    EXAMPLES: ClassVar[Examples] = ({"command_type": "RELEASE_GUARD", "command_args": ["eu-1"]},)

    command_args: Annotated[
        tuple[LabelValue],
        Meta(description="The group; empty is the workers without one."),
    ]

    def meaning(self) -> GuardReleased:
        return GuardReleased(self.command_args[0])


class _Requested(msgspec.Struct, tag_field="command_type"):
    """A control message whose one argument is the request."""

    EXAMPLES: ClassVar[Examples] = ()

    command_args: tuple[Any]

    def meaning(self) -> OperatorMessage:
        request: OperatorMessage = self.command_args[0]
        return request


class Silence(_Requested, tag="SILENCE"):
    """Mute the notifications of all alerts that match what is given, for so long from when it is
    stored."""

    EXAMPLES = (
        {
            "command_type": "SILENCE",
            "command_args": [
                {"silence_id": "a1b2c3", "seconds": 7200, "group": "eu-1", "why": "new switches"}
            ],
        },
    )

    command_args: tuple[SilenceRequested]


class EndSilence(_Requested, tag="END_SILENCE"):
    """End a silence now; nothing changes when there is none that lasts."""

    EXAMPLES = ({"command_type": "END_SILENCE", "command_args": [{"silence_id": "a1b2c3"}]},)

    command_args: tuple[SilenceEnded]


class Acknowledge(_Requested, tag="ACKNOWLEDGE"):
    """Acknowledge an open alert; nothing changes when it is not open."""

    EXAMPLES = (
        {
            "command_type": "ACKNOWLEDGE",
            "command_args": [{"alert_id": 12, "by": "ann", "why": "known"}],
        },
    )

    command_args: tuple[AlertAcknowledged]


class Forget(_Requested, tag="FORGET"):
    """Delete a worker with its server instances, or one server instance; nothing changes when it is
    not known."""

    EXAMPLES = (
        {
            "command_type": "FORGET",
            "command_args": [{"worker_id": 7, "by": "ann", "why": "its host is gone"}],
        },
    )

    command_args: tuple[
        Annotated[
            ForgetRequested,
            Meta(
                extra_json_schema={
                    "oneOf": [{"required": ["worker_id"]}, {"required": ["instance_id"]}]
                }
            ),
        ]
    ]


AnyControlCommand: TypeAlias = Canary | ReleaseGuard | Silence | EndSilence | Acknowledge | Forget
CONTROL_COMMANDS: dict[str, type[AnyControlCommand]] = {
    str(command.__struct_config__.tag): command for command in get_args(AnyControlCommand)
}
"""The control commands by their `command_type`."""


def canary_mac(secret: bytes, kind: CanaryKind, canary: CanarySent) -> str:
    """Sign a canary. Its text is JSON, so no two canaries share one."""
    text = msgspec.json.encode((kind, canary.processor_id, canary.sent_at, canary.clock_steps))
    return hmac.digest(secret, text, "sha256").hex()


def control_message(control: ControlMessage) -> bytes:
    """Encode a control message for the broker."""
    return msgspec.json.encode(_command_of(control))


def _command_of(control: ControlMessage) -> AnyControlCommand:
    match control:
        case CanarySent(sent_at, processor_id, mac, clock_steps):
            arguments = CanaryArguments(processor_id, mac, clock_steps)
            return Canary(command_args=arguments, sent_at=sent_at)
        case GuardReleased(group):
            return ReleaseGuard((group,))
        case SilenceRequested():
            return Silence((control,))
        case SilenceEnded():
            return EndSilence((control,))
        case AlertAcknowledged():
            return Acknowledge((control,))
        case ForgetRequested():
            return Forget((control,))
        case _:
            assert_never(control)


def control_key(control: OperatorMessage) -> str:
    return CONTROL_KEYS[type(control)]
