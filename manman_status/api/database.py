"""Reads within a time limit. A database that is unavailable, or hangs, is one error to the caller;
each read tries again. Requests for the same thing at once share one read.

Expensive reads (a past time, uptime, old revisions) go through a `Database` of their own: a few
connections, a longer limit, and a short queue. However many are requested, probes and all other
reads find their connections free.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import asyncpg
import structlog

from manman_status.api.errors import DatabaseBusy, UnknownCharacter
from manman_status.errors import DatabaseUnavailable
from manman_status.store.pool import CONNECTION_ERRORS

if TYPE_CHECKING:
    from manman_status.store.pool import Connection, Pool

T = TypeVar("T")
Query: TypeAlias = "Callable[[Connection], Awaitable[T]]"
log = structlog.get_logger()

UNAVAILABLE = (
    *CONNECTION_ERRORS,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.ObjectNotInPrerequisiteStateError,  # takes no connections now
    # A replica has taken too long over an answer to keep what its primary has since removed, a lock
    # was not to be had.
    asyncpg.TransactionRollbackError,
    asyncpg.InvalidTransactionStateError,
    # Cancelled, by a person or by a time limit of the role; out of memory or disk; a fault of the
    # server's own.
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.InternalServerError,
    # The tables are being made, or are older than this program.
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
)
"""Errors of the server's state, and not of the query: the same request may succeed later."""

NOT_IN_ITS_ENCODING = (asyncpg.UntranslatableCharacterError, asyncpg.CharacterNotInRepertoireError)

EXPENSIVE_AT_ONCE = 2
EXPENSIVE_QUEUED = 20
EXPENSIVE_TIMEOUT_TIMES = 4


class Outage:
    """Log that the database became unavailable and that it came back, not each read in between. One
    for all pools."""

    def __init__(self) -> None:
        self._cause = ""

    def note(self, cause: str) -> None:
        """`cause` is empty when a read succeeded."""
        if cause and not self._cause:
            log.warning("database_unavailable", cause=cause)
        elif self._cause and not cause:
            log.info("database_back")
        self._cause = cause


class Database:
    """`most_reads`: how many may run or wait at once; None is no bound."""

    def __init__(
        self,
        pool: Pool,
        outage: Outage,
        *,
        timeout_seconds: float,
        most_reads: int | None = None,
    ) -> None:
        self._outage = outage
        self._pool = pool
        self._timeout_seconds = timeout_seconds
        self._most_reads = most_reads
        self._running: dict[Hashable, asyncio.Task[Any]] = {}
        self._next: dict[Hashable, asyncio.Task[Any]] = {}

    async def read(self, query: Query[T], *, key: Hashable) -> T:
        """Return the result of `query` within the timeout. All callers of one `key` share it.
        The read begins after the last of them has called, so nobody gets a moment before
        their request. Raises DatabaseUnavailable, DatabaseBusy, UnknownCharacter."""
        reading = self._next.get(key)
        if reading is None:
            if (
                self._most_reads is not None
                and len(self._running) + len(self._next) >= self._most_reads
            ):
                raise DatabaseBusy
            reading = self._next[key] = asyncio.create_task(
                self._read_after(self._running.get(key), key, query)
            )
            reading.add_done_callback(_retrieve)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                # One caller who leaves must not take the answer from the others.
                answer = await asyncio.shield(reading)
        except NOT_IN_ITS_ENCODING as error:
            raise UnknownCharacter from error
        except UNAVAILABLE as error:
            if self._most_reads is not None and isinstance(error, TimeoutError):
                raise DatabaseBusy from error
            cause = type(error).__name__
            self._outage.note(cause)
            raise DatabaseUnavailable(cause=cause) from error
        self._outage.note("")
        return cast("T", answer)

    async def _read_after(
        self, running: asyncio.Task[Any] | None, key: Hashable, query: Query[T]
    ) -> T:
        if running is not None:
            await asyncio.wait([running])
        self._running[key] = reading = self._next.pop(key)
        try:
            async with asyncio.timeout(self._timeout_seconds), self._pool.acquire() as connection:
                return await query(connection)
        finally:
            if self._running.get(key) is reading:
                del self._running[key]


def _retrieve(reading: asyncio.Task[Any]) -> None:
    """Take the error of a read whose callers have left: asyncio would log it with its traceback."""
    if not reading.cancelled():
        reading.exception()
