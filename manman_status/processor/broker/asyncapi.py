"""The AsyncAPI document: the channels of the broker's topology, with the schemas of `wire/`.

`python -m manman_status.processor.broker.asyncapi > manman_status/api/asyncapi.json` makes it anew.
The api serves it, and a test fails when it is out of date.
"""

from __future__ import annotations

import re
import sys
from typing import Any, NamedTuple, TypeAlias

import msgspec

from manman_status.alerts.rules import RULE_NAMES
from manman_status.domain.alert import AlertState, Severity
from manman_status.domain.status import Entity, Reason, StatusType
from manman_status.wire import control, messages, outbound
from manman_status.wire.control import CONTROL_KEYS
from manman_status.wire.dialects import entrance_of
from manman_status.wire.inbound import MAX_EVENTS
from manman_status.wire.messages import ReportableStatus
from manman_status.wire.topology import Topology

Json: TypeAlias = dict[str, Any]

DESCRIPTION = (
    "What workers report, and what is published about them. Bodies are JSON in UTF-8, of at most 1"
    " MiB; section 3 of the contract names other forms that are understood as well. Exchanges and"
    " queues have the names that they have by default; all are settings."
)
TOPOLOGY = Topology()
VERSION = "1"
"""The version of what the messages say. It rises when their readers or writers have to change
something."""
AMQP_BINDING = "0.3.0"


class Channel(NamedTuple):
    """`shapes` are the structs of one message, () for any JSON. The routing key only chooses the
    queue: the body says whom an event concerns, and must fit the key where the setting
    `body_must_match_key` says so."""

    name: str
    exchange: str
    key: str
    shapes: tuple[type[msgspec.Struct], ...]
    description: str

    @property
    def is_read(self) -> bool:
        return self.exchange in {TOPOLOGY.inbound_exchange, TOPOLOGY.control_exchange}

    @property
    def queue(self) -> str:
        """The queue that it is read from."""
        is_heartbeat = self.key.endswith(".heartbeat")
        return TOPOLOGY.queues(1)[0] if is_heartbeat else TOPOLOGY.lifecycle


def _control(
    name: str, request: type[control.OperatorMessage], shape: type[msgspec.Struct], command: str
) -> Channel:
    text = f"`manman-status {command}` sends it."
    return Channel(name, TOPOLOGY.control_exchange, CONTROL_KEYS[request], (shape,), text)


CHANNELS = (
    Channel(
        "heartbeats",
        TOPOLOGY.inbound_exchange,
        "worker.{worker_id}.heartbeat",
        (messages.Heartbeat,),
        "Transient: losing one costs nothing, an old one is worth nothing.",
    ),
    Channel(
        "workerLifecycle",
        TOPOLOGY.inbound_exchange,
        "worker.{worker_id}.lifecycle",
        (messages.WorkerStarted, messages.WorkerStopped),
        "Durable: persistent, and acknowledged only after the database's commit.",
    ),
    Channel(
        "serverLifecycle",
        TOPOLOGY.inbound_exchange,
        "game_server_instance.{instance_id}.lifecycle",
        (messages.ServerStarted, messages.ServerStopped),
        "Durable, like those of workers.",
    ),
    Channel(
        "workerReports",
        TOPOLOGY.inbound_exchange,
        "worker.{worker_id}.status",
        (messages.StatusInfo,),
        "ManMan's own StatusInfo.",
    ),
    Channel(
        "serverReports",
        TOPOLOGY.inbound_exchange,
        "game_server_instance.{instance_id}.status",
        (messages.StatusInfo,),
        "ManMan's own StatusInfo.",
    ),
    *(
        Channel(
            f"canariesOf{entrance.kind.capitalize()}",
            entrance.exchange,
            entrance.canary_key,
            (control.Canary,),
            "Of the processors themselves: nobody else can sign it.",
        )
        for entrance in (entrance_of(TOPOLOGY, queue) for queue in TOPOLOGY.queues(1))
    ),
    _control("addSilence", control.SilenceRequested, control.Silence, "silence add"),
    _control("removeSilence", control.SilenceEnded, control.EndSilence, "silence remove"),
    _control("acknowledgeAlert", control.AlertAcknowledged, control.Acknowledge, "alerts ack"),
    _control("releaseGuard", control.GuardReleased, control.ReleaseGuard, "guard release"),
    _control("forget", control.ForgetRequested, control.Forget, "forget"),
    Channel(
        "workerChanges",
        TOPOLOGY.outbound_exchange,
        "worker.{worker_id}.status",
        (outbound.WorkerChange,),
        "At least once, in order for each worker. The message_id is `<epoch>-<revision>`.",
    ),
    Channel(
        "serverChanges",
        TOPOLOGY.outbound_exchange,
        "game_server_instance.{instance_id}.status",
        (outbound.ServerChange,),
        "At least once, in order for each instance. The message_id is `<epoch>-<revision>`.",
    ),
    Channel(
        "alerts",
        TOPOLOGY.outbound_exchange,
        "alert.{severity}.{rule}",
        (outbound.Alert,),
        (
            "At least once for each change of an alert's version. The message_id is"
            " alert-<alert_id>-<version>."
        ),
    ),
    Channel(
        "deadLetters",
        TOPOLOGY.dead_letter_exchange,
        "{routing_key}",
        (),
        (
            "What was not understood: an event, or an array of those that were wrong alike. One"
            " that the broker gave up has its x-death as header."
        ),
    ),
)

PARAMETERS = {
    "worker_id": "The worker's id.",
    "instance_id": "The server instance's id.",
    "severity": "critical, warning or info.",
    "rule": "The alert's rule.",
    "routing_key": "That of the message that was not understood.",
}
DEAD_LETTER_HEADERS = {
    "x-manman-error": "What is wrong, and where.",
    "x-manman-queue": "The queue it was read from.",
    "x-manman-exchange": "The exchange it came by.",
    "x-manman-routing-key": "The routing key it came by.",
    "x-manman-repeats": (
        "How many like it were only counted since the last that was kept; absent for none."
    ),
}
TRACE_HEADERS = {"traceparent": "W3C trace context, where the sender traces."}


def document() -> Json:
    """The document, with the default names of exchanges and queues."""
    return {
        "info": {"title": "manman-status", "version": VERSION, "description": DESCRIPTION},
        "asyncapi": "3.0.0",
        "defaultContentType": "application/json",
        "servers": {
            "development": {
                "host": "localhost:5672",
                "pathname": "/",
                "protocol": "amqp",
                "description": "The one that MANMAN_STATUS_RABBITMQ_URL names.",
                "protocolVersion": "0.9.1",
            }
        },
        "channels": {each.name: _channel(each) for each in CHANNELS},
        "operations": {each.name: _operation(each) for each in CHANNELS},
        "components": {
            "messages": {_message_of(each): _message(each) for each in CHANNELS},
            "schemas": _schemas(),
        },
    }


def _message_of(channel: Channel) -> str:
    """The name of its one message, among all messages."""
    return f"{channel.name}:Message"


def _channel(channel: Channel) -> Json:
    lasting = {"durable": True, "autoDelete": False, "vhost": "/"}
    place: Json = (
        {"is": "queue", "queue": {"name": channel.queue, "exclusive": False, **lasting}}
        if channel.is_read
        else {
            "is": "routingKey",
            "exchange": {"name": channel.exchange, "type": "topic", **lasting},
        }
    )
    made: Json = {
        "address": channel.key,
        "description": channel.description,
        "servers": [{"$ref": "#/servers/development"}],
        "messages": {"Message": {"$ref": f"#/components/messages/{_message_of(channel)}"}},
        "bindings": {"amqp": {**place, "bindingVersion": AMQP_BINDING}},
    }
    if parameters := re.findall(r"{(\w+)}", channel.key):
        made["parameters"] = {each: {"description": PARAMETERS[each]} for each in parameters}
    return made


def _operation(channel: Channel) -> Json:
    bindings: Json = {"cc": [channel.key], "ack": True}
    if not channel.is_read:
        bindings |= {"deliveryMode": 2, "mandatory": channel.name == "deadLetters"}
    return {
        "action": "receive" if channel.is_read else "send",
        "channel": {"$ref": f"#/channels/{channel.name}"},
        "bindings": {"amqp": {**bindings, "bindingVersion": AMQP_BINDING}},
        "messages": [{"$ref": f"#/channels/{channel.name}/messages/Message"}],
    }


def _message(channel: Channel) -> Json:
    headers = TRACE_HEADERS if channel.shapes else DEAD_LETTER_HEADERS
    return {
        "title": _message_of(channel),
        "payload": _payload(channel),
        "headers": {
            "type": "object",
            "properties": {
                name: {"type": "string", "description": text} for name, text in headers.items()
            },
        },
    }


def _payload(channel: Channel) -> Json:
    """One of its shapes. Events and requests may come many in one message, canaries alone."""
    shapes: list[Json] = [
        {"$ref": f"{messages.SCHEMAS}{shape.__name__}"} for shape in channel.shapes
    ]
    is_several = channel.is_read and channel.shapes != (control.Canary,)
    if is_several:
        element: Json = shapes[0] if len(shapes) == 1 else {"anyOf": [*shapes]}
        shapes.append({"type": "array", "items": element, "minItems": 1, "maxItems": MAX_EVENTS})
    match shapes:
        case []:
            return {}
        case [only]:
            return only
        case _:
            return {"anyOf": shapes}


def _schemas() -> Json:
    shapes = {shape for channel in CHANNELS for shape in channel.shapes}
    _, schemas = msgspec.json.schema_components(
        [*shapes, messages.RunningServer], ref_template=f"{messages.SCHEMAS}{{name}}"
    )
    for enum in (AlertState, Entity, Reason, ReportableStatus, Severity, StatusType):
        schemas[enum.__name__]["enum"] = [*enum]  # in their own order: msgspec sorts them
    schemas["Alert"]["properties"]["rule"] = {"enum": [*RULE_NAMES], "type": "string"}
    for schema in schemas.values():
        if "description" in schema:
            schema["description"] = " ".join(schema["description"].split())
        for name, field in schema.get("properties", {}).items():
            if field.get("default", ...) is not ...:
                schema["properties"][name] = _nullable(field)
    for shape in shapes:
        if examples := getattr(shape, "EXAMPLES", ()):
            schemas[shape.__name__]["examples"] = [*examples]
    return dict(sorted(schemas.items()))


def _nullable(field: Json) -> Json:
    """The schema of a field that may be left out: null counts as absent, whatever the default."""
    outside = {name: field[name] for name in ("description",) if name in field}
    value = {name: each for name, each in field.items() if name not in {"default", "description"}}
    kinds = value.pop("anyOf") if "anyOf" in value else [value]
    if {"type": "null"} not in kinds:
        kinds = [*kinds, {"type": "null"}]
    return {**outside, "anyOf": kinds}


def text() -> bytes:
    return msgspec.json.format(msgspec.json.encode(document()), indent=1) + b"\n"


if __name__ == "__main__":
    sys.stdout.buffer.write(text())
