"""Messages that nobody should send: valid ones with faults in them."""

from __future__ import annotations

import copy
import json
import random
from typing import Any


def command(kind: Any, *arguments: Any, **fields: Any) -> dict[str, Any]:
    return {"command_type": kind, "command_args": [*arguments], **fields}


HEARTBEAT = "worker.1.heartbeat"
LIFECYCLE = "worker.1.lifecycle"

BEAT = command(
    "HEARTBEAT",
    "7",
    incarnation=1_763_884_800_123_456,
    seq=3,
    sent_at="2026-11-23T08:00:00Z",
    interval_seconds=10,
    servers=[{"instance_id": 31, "game_server_config_id": 3, "status": "RUNNING"}],
    labels={"group": "a"},
)
TEMPLATES = [
    BEAT,
    [BEAT, command("SERVER_STARTED", "31", "7", "3")],
    command("SERVER_STOPPED", "31", "7", "1", sent_at="2026-11-23T08:00:00Z"),
    command("WORKER_STARTED", "7", incarnation=1_763_884_800_123_456, seq=1),
    command("WORKER_STOPPED", "7"),
    command("CANARY", "p", sent_at="2026-11-23T08:00:00Z"),
    command("RELEASE_GUARD", "a"),
    command("SILENCE", {"silence_id": "a1b2c3", "seconds": 1, "why": "x", "group": "none"}),
    command("ACKNOWLEDGE", {"alert_id": 1}),
    {
        "entity_type": "worker",
        "identifier": "7",
        "as_of": "2026-11-23T08:00:00Z",
        "status_type": "RUNNING",
    },
]
ODD: list[Any] = [
    *(None, True, -1, 0, 1.5, 2**63 - 1, 2**63, 2**64, 10**400),
    *("", "\0", "\ud800", "x" * 300, "7.0", "None", "LOST", "running"),
    *("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"),
    *([], {}, [[]], {"a": {"b": [1]}}, [{"instance_id": 31}] * 3),
]


def mutated(rng: random.Random) -> Any:
    """A valid body with one to three faults in it, as bytes."""
    body = json.loads(json.dumps(rng.choice(TEMPLATES)))
    for _ in range(rng.randint(1, 3)):
        place = body
        while True:
            if isinstance(place, dict) and place:
                name = rng.choice([*place, "command_type", "seq", "servers", "labels", "sent_at"])
            elif isinstance(place, list) and place:
                name = rng.randrange(len(place))
            else:
                break
            inner = place.get(name) if isinstance(place, dict) else place[name]
            if not isinstance(inner, dict | list) or rng.random() < 0.4:
                place[name] = copy.deepcopy(rng.choice(ODD))
                break
            place = inner
    data = bytearray(json.dumps(body).encode())
    match rng.randrange(6):
        case 0:
            data[rng.randrange(len(data))] = rng.randrange(256)
        case 1:
            del data[rng.randrange(len(data)) :]
        case 2:
            deep = rng.randint(900, 1_100)
            opening = rng.choice([b"[", b'{"a":'])
            closing = b"]" if opening == b"[" else b"}"
            data = data.replace(b'"7"', opening * deep + b"1" + closing * deep)
    return bytes(data)


KEYS = [
    HEARTBEAT,
    LIFECYCLE,
    "worker.7.status",
    "game_server_instance.31.lifecycle",
    "worker.alerts.lifecycle",
]
