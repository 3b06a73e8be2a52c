"""Queries for alerts and silences, the newest first, as JSON that PostgreSQL writes: one statement
an answer."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING

import msgspec

from manman_status.domain.alert import AlertState, Severity
from manman_status.errors import UnknownAlert
from manman_status.store.details import Detail
from manman_status.store.health import OBSERVATION
from manman_status.store.reads import Page, observation_of, page_of, utc

if TYPE_CHECKING:
    from manman_status.store.pool import Connection


class AlertSelection(StrEnum):
    """States to list; `unresolved` is open or acknowledged."""

    UNRESOLVED = "unresolved"
    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"
    ALL = "all"


class SilenceSelection(StrEnum):
    LASTING = "lasting"
    ENDED = "ended"
    ALL = "all"


class AlertFilters(msgspec.Struct, frozen=True):
    state: AlertSelection = AlertSelection.UNRESOLVED
    severity: Severity | None = None
    rule: str | None = None
    group_name: str | None = None
    """Empty: of the workers without a group."""
    worker_id: int | None = None
    part_of: int | None = None


class SilenceFilters(msgspec.Struct, frozen=True):
    state: SilenceSelection = SilenceSelection.LASTING


class AlertPage(Page, frozen=True):
    """A page with the time at which alerts were judged last; None: never."""

    judged_at: datetime | None


class AlertDetail(Detail, frozen=True):
    judged_at: datetime | None


COVERS = """(s.group_name IS NULL OR s.group_name = a.group_name)
       AND (s.worker_id IS NULL OR s.worker_id = a.worker_id)
       AND (s.rule IS NULL OR s.rule = a.rule)
       AND a.labels @> s.labels"""
"""True when the silence `s`, while it lasts, covers the alert `a`."""
SILENCED_BY = f"""(
    SELECT s.silence_id FROM silences s
     WHERE s.ends_at > now() AND {COVERS}
     ORDER BY s.ends_at DESC LIMIT 1
)"""
"""The silence that covers the alert `a` longest, or null."""
ALERT_ITEM = f"""alert_id, key, rule, severity, state, summary, group_name AS "group", worker_id,
    instance_id,
    game_server_config_id, labels, evidence, part_of,
    (SELECT count(*) FROM alerts part WHERE part.part_of = a.alert_id) AS parts,
    CASE WHEN resolved_at IS NULL THEN {SILENCED_BY} END AS silenced_by,
    {utc("opened_at")} AS opened_at,
    {utc("acknowledged_at")} AS acknowledged_at, acknowledged_by, acknowledged_why,
    {utc("resolved_at")} AS resolved_at, resolution"""
SILENCE_ITEM = f"""silence_id, {utc("created_at")} AS created_at, {utc("ends_at")} AS ends_at,
    created_by, why,
    group_name AS "group", worker_id, rule, labels, ends_at > now() AS is_active,
    (SELECT count(*) FROM alerts a WHERE s.ends_at > now() AND a.resolved_at IS NULL AND {COVERS})
        AS covers"""


def page_query(key: str, item: str, rows: str, alias: str) -> str:
    """Put together the query of a page from constants. `key`: the column of the cursor; `rows`:
    a table and its conditions. $1 is the id to begin below, $2 the limit."""
    return f"""WITH {OBSERVATION}
SELECT as_of, lag_seconds, revision, epoch, (SELECT judged_at FROM alert_progress) AS judged_at,
    ids, items
FROM observed, (
    SELECT array_agg(id) AS ids, array_agg(item) AS items
    FROM (
        SELECT {key} AS id, (SELECT row_to_json(i)::text FROM (SELECT {item}) i) AS item
        FROM (SELECT * FROM {rows} ORDER BY {key} DESC LIMIT $2) {alias}
    ) listed
) page"""


# Each names `resolved_at`, so that the partial index of unresolved alerts is used.
ALERTS_SELECTED = {
    AlertSelection.UNRESOLVED: "resolved_at IS NULL",
    AlertSelection.OPEN: f"resolved_at IS NULL AND state = '{AlertState.OPEN}'",
    AlertSelection.ACKNOWLEDGED: f"resolved_at IS NULL AND state = '{AlertState.ACKNOWLEDGED}'",
    AlertSelection.RESOLVED: "resolved_at IS NOT NULL",
    AlertSelection.ALL: "true",
}


@cache
def alerts_query(state: AlertSelection, given: tuple[str, ...]) -> str:
    """The query of alerts; $3… are the values of the columns `given`."""
    conditions = [ALERTS_SELECTED[state], "alert_id < $1"]
    conditions += [f"{column} = ${number}" for number, column in enumerate(given, start=3)]
    return page_query("alert_id", ALERT_ITEM, f"alerts WHERE {' AND '.join(conditions)}", "a")


async def list_alerts(
    connection: Connection, filters: AlertFilters, *, before: int, limit: int
) -> AlertPage:
    """List alerts whose id is less than `before`, the newest first."""
    values = {
        column: value
        for column in ("severity", "rule", "group_name", "worker_id", "part_of")
        if (value := getattr(filters, column)) is not None
    }
    query = alerts_query(filters.state, tuple(values))
    (row,) = await connection.fetch(query, before, limit + 1, *values.values())
    page = page_of(row, limit)
    return AlertPage(page.items, page.last_id, page.observation, row["judged_at"])


DELIVERIES = f"""SELECT coalesce(json_agg(d), '[]') FROM (
    SELECT channel, severity, {utc("told_at")} AS told_at, is_settled
    FROM deliveries WHERE alert_id = a.alert_id ORDER BY channel
) d"""
ALERT = f"""WITH {OBSERVATION}
SELECT as_of, lag_seconds, revision, epoch, (SELECT judged_at FROM alert_progress) AS judged_at, (
    SELECT row_to_json(i)::text FROM (
        SELECT {ALERT_ITEM}, ({DELIVERIES}) AS deliveries FROM alerts a WHERE alert_id = $1
    ) i
) AS item FROM observed"""


async def get_alert(connection: Connection, alert_id: int) -> AlertDetail:
    """Get one alert with the state of its notification in each channel."""
    (row,) = await connection.fetch(ALERT, alert_id)
    if row["item"] is None:
        raise UnknownAlert(alert_id=alert_id)
    return AlertDetail(row["item"], observation_of(row), row["judged_at"])


SILENCES_SELECTED = {
    SilenceSelection.LASTING: "ends_at > now()",
    SilenceSelection.ENDED: "ends_at <= now()",
    SilenceSelection.ALL: "true",
}
SILENCES = {
    state: page_query("number", SILENCE_ITEM, f"silences WHERE {selected} AND number < $1", "s")
    for state, selected in SILENCES_SELECTED.items()
}


async def list_silences(
    connection: Connection, filters: SilenceFilters, *, before: int, limit: int
) -> Page:
    """List silences whose number is less than `before`, the newest first."""
    (row,) = await connection.fetch(SILENCES[filters.state], before, limit + 1)
    return page_of(row, limit)
