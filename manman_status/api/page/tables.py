"""Workers, server instances, alerts and silences as tables: filtered by what stands in the URL,
paged by cursor."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar_htmx import HTMXRequest, HTMXTemplate

from manman_status.alerts.reading import (
    AlertFilters,
    AlertSelection,
    SilenceFilters,
    SilenceSelection,
    list_alerts,
    list_silences,
)
from manman_status.alerts.rules import RULE_NAMES
from manman_status.api.alert_responses import Alert, Silence
from manman_status.api.cursors import read_cursor, write_cursor
from manman_status.api.database import Database
from manman_status.api.page.bar import BarReading
from manman_status.api.page.forms import Form
from manman_status.api.parameters import LARGEST_ID, one_of, parse_labels
from manman_status.api.responses import ServerInstance, Worker
from manman_status.domain.alert import Severity
from manman_status.domain.status import Health, StatusType
from manman_status.store.reads import Page, ServerFilters, WorkerFilters, list_servers, list_workers

if TYPE_CHECKING:
    from manman_status.api.database import Query

ROWS = 100


async def _table(
    request: HTMXRequest,
    database: Database,
    bar: BarReading,
    name: str,
    query: Query[Page],
    *,
    form: Form,
    filters: msgspec.Struct,
    shape: type[Any],
    **more: Any,
) -> HTMXTemplate:
    """The page, or its rows alone when it is there already."""
    page = await database.read(query, key=form.here)
    context = {
        "asked": form,
        "items": [msgspec.json.decode(item, type=shape) for item in page.items],
        "following": None
        if page.last_id is None
        else form.url(write_cursor(name, filters, page.last_id)),
        "as_of": page.observation.as_of,
    }
    if request.htmx:
        return HTMXTemplate(template_name=f"{name}_rows.html", context=context)
    return HTMXTemplate(
        template_name=f"{name}.html", context={"bar": await bar.get(), **context, **more}
    )


@get("/workers")
async def workers(
    request: HTMXRequest, database: NamedDependency[Database], bar: BarReading
) -> HTMXTemplate:
    form = Form(request, "health", "status", "group", "label")
    label = form.text("label")
    filters = WorkerFilters(
        health=form.one_of("health", Health),
        status=form.one_of("status", StatusType),
        labels=parse_labels(form.text("group"), () if label is None else (label,)),
    )
    after = read_cursor(form.cursor, "workers", filters)
    query = partial(list_workers, filters=filters, after=after, limit=ROWS)
    return await _table(
        request, database, bar, "workers", query, form=form, filters=filters, shape=Worker
    )


@get("/servers")
async def servers(
    request: HTMXRequest, database: NamedDependency[Database], bar: BarReading
) -> HTMXTemplate:
    """Show the instances that run now, unless a status is chosen."""
    form = Form(request, "status", "worker_id", "game_server_config_id")
    status = form.text("status") or "active"
    filters = ServerFilters(
        status=None if status in {"active", "all"} else one_of("status", StatusType, status),
        worker_id=form.id("worker_id"),
        game_server_config_id=form.id("game_server_config_id"),
        active=status == "active",
    )
    after = read_cursor(form.cursor, "servers", filters)
    query = partial(list_servers, filters=filters, after=after, limit=ROWS)
    return await _table(
        request,
        database,
        bar,
        "servers",
        query,
        form=form,
        filters=filters,
        shape=ServerInstance,
        statuses=["active", "all", *StatusType],
    )


@get("/alerts")
async def alerts(
    request: HTMXRequest, database: NamedDependency[Database], bar: BarReading
) -> HTMXTemplate:
    form = Form(request, "state", "severity", "rule", "group", "worker_id")
    rule = form.text("rule")
    filters = AlertFilters(
        state=form.one_of("state", AlertSelection) or AlertSelection.UNRESOLVED,
        severity=form.one_of("severity", Severity),
        rule=None if rule is None else one_of("rule", RULE_NAMES, rule),
        group_name=form.text("group"),
        worker_id=form.id("worker_id"),
    )
    before = read_cursor(form.cursor, "alerts", filters) or LARGEST_ID
    query = partial(list_alerts, filters=filters, before=before, limit=ROWS)
    return await _table(
        request,
        database,
        bar,
        "alerts",
        query,
        form=form,
        filters=filters,
        shape=Alert,
        rules=RULE_NAMES,
    )


@get("/silences")
async def silences(
    request: HTMXRequest, database: NamedDependency[Database], bar: BarReading
) -> HTMXTemplate:
    form = Form(request, "state")
    filters = SilenceFilters(form.one_of("state", SilenceSelection) or SilenceSelection.LASTING)
    before = read_cursor(form.cursor, "silences", filters) or LARGEST_ID
    query = partial(list_silences, filters=filters, before=before, limit=ROWS)
    return await _table(
        request, database, bar, "silences", query, form=form, filters=filters, shape=Silence
    )
