"""One processor at a time leads: it sweeps, relays, judges alerts and keeps the partitions. Of
bridges with the same name, too, one at a time leads.

Invariant: of two processors that both believe to lead, only the later one can commit. Each term of
leadership has a token that is greater than that of the term before. `Term.transaction` locks the
row of the lease and checks the token in the transaction that it opens: a take-over waits for that
transaction, and a transaction that begins after the take-over finds another token and raises
LeaseLost. So a leader that was frozen, and wakes after another was elected, writes nothing. The
token belongs to the round that a task has begun: a processor that lost the lease and took it again
has a new token, and what it decided in the old term stays uncommitted.

What a leader does outside the database (publish, notify) is not fenced. It is done at least once,
and marked in a fenced transaction afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from time import monotonic
from typing import ClassVar, Final

import structlog

from manman_status.backoff import Backoff
from manman_status.clock import elapsed
from manman_status.errors import BrokerUnavailable, describe
from manman_status.store.leases import HeldLease, LeaseLost, check_lease, drop_lease, hold_lease
from manman_status.store.pool import DATABASE_ERRORS, Connection, Pool

log = structlog.get_logger()

LEASE: Final = "leader"
"""The lease of processors."""


class Term:
    """One term of leadership, identified by the token of its lease."""

    def __init__(self, pool: Pool, token: int, *, lease: str = LEASE) -> None:
        self._pool = pool
        self._lease = lease
        self.token = token

    def connection(self) -> AbstractAsyncContextManager[Connection]:
        """Acquire a connection to read with."""
        return self._pool.acquire()

    @asynccontextmanager
    async def transaction(self, connection: Connection | None = None) -> AsyncIterator[Connection]:
        """Open a transaction that only the leader can commit, on `connection` or on one of the
        pool. Raises LeaseLost when the term is over."""
        if connection is None:
            async with self._pool.acquire() as acquired, self.transaction(acquired):
                yield acquired
            return
        async with connection.transaction():
            await check_lease(connection, self._lease, self.token)
            yield connection


class Leadership:
    """Takes the lease when it can, and renews it three times within its life.

    A leader that dies or hangs is followed by another when its lease has expired, or was not
    renewed for longer than `lease_seconds` by the follower's own clock: within two thirds more than
    `lease_seconds` of the last renewal, whatever the database's clock does.
    """

    def __init__(
        self, pool: Pool, holder: str, *, lease_seconds: float, lease: str = LEASE
    ) -> None:
        self._pool = pool
        self._lease = lease
        self._holder = holder
        self._lease_seconds = lease_seconds
        self.token: int | None = None
        """None while another leads."""
        self._seen: HeldLease | None = None
        self._seen_at = 0.0
        self._leading_since = float("inf")
        self._leading = asyncio.Event()

    async def wait(self) -> int:
        """Wait until this process leads; the token of its term."""
        while self.token is None:
            await self._leading.wait()
        return self.token

    async def term(self) -> Term:
        """Wait until this process leads."""
        return Term(self._pool, await self.wait(), lease=self._lease)

    def has_led_for(self, seconds: float) -> bool:
        return monotonic() - self._leading_since > seconds

    def lost(self) -> None:
        """Stop leading: a transaction was refused with LeaseLost."""
        self.token = None
        self._leading_since = float("inf")
        self._leading.clear()

    async def run(self) -> None:
        try:
            while True:
                await self._hold()
                await asyncio.sleep(self._lease_seconds / 3)
        finally:
            await self._drop()

    async def _hold(self) -> None:
        seconds = self._lease_seconds
        abandoned = self._seen if elapsed() - self._seen_at > seconds else None
        held: int | HeldLease | None = None
        try:
            async with asyncio.timeout(seconds), self._pool.acquire() as connection:
                held = await hold_lease(
                    connection, self._lease, self._holder, seconds=seconds, abandoned=abandoned
                )
        except DATABASE_ERRORS:
            pass  # a processor that does reach the database may lead
        token = held if isinstance(held, int) else None
        if isinstance(held, HeldLease) and held != self._seen:
            self._seen, self._seen_at = held, elapsed()
        if token != self.token:
            log.info("leading" if token else "not_leading", token=token)
        if token is None:
            self.lost()
        else:
            self.token = token
            self._leading_since = min(self._leading_since, monotonic())
            self._leading.set()

    async def _drop(self) -> None:
        if self.token is None:
            return
        token = self.token
        self.lost()
        try:
            async with asyncio.timeout(1), self._pool.acquire() as connection:
                await drop_lease(connection, self._lease, token)
        except DATABASE_ERRORS:
            log.debug("lease_left_to_expire")


class LeaderTask:
    """A task that only the leader runs, in rounds.

    A subclass implements `round`. A round that raises one of `faults` is logged as `failure_event`,
    the first time and then once a minute, and is repeated after a delay that grows up to
    `longest_backoff_seconds`. The end of a failure that was logged is logged as `recovery_event`,
    where there is one.
    """

    failure_event: ClassVar[str]
    recovery_event: ClassVar[str] = ""
    faults: ClassVar[tuple[type[BaseException], ...]] = (BrokerUnavailable, *DATABASE_ERRORS)
    longest_backoff_seconds: ClassVar[float] = 5.0

    def __init__(self, leadership: Leadership) -> None:
        self._leadership = leadership
        self._woken = asyncio.Event()

    async def round(self, term: Term) -> float:
        """Do a bounded piece of work; the seconds until the next round, which `wake` cuts short.
        Raises LeaseLost when the term is over."""
        raise NotImplementedError

    def stand_by(self) -> None:
        """Forget what only a leader knows: another processor leads."""

    def failure_fields(self) -> dict[str, object]:
        """Return what the log lines of a failure have beside the error."""
        return {}

    def wake(self) -> None:
        """Begin the next round now: there is something to do."""
        self._woken.set()

    async def run(self) -> None:
        backoff = Backoff(longest_seconds=self.longest_backoff_seconds)
        is_failing = False
        while True:
            if self._leadership.token is None:
                self.stand_by()
            term = await self._leadership.term()
            try:
                rest_seconds = await self.round(term)
            except LeaseLost:
                self._leadership.lost()
            except self.faults as error:
                delay = backoff.failed()
                if backoff.is_worth_saying:
                    is_failing = True
                    log.warning(
                        self.failure_event,
                        error=describe(error),
                        failing_seconds=backoff.failing_seconds,
                        **self.failure_fields(),
                    )
                await asyncio.sleep(delay)
            else:
                if is_failing and self.recovery_event:
                    log.info(self.recovery_event, failed_seconds=backoff.failing_seconds)
                is_failing = False
                backoff.worked()
                await self._rest(rest_seconds)

    async def _rest(self, seconds: float) -> None:
        if seconds > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._woken.wait()
        self._woken.clear()
