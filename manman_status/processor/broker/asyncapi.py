"""The AsyncAPI document: what is received from the broker and what is sent to it, made by
FastStream.

`python -m manman_status.processor.broker.asyncapi > manman_status/api/asyncapi.json` makes it anew.
The api gives it out, and a test tells when it is out of date.
"""

from __future__ import annotations

import re
import sys
from typing import Annotated, Any

import msgspec
from faststream.rabbit import RabbitBroker, RabbitQueue
from faststream.specification import AsyncAPI
from pydantic import Field

from manman_status.processor.broker import messages as shapes
from manman_status.processor.broker.declare import topic
from manman_status.wire.inbound import MAX_EVENTS
from manman_status.wire.notices import (
    CANARY_KEYS,
    CONTROL_KEYS,
    AlertAcknowledged,
    Forget,
    GuardReleased,
    SilenceAsked,
    SilenceEnded,
)
from manman_status.wire.topology import Topology

DESCRIPTION = """What workers report, and what is told of them. Bodies are JSON in UTF-8, of at \
most 1 MiB; section 3 of the contract names other forms that are understood as well. Exchanges \
and queues have the names that they have by default; all are settings."""
TOPOLOGY = Topology()
VERSION = "1"
"""Of what the messages say. Counted up when whoever reads or writes them has to change
something."""


def one_or_more(shape: Any) -> Any:
    return shape | Annotated[list[shape], Field(min_length=1, max_length=MAX_EVENTS)]


RECEIVED = (
    (
        "heartbeats",
        "worker.{worker_id}.heartbeat",
        one_or_more(shapes.Heartbeat),
        "Transient: losing one costs nothing, an old one is worth nothing.",
    ),
    (
        "workerLifecycle",
        "worker.{worker_id}.lifecycle",
        one_or_more(shapes.WorkerStarted | shapes.WorkerStopped),
        "Durable: persistent, and acknowledged only after the database's commit.",
    ),
    (
        "serverLifecycle",
        "game_server_instance.{instance_id}.lifecycle",
        one_or_more(shapes.ServerStarted | shapes.ServerStopped),
        "Durable, like those of workers.",
    ),
    (
        "workerReports",
        "worker.{worker_id}.status",
        one_or_more(shapes.StatusInfo),
        "ManMan's own StatusInfo.",
    ),
    (
        "serverReports",
        "game_server_instance.{instance_id}.status",
        one_or_more(shapes.StatusInfo),
        "ManMan's own StatusInfo.",
    ),
    *(
        (
            f"canariesOf{queue.capitalize()}",
            key,
            shapes.Canary,
            "Of the processors themselves: nobody else can sign it.",
        )
        for queue, key in CANARY_KEYS.items()
    ),
)
"""Name, routing key, body, description, of what comes by the inbound exchange. The key only chooses
the queue: the body tells whom an event concerns, and must fit the key where the setting
`body_must_match_key` says so."""

CONTROL = (
    (
        "addSilence",
        CONTROL_KEYS[SilenceAsked],
        one_or_more(shapes.Silence),
        "`manman-status silence add` sends it.",
    ),
    (
        "removeSilence",
        CONTROL_KEYS[SilenceEnded],
        one_or_more(shapes.EndSilence),
        "`manman-status silence remove` sends it.",
    ),
    (
        "acknowledgeAlert",
        CONTROL_KEYS[AlertAcknowledged],
        one_or_more(shapes.Acknowledge),
        "`manman-status alerts ack` sends it.",
    ),
    (
        "releaseGuard",
        CONTROL_KEYS[GuardReleased],
        one_or_more(shapes.ReleaseGuard),
        "`manman-status guard release` sends it.",
    ),
    (
        "forget",
        CONTROL_KEYS[Forget],
        one_or_more(shapes.Forget),
        "`manman-status forget` sends it.",
    ),
)
"""The same of what comes by the control exchange."""

SENT = (
    (
        "workerChanges",
        TOPOLOGY.outbound_exchange,
        "worker.{worker_id}.status",
        shapes.WorkerChange,
        "At least once, in order for each worker. The message_id is `<epoch>-<revision>`.",
    ),
    (
        "serverChanges",
        TOPOLOGY.outbound_exchange,
        "game_server_instance.{instance_id}.status",
        shapes.ServerChange,
        "At least once, in order for each instance. The message_id is `<epoch>-<revision>`.",
    ),
    (
        "alerts",
        TOPOLOGY.outbound_exchange,
        "alert.{severity}.{rule}",
        shapes.Alert,
        (
            "At least once for each change of an alert's version. The message_id is"
            " alert-<alert_id>-<version>."
        ),
    ),
    (
        "deadLetters",
        TOPOLOGY.dead_letter_exchange,
        "{routing_key}",
        Any,
        (
            "What was not understood: an event, or an array of those that were wrong alike. One"
            " that the broker gave up has its x-death as header."
        ),
    ),
)
"""Name, exchange, routing key, body, description."""

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


def document() -> dict[str, Any]:
    """With the default names of exchanges and queues."""
    specification = AsyncAPI(
        _broker(), title="manman-status", version=VERSION, description=DESCRIPTION
    )
    made: dict[str, Any] = specification.to_specification().to_jsonable()
    # FastStream keeps what is registered in no order.
    for part in ("channels", "operations"):
        made[part] = {name: made[part][name] for name, *_ in (*RECEIVED, *CONTROL, *SENT)}
    made["components"] = {
        part: dict(sorted(found.items())) for part, found in made["components"].items()
    }
    for name, schema in made["components"]["schemas"].items():
        if "description" in schema:
            schema["description"] = " ".join(schema["description"].split())
        if "examples" in schema:
            # In the order in which they are read: pydantic sorts their fields by name.
            schema["examples"] = getattr(shapes, name).model_config["json_schema_extra"]["examples"]
    for name, channel in made["channels"].items():
        if parameters := re.findall(r"{(\w+)}", channel["address"]):
            channel["parameters"] = {each: {"description": PARAMETERS[each]} for each in parameters}
        for key in channel["messages"]:
            headers = DEAD_LETTER_HEADERS if name == "deadLetters" else TRACE_HEADERS
            message = made["components"]["messages"][f"{name}:{key}"]
            del message["correlationId"]  # FastStream's own: nobody here has one
            message["headers"] = {
                "type": "object",
                "properties": {
                    each: {"type": "string", "description": text} for each, text in headers.items()
                },
            }
    return made


def _broker() -> RabbitBroker:
    """Never connected. The real subscribers take messages raw, many at once, so their bodies are
    told here."""
    broker = RabbitBroker(description="The one that MANMAN_STATUS_RABBITMQ_URL names.")
    received = [(TOPOLOGY.inbound_exchange, *each) for each in RECEIVED]
    received += [(TOPOLOGY.control_exchange, *each) for each in CONTROL]
    for exchange, name, key, body, description in received:
        queue = TOPOLOGY.queues(1)[0] if key.endswith(".heartbeat") else TOPOLOGY.lifecycle

        async def receive(event: Any) -> None: ...

        receive.__annotations__["event"] = body
        broker.subscriber(
            RabbitQueue(queue, durable=True, routing_key=key),
            topic(exchange),
            title=name,
            description=description,
        )(receive)
    for name, exchange, key, body, description in SENT:
        broker.publisher(
            exchange=topic(exchange),
            routing_key=key,
            persist=True,
            title=name,
            schema=body,
            description=description,
        )
    return broker


def text() -> bytes:
    return msgspec.json.format(msgspec.json.encode(document()), indent=1) + b"\n"


if __name__ == "__main__":
    sys.stdout.buffer.write(text())
