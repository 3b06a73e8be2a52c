"""Answers to requests for lists, and for one of their items."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import msgspec
from litestar import Request

from manman_status.api.answers import Answer, Answers
from manman_status.api.cursors import read_cursor
from manman_status.api.past import filters_at
from manman_status.api.responses import detail_answer, page_answer

if TYPE_CHECKING:
    from datetime import datetime

    from manman_status.api.past import Past
    from manman_status.store.details import Detail
    from manman_status.store.past import Moment, PastDetail, PastPage
    from manman_status.store.pool import Connection
    from manman_status.store.reads import Page

Filters = TypeVar("Filters", bound=msgspec.Struct)
Filters_contra = TypeVar("Filters_contra", bound=msgspec.Struct, contravariant=True)


class ListNow(Protocol[Filters_contra]):
    def __call__(
        self, connection: Connection, filters: Filters_contra, /, *, after: int, limit: int
    ) -> Awaitable[Page]: ...


class ListAt(Protocol[Filters_contra]):
    def __call__(
        self,
        connection: Connection,
        filters: Filters_contra,
        moment: Moment,
        /,
        *,
        after: int,
        limit: int,
    ) -> Awaitable[PastPage]: ...


class Subject(msgspec.Struct, Generic[Filters], frozen=True):
    """Workers or server instances: the queries for what they are now, and what they were."""

    kind: str
    list_now: ListNow[Filters]
    list_at: ListAt[Filters]
    get_now: Callable[[Connection, int], Awaitable[Detail]]
    get_at: Callable[[Connection, int, Moment], Awaitable[PastDetail]]

    async def page(
        self,
        request: Request[Any, Any, Any],
        answers: Answers,
        filters: Filters,
        cursor: str | None,
        limit: int,
        *,
        past: Past,
        at: datetime | None = None,
    ) -> Answer:
        covered = filters_at(at, filters)
        after = read_cursor(cursor, self.kind, covered)

        async def query(connection: Connection) -> Answer:
            page: Page | PastPage
            if at is None:
                page = await self.list_now(connection, filters, after=after, limit=limit)
            else:
                moment = await past.look_back(connection, at)
                page = await self.list_at(connection, filters, moment, after=after, limit=limit)
            return page_answer(page, kind=self.kind, filters=covered)

        return await answers.read(request, query, covered, after, limit, expensive=at is not None)

    async def detail(
        self,
        request: Request[Any, Any, Any],
        answers: Answers,
        entity_id: int,
        *,
        past: Past,
        at: datetime | None,
    ) -> Answer:
        async def query(connection: Connection) -> Answer:
            if at is None:
                return detail_answer(await self.get_now(connection, entity_id))
            moment = await past.look_back(connection, at)
            return detail_answer(await self.get_at(connection, entity_id, moment))

        return await answers.read(request, query, entity_id, at, expensive=at is not None)
