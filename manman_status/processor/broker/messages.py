"""Every message that passes the broker, as a shape for the AsyncAPI document.

What is understood is decided by `wire/inbound.py`, what is sent by `wire/outbound.py`; a test holds
these shapes against both. Of an inbound message null counts as absent, and what is not named here
is ignored.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from manman_status.alerts.rules import RULE_NAMES
from manman_status.domain.alert import AlertState, Severity
from manman_status.domain.status import Reason, StatusType
from manman_status.wire.commands import MAX_LABEL_KEY, MAX_LABEL_VALUE, MAX_LABELS, ReportableStatus
from manman_status.wire.notices import LONGEST_SILENCE_SECONDS, LONGEST_TEXT
from manman_status.wire.outbound import CONCLUDED
from manman_status.wire.values import MAX_BIGINT

Id: TypeAlias = Annotated[int, Field(ge=1, le=MAX_BIGINT)]
IdOrDigits: TypeAlias = Id | Annotated[str, Field(pattern="^[0-9]{1,19}$")]
ExitCode: TypeAlias = (
    Annotated[int, Field(ge=-MAX_BIGINT, le=MAX_BIGINT)]
    | Annotated[str, Field(pattern="^-?[0-9]{1,19}$")]
)
Absent: TypeAlias = Literal["", "None", "null"] | None
"""Holds the place of an argument that is not given."""
Text: TypeAlias = Annotated[str, Field(max_length=LONGEST_TEXT)]
LabelValue: TypeAlias = Annotated[str, Field(max_length=MAX_LABEL_VALUE)]
LabelKey: TypeAlias = Annotated[str, Field(min_length=1, max_length=MAX_LABEL_KEY)]


def showing(*examples: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": list(examples)})


class Event(BaseModel):
    command_type: str
    command_args: tuple[Any, ...]
    incarnation: Id | None = Field(
        None,
        description=(
            "Start of the worker's process in µs since the epoch: a later start is a larger number."
        ),
    )
    seq: Id | None = Field(None, description="Counts this incarnation's events from 1.")
    sent_at: datetime | None = Field(
        None, description="Orders what has no incarnation and seq; UTC without a zone."
    )


class RunningServer(BaseModel):
    instance_id: Id
    game_server_config_id: Id | None = None
    status: ReportableStatus | None = Field(
        None, description="RUNNING when it is not given; a terminal one ends it."
    )


class Beating(Event):
    command_args: tuple[IdOrDigits] = Field(description="The worker's id.")
    interval_seconds: float | None = Field(
        None, description="Between two heartbeats; 1 to 3,600, beyond that the nearer."
    )
    servers: list[RunningServer] | None = Field(
        None, description="All that run: the complete inventory."
    )
    labels: dict[LabelKey, LabelValue] | None = Field(None, max_length=MAX_LABELS)


class Heartbeat(Beating):
    """The worker lives. What it does not carry stays as it was."""

    command_type: Literal["HEARTBEAT"]

    model_config = showing(
        {
            "command_type": "HEARTBEAT",
            "command_args": ["7"],
            "incarnation": 1763884800123456,
            "seq": 42,
            "sent_at": "2026-11-23T08:00:00.5Z",
            "interval_seconds": 10,
            "servers": [{"instance_id": 31, "game_server_config_id": 3, "status": "RUNNING"}],
            "labels": {"group": "eu-1", "version": "1.4.2"},
        },
        {"command_type": "HEARTBEAT", "command_args": ["7"]},
    )


class WorkerStarted(Beating):
    """A new incarnation of the worker begins."""

    command_type: Literal["WORKER_STARTED"]

    model_config = showing(
        {
            "command_type": "WORKER_STARTED",
            "command_args": ["7"],
            "incarnation": 1763884800123456,
            "seq": 1,
        }
    )


class WorkerStopped(Event):
    """A graceful end: COMPLETE, never LOST."""

    command_type: Literal["WORKER_STOPPED"]
    command_args: tuple[IdOrDigits] = Field(description="The worker's id.")

    model_config = showing({"command_type": "WORKER_STOPPED", "command_args": ["7"]})


class ServerStarted(Event):
    """The server instance is RUNNING."""

    command_type: Literal["SERVER_STARTED"]
    command_args: (
        tuple[IdOrDigits, IdOrDigits] | tuple[IdOrDigits, IdOrDigits, IdOrDigits | Absent]
    ) = Field(description="The ids of instance, worker and, optional, game server config.")

    model_config = showing({"command_type": "SERVER_STARTED", "command_args": ["31", "7", "3"]})


class ServerStopped(Event):
    """COMPLETE, or CRASHED when the exit code is not 0."""

    command_type: Literal["SERVER_STOPPED"]
    command_args: (
        tuple[IdOrDigits, IdOrDigits] | tuple[IdOrDigits, IdOrDigits, ExitCode | Absent]
    ) = Field(description="The ids of instance and worker and, optional, the exit code.")

    model_config = showing({"command_type": "SERVER_STOPPED", "command_args": ["31", "7", "0"]})


class StatusInfo(BaseModel):
    """What ManMan's workers publish of themselves and of their server instances."""

    entity_type: Literal["worker", "game_server_instance"]
    identifier: IdOrDigits = Field(description="Of the worker or of the server instance.")
    status_type: ReportableStatus
    as_of: datetime | None = Field(None, description="Its order; UTC without a zone.")

    model_config = showing(
        {
            "entity_type": "worker",
            "identifier": "7",
            "as_of": "2026-11-23T08:00:00Z",
            "status_type": "RUNNING",
        }
    )


class ReleaseGuard(BaseModel):
    """The held workers of a group are to be lost at once."""

    command_type: Literal["RELEASE_GUARD"]
    command_args: tuple[LabelValue] = Field(
        description="The group; empty is the workers without one."
    )

    model_config = showing({"command_type": "RELEASE_GUARD", "command_args": ["eu-1"]})


class SilenceWanted(BaseModel):
    silence_id: str = Field(
        pattern="^[0-9a-z]{4,40}$", description="The same id again changes nothing."
    )
    seconds: float = Field(gt=0, le=LONGEST_SILENCE_SECONDS)
    why: str = Field(min_length=1, max_length=LONGEST_TEXT)
    by: Text | None = None
    group: LabelValue | None = Field(None, description="Empty is the workers without one.")
    worker_id: Id | None = None
    rule: LabelValue | None = None
    labels: dict[str, LabelValue] | None = None


class Silence(BaseModel):
    """Alerts that match all that is given are not told for so long from when it is stored."""

    command_type: Literal["SILENCE"]
    command_args: tuple[SilenceWanted]

    model_config = showing(
        {
            "command_type": "SILENCE",
            "command_args": [
                {"silence_id": "a1b2c3", "seconds": 7200, "group": "eu-1", "why": "new switches"}
            ],
        }
    )


class SilenceNamed(BaseModel):
    silence_id: str


class EndSilence(BaseModel):
    """It ends now; nothing when there is none that lasts."""

    command_type: Literal["END_SILENCE"]
    command_args: tuple[SilenceNamed]

    model_config = showing(
        {"command_type": "END_SILENCE", "command_args": [{"silence_id": "a1b2c3"}]}
    )


class AlertTakenOn(BaseModel):
    alert_id: Id
    by: Text | None = None
    why: Text | None = None


class Acknowledge(BaseModel):
    """Somebody has taken an open alert on; nothing when it is not open."""

    command_type: Literal["ACKNOWLEDGE"]
    command_args: tuple[AlertTakenOn]

    model_config = showing(
        {
            "command_type": "ACKNOWLEDGE",
            "command_args": [{"alert_id": 12, "by": "ann", "why": "known"}],
        }
    )


class ForgottenWorker(BaseModel):
    worker_id: Id
    by: Text | None = None
    why: Text | None = None


class ForgottenServer(BaseModel):
    instance_id: Id
    by: Text | None = None
    why: Text | None = None


class Forget(BaseModel):
    """Delete a worker with its server instances, or one server instance; nothing when it is not
    known."""

    command_type: Literal["FORGET"]
    command_args: tuple[ForgottenWorker | ForgottenServer]

    model_config = showing(
        {
            "command_type": "FORGET",
            "command_args": [{"worker_id": 7, "by": "ann", "why": "its host is gone"}],
        }
    )


class Canary(BaseModel):
    """A processor's own message, by which it proves that all before it was stored."""

    command_type: Literal["CANARY"]
    command_args: tuple[str, str, int] | None = Field(
        None,
        description=(
            "The processor's id, the MAC that only processors can make, and how often the"
            " database's clock had stepped. One without a MAC is ignored."
        ),
    )
    sent_at: datetime = Field(description="The database's time, with a zone.")

    model_config = showing(
        {
            "command_type": "CANARY",
            "command_args": ["vm-e4049a17", "5f0c…", 0],
            "sent_at": "2026-11-23T08:00:00.5Z",
        }
    )


class StatusChange(BaseModel):
    """ManMan's `ExternalStatusInfo`, with `old_status`, `reason` and `evidence` beside."""

    identifier: str
    status_type: StatusType
    as_of: datetime
    status_info_id: int = Field(description="The transition's revision.")
    old_status: StatusType | None
    reason: Reason
    evidence: dict[str, Any] = Field(description="Whatever decided it.")


class WorkerChange(StatusChange):
    """The status of a worker has changed."""

    class_name: Literal["worker", CONCLUDED] = Field(  # type: ignore[valid-type]
        description="The entity when it was reported, else who concluded it."
    )
    entity_type: Literal["worker"]
    worker_id: int


class ServerChange(StatusChange):
    """The status of a server instance has changed."""

    class_name: Literal["game_server_instance", CONCLUDED] = Field(  # type: ignore[valid-type]
        description="The entity when it was reported, else who concluded it."
    )
    entity_type: Literal["game_server_instance"]
    game_server_instance_id: int


class Alert(BaseModel):
    """How an alert is now."""

    alert_id: int
    key: str
    rule: Literal[RULE_NAMES]  # type: ignore[valid-type]
    severity: Severity
    state: AlertState
    version: int = Field(description="Counts its changes.")
    summary: str
    group: str | None = Field(
        description="Null when it is of no one group, empty for the workers without one."
    )
    worker_id: int | None
    instance_id: int | None
    game_server_config_id: int | None
    part_of: int | None = Field(description="The alert that is its cause.")
    silenced_by: str | None
    evidence: dict[str, Any]
    opened_at: datetime
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    resolved_at: datetime | None
    resolution: str | None
