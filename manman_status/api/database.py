"""Reading within a time limit. A database that is away, or hangs, is one error to the asker; it is
tried again each time. Those who ask the same thing at once share one reading.

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
    from manman_status.store.health import Timeouts
    from manman_status.store.pool import Connection, Pool

T = TypeVar("T")
Ask: TypeAlias = "Callable[[Connection], Awaitable[T]]"
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
"""What the server's state is to blame for, and not the query: the same request may succeed
later."""

NOT_IN_ITS_ENCODING = (asyncpg.UntranslatableCharacterError, asyncpg.CharacterNotInRepertoireError)

EXPENSIVE_AT_ONCE = 2
EXPENSIVE_QUEUED = 20
EXPENSIVE_TIMEOUT_TIMES = 4


class Outage:
    """Logs that the database went away and that it came back, not each question in between. One for
    all pools."""

    def __init__(self) -> None:
        self._cause = ""

    def note(self, cause: str) -> None:
        """Empty when a question was answered."""
        if cause and not self._cause:
            log.warning("database_away", cause=cause)
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
        timeouts: Timeouts,
        most_reads: int | None = None,
    ) -> None:
        self._outage = outage
        self.timeouts = timeouts
        self._pool = pool
        self._timeout_seconds = timeout_seconds
        self._most_reads = most_reads
        self._running: dict[Hashable, asyncio.Task[Any]] = {}
        self._next: dict[Hashable, asyncio.Task[Any]] = {}

    async def read(self, ask: Ask[T], *, key: Hashable) -> T:
        """The answer, within the timeout, shared with all who ask for the same `key` at once. It is
        read after the last of them has asked, so nobody is told of a moment before their question.
        Raises DatabaseUnavailable, DatabaseBusy, UnknownCharacter."""
        reading = self._next.get(key)
        if reading is None:
            if (
                self._most_reads is not None
                and len(self._running) + len(self._next) >= self._most_reads
            ):
                raise DatabaseBusy
            reading = self._next[key] = asyncio.create_task(
                self._read_after(self._running.get(key), key, ask)
            )
            reading.add_done_callback(_retrieve)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                # One asker who leaves must not take the answer from the others.
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

    async def _read_after(self, running: asyncio.Task[Any] | None, key: Hashable, ask: Ask[T]) -> T:
        if running is not None:
            await asyncio.wait([running])
        self._running[key] = reading = self._next.pop(key)
        try:
            async with asyncio.timeout(self._timeout_seconds), self._pool.acquire() as connection:
                return await ask(connection)
        finally:
            if self._running.get(key) is reading:
                del self._running[key]


def _retrieve(reading: asyncio.Task[Any]) -> None:
    """Whoever asked may have left by now: asyncio would log the error of each such reading, with
    its traceback."""
    if not reading.cancelled():
        reading.exception()
