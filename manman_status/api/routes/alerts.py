"""Routes of alerts and silences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Request, get
from litestar.di import NamedDependency

from manman_status.alerts.reading import (
    AlertFilters,
    AlertSelection,
    SilenceFilters,
    SilenceSelection,
    get_alert,
    list_alerts,
    list_silences,
)
from manman_status.alerts.rules import RULE_NAMES
from manman_status.api.alert_responses import AlertDetail, AlertList, SilenceList
from manman_status.api.answers import Answer, Answers
from manman_status.api.cursors import read_cursor
from manman_status.api.errors import documented_problems
from manman_status.api.parameters import (
    LARGEST_ID,
    AlertGroup,
    AlertsSelected,
    Cursor,
    Limit,
    PartOf,
    PathId,
    QueryId,
    QueryRule,
    QuerySeverity,
    SilencesSelected,
    one_of,
    parse_group,
)
from manman_status.api.responses import detail_answer, documented, page_answer

if TYPE_CHECKING:
    from manman_status.store.pool import Connection


@get("/alerts", operation_id="listAlerts", responses=documented(AlertList) | documented_problems())
async def alerts(
    request: Request[Any, Any, Any],
    answers: NamedDependency[Answers],
    selected: AlertsSelected = AlertSelection.UNRESOLVED,
    severity: QuerySeverity = None,
    rule: QueryRule = None,
    group: AlertGroup = None,
    worker_id: QueryId = None,
    part_of: PartOf = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Answer:
    """Alerts, the newest first; those that are not resolved unless `state` says otherwise. What is
    part of another alert is among them."""
    filters = AlertFilters(
        state=one_of("state", AlertSelection, selected),
        severity=severity,
        rule=None if rule is None else one_of("rule", RULE_NAMES, rule),
        group_name=parse_group(group),
        worker_id=worker_id,
        part_of=part_of,
    )
    before = read_cursor(cursor, "alerts", filters) or LARGEST_ID

    async def query(connection: Connection) -> Answer:
        page = await list_alerts(connection, filters, before=before, limit=limit)
        return page_answer(page, kind="alerts", filters=filters, judged_at=page.judged_at)

    return await answers.read(request, query, filters, before, limit)


@get(
    "/alerts/{alert_id:str}",
    operation_id="getAlert",
    responses=documented(AlertDetail) | documented_problems(finds_one=True),
)
async def alert(
    request: Request[Any, Any, Any], answers: NamedDependency[Answers], alert_id: PathId
) -> Answer:
    """One alert, and what each channel was told of it."""

    async def query(connection: Connection) -> Answer:
        detail = await get_alert(connection, alert_id)
        return detail_answer(detail, judged_at=detail.judged_at)

    return await answers.read(request, query, alert_id)


@get(
    "/silences",
    operation_id="listSilences",
    responses=documented(SilenceList) | documented_problems(),
)
async def silences(
    request: Request[Any, Any, Any],
    answers: NamedDependency[Answers],
    selected: SilencesSelected = SilenceSelection.LASTING,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Answer:
    """Silences, the newest first; those that last unless `state` says otherwise."""
    filters = SilenceFilters(one_of("state", SilenceSelection, selected))
    before = read_cursor(cursor, "silences", filters) or LARGEST_ID

    async def query(connection: Connection) -> Answer:
        page = await list_silences(connection, filters, before=before, limit=limit)
        return page_answer(page, kind="silences", filters=filters)

    return await answers.read(request, query, filters, before, limit)
