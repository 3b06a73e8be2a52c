"""The documented shapes of answers about alerts and silences, as in `responses.py`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta

from manman_status.domain.alert import AlertState, Severity

JudgedAt: TypeAlias = Annotated[
    datetime | None,
    Meta(description="When the rules were asked last. Null, or long ago: nobody watches."),
]


class Alert(msgspec.Struct):
    alert_id: int
    key: Annotated[
        str, Meta(description="What it is about: of one key one alert at most is unresolved.")
    ]
    rule: str
    severity: Severity
    state: AlertState
    summary: str
    group: Annotated[
        str | None,
        Meta(description="Null: of no one group; empty: of the workers without a group."),
    ]
    worker_id: int | None
    instance_id: int | None
    game_server_config_id: int | None
    labels: Annotated[dict[str, str], Meta(description="The worker's, when it opened.")]
    evidence: dict[str, Any]
    part_of: Annotated[
        int | None,
        Meta(description="The alert that is its cause: people are told of that one alone."),
    ]
    parts: Annotated[int, Meta(description="How many alerts are part of it.")]
    silenced_by: Annotated[str | None, Meta(description="The silence by which it is not told now.")]
    opened_at: datetime
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    acknowledged_why: str | None
    resolved_at: datetime | None
    resolution: Annotated[str | None, Meta(description="Why it is over.")]


class Delivery(msgspec.Struct):
    """The last notification of an alert in one channel."""

    channel: str
    severity: Annotated[
        Severity | None, Meta(description="As it was told; null while nothing was.")
    ]
    told_at: datetime | None
    is_settled: Annotated[bool, Meta(description="Its end was told.")]


class AlertList(msgspec.Struct):
    items: list[Alert]
    next_cursor: str | None
    revision: int
    epoch: str
    as_of: datetime
    judged_at: JudgedAt


class AlertDetail(Alert):
    deliveries: list[Delivery]
    revision: int
    epoch: str
    as_of: datetime
    judged_at: JudgedAt


class Silence(msgspec.Struct):
    """Covers the alerts that match all of group, worker, rule and labels that are given."""

    silence_id: str
    created_at: datetime
    ends_at: datetime
    created_by: str
    why: str
    group: str | None
    worker_id: int | None
    rule: str | None
    labels: dict[str, str]
    is_active: bool
    covers: Annotated[int, Meta(description="How many unresolved alerts are not told now by it.")]


class SilenceList(msgspec.Struct):
    items: list[Silence]
    next_cursor: str | None
    revision: int
    epoch: str
    as_of: datetime
