"""The dialect of ManMan V2: its hosts become workers, its sessions become server instances, and its
health messages become heartbeats.

The routing key says what a message is, and of whom. The body repeats the id, and both must agree.
Nothing in a message gives its time but AMQP's own timestamp, which has whole seconds: the order is
the order of arrival on one queue. V2 publishes without confirmation, so a host that was started may
be known by its heartbeats alone.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, TypeAlias

import msgspec
from msgspec import Meta

from manman_status.domain import events
from manman_status.domain.status import StatusType
from manman_status.errors import PoisonMessage
from manman_status.wire.bodies import unpack
from manman_status.wire.control import canary_key
from manman_status.wire.inbound import Admit, Decoded, Poison
from manman_status.wire.inbound import decode as decode_manman
from manman_status.wire.messages import Id
from manman_status.wire.reasons import bounded, shown, unreadable
from manman_status.wire.topology import V2_KEYS
from manman_status.wire.values import MAX_BIGINT

CANARY_KEY: Final = canary_key(V2_KEYS[-1])
HEALTH_EVERY_SECONDS: Final = 5.0
"""The interval at which a host publishes its health."""

SESSION_STATUSES = {
    "pending": StatusType.CREATED,
    "starting": StatusType.INITIALIZING,
    "running": StatusType.RUNNING,
    "stopping": StatusType.RUNNING,
    "stopped": StatusType.COMPLETE,
    "completed": StatusType.COMPLETE,
    "crashed": StatusType.CRASHED,
    "lost": StatusType.LOST,
}


class HostStatus(msgspec.Struct):
    """A host manager has started or stops, or its controller has not received it for a while."""

    ID: ClassVar[str] = "server_id"

    server_id: Id
    status: str

    def meaning(self) -> events.ReportedEvent | None:
        """Return the event. None for `stale`, the controller's own guess from a silence that is
        judged here too. Raises PoisonMessage."""
        match self.status:
            case "online":
                return events.WorkerStarted(
                    worker_id=self.server_id, interval_seconds=HEALTH_EVERY_SECONDS
                )
            case "offline":
                return events.WorkerStopped(worker_id=self.server_id)
            case "stale":
                return None
        raise PoisonMessage("is no known status of a host", at="$.status", found=shown(self.status))


class HostHealth(msgspec.Struct):
    """A host is alive. Its `session_stats` count sessions and name none."""

    ID: ClassVar[str] = "server_id"

    server_id: Id

    def meaning(self) -> events.ReportedEvent:
        return events.Heartbeat(
            worker_id=self.server_id, interval_seconds=HEALTH_EVERY_SECONDS, outlives_an_end=True
        )


class SessionStatus(msgspec.Struct):
    """The status of a session. `sgc_id` is the configuration of its game server, and 0 when the
    host did not know it."""

    ID: ClassVar[str] = "session_id"

    session_id: Id
    status: str
    sgc_id: Annotated[int, Meta(ge=0, le=MAX_BIGINT)] | None = None
    exit_code: Annotated[int, Meta(ge=-MAX_BIGINT, le=MAX_BIGINT)] | None = None

    def meaning(self) -> events.ReportedEvent:
        """Return the event. Raises PoisonMessage."""
        status = SESSION_STATUSES.get(self.status)
        if status is None:
            found = shown(self.status)
            raise PoisonMessage("is no known status of a session", at="$.status", found=found)
        is_ours = self.status == status.lower()
        return events.ServerStatusReported(
            instance_id=self.session_id,
            status=status,
            reported_as="" if is_ours else self.status,
            exit_code=self.exit_code,
            game_server_config_id=self.sgc_id or None,
        )


Message: TypeAlias = HostStatus | HostHealth | SessionStatus
SHAPES: dict[str, type[Message]] = {
    "status.host": HostStatus,
    "health.host": HostHealth,
    "status.session": SessionStatus,
}
"""The shape of a message, by its routing key without the id at its end."""
_decoders = {kind: msgspec.json.Decoder(shape, strict=False) for kind, shape in SHAPES.items()}


def decode(
    body: bytes,
    admit: Admit | None = None,
    *,
    routing_key: str = "",
    content_encoding: str | None = None,
    content_type: str | None = None,
) -> Decoded:
    """Decode one message. Never raises, like the decoder of ManMan's own dialect, which reads the
    canaries and the control messages in V2's queue. Other messages about hosts are ignored."""
    kind, _, named = routing_key.rpartition(".")
    if kind not in SHAPES:
        if kind.endswith(".host") and routing_key != CANARY_KEY:
            return Decoded(json_bytes=len(body), ignored=1)
        return decode_manman(
            body, admit, content_encoding=content_encoding, content_type=content_type
        )
    try:
        text = unpack(body)
        message: Message = _decoders[kind].decode(text)
        _check_id(message, named)
        decoded = Decoded(json_bytes=len(text))
        decoded.take(message.meaning(), admit)
    except Exception as error:  # noqa: BLE001 - the boundary of one message
        problem = unreadable(error)
        sender = f"worker {named}" if kind.endswith(".host") and named.isdecimal() else ""
        poison = Poison(bounded(problem.reason), body, bounded(problem.cause), sender[:40])
        return Decoded(json_bytes=len(body), poison=[poison])
    return decoded


def _check_id(message: Message, named: str) -> None:
    """Raise PoisonMessage unless the body is about what the routing key names."""
    number = str(getattr(message, message.ID))
    if number != named:
        raise PoisonMessage(
            "is not the id that the routing key names", at=f"$.{message.ID}", found=number
        )
