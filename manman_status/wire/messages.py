"""The messages of workers, each said once: its shape, its bounds, what it means, and examples.

The struct that `command_type` picks decodes a message, encodes it for the reporter, and is its
schema in the AsyncAPI document. What these structs refuse is not wrong yet: `liberal.py` reads it
again. Null counts as absent, and a field that is not named here is ignored.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from hashlib import blake2b
from typing import Annotated, Any, ClassVar, TypeAlias, get_args

import msgspec
from msgspec import UNSET, Meta, UnsetType

from manman_status.domain import events
from manman_status.domain.liveness import bounded_interval
from manman_status.domain.status import Entity, StatusType
from manman_status.wire.reasons import UNREADABLE, unreadable
from manman_status.wire.values import (
    MAX_BIGINT,
    MAX_LABEL_KEY,
    MAX_LABEL_VALUE,
    MAX_LABELS,
    as_exit_code,
    epoch_microseconds,
    identity,
    is_placeholder,
    microseconds,
)

SCHEMAS = "#/components/schemas/"
"""The place of named schemas in the AsyncAPI document."""

Examples: TypeAlias = tuple[dict[str, Any], ...]
Id: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_BIGINT)]
IdOrDigits: TypeAlias = Id | Annotated[str, Meta(pattern="^[0-9]{1,19}$")]
ExitCode: TypeAlias = (
    Annotated[int, Meta(ge=-MAX_BIGINT, le=MAX_BIGINT)]
    | Annotated[str, Meta(pattern="^(-?[0-9]{1,19}|None|null)?$")]
    | None
)
OptionalId: TypeAlias = Id | Annotated[str, Meta(pattern="^([0-9]{1,19}|None|null)?$")] | None
"""Null, an empty text, "None" and "null" hold the place of an argument that is not given."""
Time: TypeAlias = Annotated[datetime, Meta(extra_json_schema={"format": "date-time"})]
"""A time; UTC when it has no zone."""
LabelValue: TypeAlias = Annotated[str, Meta(max_length=MAX_LABEL_VALUE)]
Labels: TypeAlias = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=MAX_LABEL_KEY)], LabelValue],
    Meta(max_length=MAX_LABELS),
]


def takes(description: str, *shapes: Any) -> Meta:
    """Describe `command_args` that have one of these shapes, with their bounds and their schema.

    Only the number of arguments is checked while decoding: `meaning` checks each by itself.
    """
    schemas = [msgspec.json.schema(shape) for shape in shapes]
    return Meta(
        description=description,
        min_length=min(schema["minItems"] for schema in schemas),
        max_length=max(schema["maxItems"] for schema in schemas),
        extra_json_schema=schemas[0] if len(schemas) == 1 else {"anyOf": schemas},
    )


class ReportableStatus(StrEnum):
    """A status that can be reported: LOST is only ever concluded."""

    CREATED = "CREATED"
    INITIALIZING = "INITIALIZING"
    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    CRASHED = "CRASHED"


class RunningServer(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A server instance as heartbeats list it."""

    instance_id: Id
    game_server_config_id: Id | None = None
    status: Annotated[
        ReportableStatus | None,
        Meta(description="RUNNING when it is not given; a terminal one ends it."),
    ] = None


class Command(msgspec.Struct, tag_field="command_type", omit_defaults=True, gc=False):
    """One of ManMan's Commands that reports something."""

    ARGUMENTS: ClassVar[tuple[str, ...]] = ("worker_id",)
    """The names of the ids among the arguments, in their order."""
    REQUIRED: ClassVar[int] = 1
    """The number of arguments that must be given."""
    EXAMPLES: ClassVar[Examples] = ()

    command_args: list[Any]
    incarnation: Annotated[
        Id | None,
        Meta(
            description="Start of the worker's process in µs since the epoch: a later start is a"
            " larger number."
        ),
    ] = None
    seq: Annotated[Id | None, Meta(description="Counts this incarnation's events from 1.")] = None
    sent_at: Annotated[
        Time | None,
        Meta(description="Orders what has no incarnation and seq; UTC without a zone."),
    ] = None

    def meaning(self) -> events.ReportedEvent:
        """Return the event. Raises PoisonMessage for an argument that is not valid."""
        raise NotImplementedError


class Heartbeat(Command, tag="HEARTBEAT", gc=False):
    """The worker lives. What it does not carry stays as it was."""

    EVENT: ClassVar[type[events.Heartbeat]] = events.Heartbeat
    EXAMPLES: ClassVar[Examples] = (
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

    command_args: Annotated[list[Any], takes("The worker's id.", tuple[IdOrDigits])]
    interval_seconds: Annotated[
        float | None,
        Meta(description="Between two heartbeats; 1 to 3,600, beyond that the nearer."),
    ] = None
    servers: Annotated[
        msgspec.Raw | UnsetType,
        Meta(
            description="All that run: the complete inventory.",
            extra_json_schema={
                "anyOf": [
                    {"type": "array", "items": {"$ref": f"{SCHEMAS}RunningServer"}},
                    {"type": "null"},
                ]
            },
        ),
    ] = UNSET
    """The JSON as it came: most inventories repeat the one before, and are never taken apart."""
    labels: Labels | None = None

    def meaning(self) -> events.Heartbeat:
        interval, servers = self.interval_seconds, self.servers
        return self.EVENT(
            incarnation=epoch_microseconds(self.incarnation),
            seq=self.seq,
            sent_at=microseconds(self.sent_at),
            worker_id=identity(self.command_args[0], "$.command_args[0]"),
            interval_seconds=None if interval is None else bounded_interval(interval),
            labels=self.labels,
            servers=None if servers is UNSET else inventory(servers),
        )


class WorkerStarted(Heartbeat, tag="WORKER_STARTED", gc=False):
    """A new incarnation of the worker begins."""

    EVENT = events.WorkerStarted
    EXAMPLES = (
        {
            "command_type": "WORKER_STARTED",
            "command_args": ["7"],
            "incarnation": 1763884800123456,
            "seq": 1,
        },
    )


class WorkerStopped(Command, tag="WORKER_STOPPED", gc=False):
    """A graceful end: COMPLETE, never LOST."""

    EXAMPLES = ({"command_type": "WORKER_STOPPED", "command_args": ["7"]},)

    command_args: Annotated[list[Any], takes("The worker's id.", tuple[IdOrDigits])]

    def meaning(self) -> events.WorkerStopped:
        return events.WorkerStopped(
            incarnation=epoch_microseconds(self.incarnation),
            seq=self.seq,
            sent_at=microseconds(self.sent_at),
            worker_id=identity(self.command_args[0], "$.command_args[0]"),
        )


class ServerStarted(Command, tag="SERVER_STARTED", gc=False):
    """The server instance is RUNNING."""

    ARGUMENTS = ("instance_id", "worker_id")
    REQUIRED = 2
    EXAMPLES = ({"command_type": "SERVER_STARTED", "command_args": ["31", "7", "3"]},)

    command_args: Annotated[
        list[Any],
        takes(
            "The ids of instance, worker and, optional, game server config.",
            tuple[IdOrDigits, IdOrDigits],
            tuple[IdOrDigits, IdOrDigits, OptionalId],
        ),
    ]

    def meaning(self) -> events.ServerStarted:
        instance_id, worker_id, *others = self.command_args
        has_config = bool(others) and not is_placeholder(others[0])
        return events.ServerStarted(
            incarnation=epoch_microseconds(self.incarnation),
            seq=self.seq,
            sent_at=microseconds(self.sent_at),
            instance_id=identity(instance_id, "$.command_args[0]"),
            worker_id=identity(worker_id, "$.command_args[1]"),
            game_server_config_id=identity(others[0], "$.command_args[2]") if has_config else None,
        )


class ServerStopped(Command, tag="SERVER_STOPPED", gc=False):
    """COMPLETE, or CRASHED when the exit code is not 0."""

    ARGUMENTS = ("instance_id", "worker_id")
    EXAMPLES = ({"command_type": "SERVER_STOPPED", "command_args": ["31", "7", "0"]},)

    command_args: Annotated[
        list[Any],
        takes(
            "The id of the instance and, both optional, its worker's id and the exit code.",
            tuple[IdOrDigits],
            tuple[IdOrDigits, OptionalId],
            tuple[IdOrDigits, OptionalId, ExitCode],
        ),
    ]

    def meaning(self) -> events.ServerStopped:
        instance_id, *others = self.command_args
        worker_id, exit_code, *_ = *others, None, None
        has_worker, has_code = not is_placeholder(worker_id), not is_placeholder(exit_code)
        return events.ServerStopped(
            incarnation=epoch_microseconds(self.incarnation),
            seq=self.seq,
            sent_at=microseconds(self.sent_at),
            instance_id=identity(instance_id, "$.command_args[0]"),
            worker_id=identity(worker_id, "$.command_args[1]") if has_worker else None,
            exit_code=as_exit_code(exit_code, "$.command_args[2]") if has_code else None,
        )


class StatusInfo(msgspec.Struct, gc=False):
    """ManMan's own report of a worker or of a server instance."""

    EXAMPLES: ClassVar[Examples] = (
        {
            "entity_type": "worker",
            "identifier": "7",
            "as_of": "2026-11-23T08:00:00Z",
            "status_type": "RUNNING",
        },
    )

    entity_type: Entity
    identifier: Annotated[IdOrDigits, Meta(description="Of the worker or of the server instance.")]
    status_type: ReportableStatus
    as_of: Annotated[Time | None, Meta(description="Its order; UTC without a zone.")] = None

    def meaning(self) -> events.WorkerStatusReported | events.ServerStatusReported:
        identifier = identity(self.identifier, "$.identifier")
        sent_at, status = microseconds(self.as_of), StatusType(self.status_type)
        if self.entity_type is Entity.WORKER:
            return events.WorkerStatusReported(sent_at=sent_at, worker_id=identifier, status=status)
        return events.ServerStatusReported(sent_at=sent_at, instance_id=identifier, status=status)


AnyCommand: TypeAlias = Heartbeat | WorkerStarted | WorkerStopped | ServerStarted | ServerStopped
COMMANDS: dict[str, type[AnyCommand]] = {
    str(command.__struct_config__.tag): command for command in get_args(AnyCommand)
}
"""The commands by their `command_type`."""
IGNORED_COMMANDS = frozenset({"START", "STOP", "STDIN"})
"""ManMan's own commands to its workers: they pass on the same exchange and are not ours."""

_decode_servers = msgspec.json.Decoder(list[RunningServer] | None).decode


def inventory(servers: msgspec.Raw) -> events.Inventory | None:
    """Decode an inventory; None for null. Raises PoisonMessage.

    It is checked now, but only taken apart when it says something new: most repeat the one before.
    """
    raw = bytes(servers)
    try:
        listed = _decode_servers(raw)
    except UNREADABLE as error:
        raise unreadable(error, at="$.servers") from None
    if listed is None:
        return None
    digest = int.from_bytes(blake2b(raw, digest_size=8).digest(), signed=True)
    return events.Inventory(digest or 1, lambda: _entries(listed))  # 0 stands for "none yet"


def _entries(servers: list[RunningServer]) -> tuple[events.InventoryEntry, ...]:
    entries = {
        server.instance_id: events.InventoryEntry(
            server.instance_id,
            StatusType(server.status or StatusType.RUNNING),
            server.game_server_config_id,
        )
        for server in servers
    }
    return tuple(entries[instance_id] for instance_id in sorted(entries))
