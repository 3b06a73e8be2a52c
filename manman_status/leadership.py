"""One processor at a time leads: it sweeps, relays and keeps the partitions."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Final

import structlog

from manman_status.clock import elapsed
from manman_status.store.leases import HeldLease, drop_lease, hold_lease
from manman_status.store.pool import DATABASE_ERRORS, Pool

log = structlog.get_logger()

LEASE: Final = "leader"


class Leadership:
    """Holds the lease while it can. `token` is what a leader's writes check, None while another
    leads.

    The lease is renewed three times within its life; a leader that dies or hangs is followed by
    another when its lease has expired, or was not renewed for longer than `lease_seconds` by this
    processor's own clock: so within two thirds more than `lease_seconds` of its last renewal,
    whatever the database's clock does.
    """

    def __init__(self, pool: Pool, holder: str, *, lease_seconds: float) -> None:
        self._pool = pool
        self._holder = holder
        self._lease_seconds = lease_seconds
        self.token: int | None = None
        self._seen: HeldLease | None = None
        self._seen_at = 0.0
        self._leading_since = float("inf")
        self._leading = asyncio.Event()

    async def wait(self) -> int:
        """The token, once we lead."""
        while self.token is None:
            await self._leading.wait()
        return self.token

    def has_led_for(self, seconds: float) -> bool:
        return monotonic() - self._leading_since > seconds

    def lost(self) -> None:
        """Said by whoever was refused with LeaseLost."""
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
                    connection, LEASE, self._holder, seconds=seconds, abandoned=abandoned
                )
        except DATABASE_ERRORS:
            pass  # whoever does reach the database may lead
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
                await drop_lease(connection, LEASE, token)
        except DATABASE_ERRORS:
            log.debug("lease_left_to_expire")
