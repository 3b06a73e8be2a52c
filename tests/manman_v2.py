"""Messages in the form that a host of ManMan V2 publishes."""

from __future__ import annotations

from typing import Any, NamedTuple

EXCHANGE = "manman"
QUEUE = "manman.status.v2.0"


class Message(NamedTuple):
    body: dict[str, Any]
    key: str


def host(server_id: int, status: str) -> Message:
    return Message({"server_id": server_id, "status": status}, f"status.host.{server_id}")


def health(server_id: int, *, running: int = 0) -> Message:
    stats = {"total": running, "pending": 0, "starting": 0, "running": running, "stopping": 0}
    body = {"server_id": server_id, "session_stats": {**stats, "stopped": 0, "crashed": 0}}
    return Message(body, f"health.host.{server_id}")


def session(session_id: int, status: str, *, sgc_id: int = 0, **more: Any) -> Message:
    body = {"session_id": session_id, "sgc_id": sgc_id, "status": status, **more}
    return Message(body, f"status.session.{session_id}")
