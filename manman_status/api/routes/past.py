"""The answers of the lists, details and numbers when they are asked with `at`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
from litestar import Request

from manman_status.api.answers import Answer, Answers
from manman_status.api.cursors import read_cursor
from manman_status.api.errors import InvalidParameter
from manman_status.api.parameters import time_asked
from manman_status.api.past_responses import past_answer, past_page_answer, past_system_answer
from manman_status.store.past import (
    Moment,
    TimeNotKept,
    TimeToCome,
    get_server_then,
    get_worker_then,
    list_servers_then,
    list_workers_then,
    look_back,
    read_fleet_then,
)
from manman_status.store.reads import ServerFilters, WorkerFilters

if TYPE_CHECKING:
    from manman_status.store.pool import Connection

    AskThen = Callable[[Connection, Moment], Awaitable[Answer]]


class Then(msgspec.Struct, frozen=True):
    """What a cursor of a past time is bound to."""

    at: datetime
    filters: WorkerFilters | ServerFilters


async def workers_then(
    request: Request[Any, Any, Any],
    filters: WorkerFilters,
    *,
    at: str,
    limit: int,
    cursor: str | None,
) -> Answer:
    if filters.health is not None:
        raise InvalidParameter("health", "is not kept: at a past time ask for `status`")
    then = Then(time_asked("at", at), filters)
    after = read_cursor(cursor, "workers", then)

    async def ask(connection: Connection, moment: Moment) -> Answer:
        page = await list_workers_then(connection, filters, moment, after=after, limit=limit)
        return past_page_answer(page, moment, kind="workers", filters=then)

    return await _read(request, at, ask, then, after, limit)


async def servers_then(
    request: Request[Any, Any, Any],
    filters: ServerFilters,
    *,
    at: str,
    limit: int,
    cursor: str | None,
) -> Answer:
    then = Then(time_asked("at", at), filters)
    after = read_cursor(cursor, "servers", then)

    async def ask(connection: Connection, moment: Moment) -> Answer:
        page = await list_servers_then(connection, filters, moment, after=after, limit=limit)
        return past_page_answer(page, moment, kind="servers", filters=then)

    return await _read(request, at, ask, then, after, limit)


async def worker_then(request: Request[Any, Any, Any], worker_id: int, *, at: str) -> Answer:
    async def ask(connection: Connection, moment: Moment) -> Answer:
        item = await get_worker_then(connection, worker_id, moment)
        return past_answer(item.removesuffix("}"), moment)

    return await _read(request, at, ask, worker_id)


async def server_then(request: Request[Any, Any, Any], instance_id: int, *, at: str) -> Answer:
    async def ask(connection: Connection, moment: Moment) -> Answer:
        item = await get_server_then(connection, instance_id, moment)
        return past_answer(item.removesuffix("}"), moment)

    return await _read(request, at, ask, instance_id)


async def system_then(request: Request[Any, Any, Any], *, at: str) -> Answer:
    async def ask(connection: Connection, moment: Moment) -> Answer:
        return past_system_answer(await read_fleet_then(connection, moment), moment)

    return await _read(request, at, ask)


async def _read(request: Request[Any, Any, Any], at: str, ask: AskThen, *parsed: Any) -> Answer:
    time, retention = time_asked("at", at), request.app.state["retention"]

    async def ask_then(connection: Connection) -> Answer:
        try:
            moment = await look_back(connection, time, retention=retention)
        except (TimeNotKept, TimeToCome) as error:
            raise InvalidParameter("at", str(error)) from error
        return await ask(connection, moment)

    return await Answers.of(request.app).read(request, ask_then, time, *parsed, expensive=True)
