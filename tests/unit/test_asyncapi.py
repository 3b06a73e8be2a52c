"""The AsyncAPI document is of this version of the program, and says what is understood and sent."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from importlib.resources import files
from itertools import product
from typing import Any

import jsonschema
import msgspec
import pytest
from faststream.specification.asyncapi.v3_0_0.schema import ApplicationSchema

from manman_status.alerts.rules import RULE_NAMES
from manman_status.domain.alert import AlertState, NotifiedAlert, Severity, Subject
from manman_status.domain.status import INFERRED, Entity, Reason, StatusType
from manman_status.processor.broker.asyncapi import text
from manman_status.wire.control import CONTROL_COMMANDS, CONTROL_KEYS
from manman_status.wire.inbound import decode
from manman_status.wire.messages import COMMANDS
from manman_status.wire.outbound import StatusMessage, alert_message, status_message
from manman_status.wire.topology import HEARTBEAT_KEYS, LIFECYCLE_KEYS, Topology

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SHIPPED = files("manman_status.api").joinpath("asyncapi.json").read_bytes()
DOCUMENT: dict[str, Any] = json.loads(SHIPPED)
SCHEMAS: dict[str, dict[str, Any]] = DOCUMENT["components"]["schemas"]
EVENT_SHAPES = {name: schema for name, schema in SCHEMAS.items() if "examples" in schema}
EXAMPLES = [
    (name, example) for name, schema in EVENT_SHAPES.items() for example in schema["examples"]
]


def channels(action: str) -> dict[str, dict[str, Any]]:
    """Channels of the operations of this kind, by address."""
    names = [
        name for name, operation in DOCUMENT["operations"].items() if operation["action"] == action
    ]
    return {DOCUMENT["channels"][name]["address"]: DOCUMENT["channels"][name] for name in names}


def follow(reference: str) -> Any:
    found = DOCUMENT
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def payload(channel: dict[str, Any]) -> dict[str, Any]:
    [message] = channel["messages"].values()
    return follow(message["$ref"])["payload"]


def problems(instance: Any, schema: dict[str, Any]) -> list[str]:
    validator = jsonschema.Draft202012Validator({**schema, "components": DOCUMENT["components"]})
    return [error.message for error in validator.iter_errors(instance)]


def test_the_shipped_document_is_up_to_date() -> None:
    assert text() == SHIPPED, (
        "a message or a channel has changed: run `python -m manman_status.processor.broker.asyncapi"
        " > manman_status/api/asyncapi.json`, and see what became of it"
    )


def test_the_document_is_valid_asyncapi() -> None:
    """FastStream's model of the specification validates it."""
    assert ApplicationSchema.model_validate(DOCUMENT).asyncapi == "3.0.0"


def test_every_reference_leads_somewhere() -> None:
    for reference in re.findall(r'"\$ref": ?"([^"]+)"', SHIPPED.decode()):
        assert follow(reference), reference


def test_every_binding_of_the_queues_has_its_channels() -> None:
    topology = Topology()
    received = channels("receive")
    for queue, keys in (
        (topology.queues(1)[0], HEARTBEAT_KEYS),
        (topology.lifecycle, (*LIFECYCLE_KEYS, *CONTROL_KEYS.values())),
    ):
        patterns = {key.replace("*", "[^.]+") for key in keys}
        addresses = [
            address
            for address, found in received.items()
            if found["bindings"]["amqp"]["queue"]["name"] == queue
        ]
        assert addresses
        assert all(
            any(re.fullmatch(pattern, address) for pattern in patterns) for address in addresses
        )
        assert all(
            any(re.fullmatch(pattern, address) for address in addresses) for pattern in patterns
        )


def test_every_command_is_documented_with_an_example() -> None:
    documented = {
        kind
        for schema in EVENT_SHAPES.values()
        for kind in schema["properties"].get("command_type", {}).get("enum", ())
    }
    assert documented == COMMANDS.keys() | CONTROL_COMMANDS.keys()


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_null_counts_as_absent_in_every_optional_field(name: str, example: dict[str, Any]) -> None:
    schema = EVENT_SHAPES[name]
    nulls = dict.fromkeys(schema["properties"].keys() - set(schema["required"]))
    assert problems(example | nulls, schema) == []
    assert decode(json.dumps(example | nulls).encode()).poison == []


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_each_example_is_understood_alone_and_in_an_array(
    name: str, example: dict[str, Any]
) -> None:
    assert problems(example, SCHEMAS[name]) == []
    for body, count in ((example, 1), ([example] * 3, 3)):
        decoded = decode(json.dumps(body).encode())
        assert (len(decoded.events) + len(decoded.control), decoded.poison) == (count, [])
    taking = [
        address
        for address, channel in channels("receive").items()
        if problems(example, payload(channel)) == []
    ]
    assert taking, "no channel takes it"


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_what_is_required_is_what_cannot_be_left_out(name: str, example: dict[str, Any]) -> None:
    schema = EVENT_SHAPES[name]
    for field in example:
        less = {key: value for key, value in example.items() if key != field}
        is_poison = bool(decode(json.dumps(less).encode()).poison)
        assert is_poison == (field in schema["required"]), field
        assert bool(problems(less, schema)) == is_poison


BAD = [
    {"command_args": []},
    {"command_args": ["x"]},
    {"command_args": [0]},
    {"command_args": [2**63]},
    {"command_args": "7"},
    {"servers": [{}]},
    {"servers": [{"instance_id": 31, "status": "LOST"}]},
    {"labels": {"": "x"}},
    {"labels": {"k": "x" * 256}},
    {"labels": {f"k{n}": "" for n in range(65)}},
]
LIBERAL = [
    {"seq": 0},
    {"incarnation": "5"},
    {"interval_seconds": "10"},
    {"servers": [{"instance_id": "31"}]},
    {"labels": {"k": 1}},
]
"""Understood, though the document does not say that it may be sent."""
GOOD = [
    {"command_args": [7]},
    {"command_args": [2**63 - 1]},
    {"interval_seconds": 0.1},
    {"servers": []},
    {"servers": [{"instance_id": 31, "status": None}]},
    {"labels": None, "servers": None, "seq": None, "sent_at": None},
    {"labels": {"k" * 63: "x" * 255}},
    {"unknown": 1},
]


@pytest.mark.parametrize("fields", [*BAD, *LIBERAL, *GOOD], ids=str)
def test_the_document_and_the_program_agree_what_is_poison(fields: dict[str, Any]) -> None:
    beat = {"command_type": "HEARTBEAT", "command_args": ["7"]} | fields
    assert bool(decode(json.dumps(beat).encode()).poison) == (fields in BAD)
    assert bool(problems(beat, SCHEMAS["Heartbeat"])) == (fields not in GOOD)


@pytest.mark.parametrize(
    "arguments",
    [
        *(["31", "7"], [31, 7, "3"], [31, 7, ""], [31, 7, None], ["31"], ["31", "7", "x"]),
        *(["31", None], [31, "", "3"], ["31", "x", "3"], []),
    ],
)
def test_optional_arguments_are_described_as_understood(arguments: list[Any]) -> None:
    for name, kind in (("ServerStarted", "SERVER_STARTED"), ("ServerStopped", "SERVER_STOPPED")):
        event = {"command_type": kind, "command_args": arguments}
        assert bool(problems(event, SCHEMAS[name])) == bool(
            decode(json.dumps(event).encode()).poison
        )


def sent_to(message: StatusMessage) -> dict[str, Any]:
    """The channel whose address fits; there is one."""
    fitting = [
        channel
        for address, channel in channels("send").items()
        if re.fullmatch(re.sub(r"{\w+}", "[^.]+", address), message.routing_key)
    ]
    [channel] = fitting
    return channel


def check(message: StatusMessage) -> None:
    channel = sent_to(message)
    assert channel["bindings"]["amqp"]["exchange"]["name"] == Topology().outbound_exchange
    body, schema = json.loads(message.body), follow(payload(channel)["$ref"])
    assert problems(body, schema) == []
    assert body.keys() == schema["properties"].keys() == set(schema["required"])


def test_every_change_that_is_sent_is_as_described() -> None:
    for entity, reason, old in product(Entity, Reason, (None, StatusType.RUNNING)):
        new = StatusType.LOST if reason in INFERRED else StatusType.COMPLETE
        check(
            status_message(
                epoch="0a1b2c3d",
                revision=5,
                at=NOW,
                as_of=NOW,
                entity=entity,
                entity_id=7,
                old_status=old,
                new_status=new,
                reason=reason,
                evidence={"exit_code": 0},
            )
        )


def test_every_alert_that_is_sent_is_as_described() -> None:
    for rule, severity, state in product(RULE_NAMES, Severity, AlertState):
        is_over = state is AlertState.RESOLVED
        fields: dict[str, Any] = {
            field.name: None for field in msgspec.structs.fields(NotifiedAlert)
        }
        fields |= {
            "alert_id": 1,
            "key": "k",
            "rule": rule,
            "severity": severity,
            "state": state,
            "version": 2,
        }
        fields |= {
            "summary": "s",
            "subject": Subject(group="eu", worker_id=7),
            "evidence": {"a": [1]},
            "opened_at": NOW,
        }
        fields |= {
            "resolved_at": NOW if is_over else None,
            "resolution": "over" if is_over else None,
        }
        check(alert_message(NotifiedAlert(**fields)))


def test_dead_letters_have_the_described_headers() -> None:
    [channel] = [found for address, found in channels("send").items() if address == "{routing_key}"]
    assert channel["bindings"]["amqp"]["exchange"]["name"] == Topology().dead_letter_exchange
    [message] = channel["messages"].values()
    described = follow(message["$ref"])["headers"]["properties"].keys()
    names = ("error", "queue", "exchange", "routing-key", "repeats")
    assert described == {f"x-manman-{name}" for name in names}
