"""Leases: a row with a holder, an expiry in database time, and a token that grows with each holder.

A session lock would stay with a process that is frozen; a lease expires. Whoever writes as leader
calls `check_lease` in the same transaction, so that one that was frozen and wakes up writes
nothing.

The database's clock may step back, and then a lease that nobody renews would not expire for as
long. A renewal always changes `expires_at`, so a follower may also take over a lease that it has
seen unchanged for its whole length.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from manman_status.errors import ManManStatusError
from manman_status.store.pool import Connection


class LeaseLost(ManManStatusError):  # noqa: N818
    """The lease {name} is no longer held with token {token}."""


class HeldLease(msgspec.Struct, frozen=True):
    """Another's lease as it was seen: two that are equal were not renewed in between."""

    token: int
    expires_at: datetime


HOLD_LEASE = """
INSERT INTO leases AS kept (name, holder, token, expires_at)
VALUES ($1, $2, 1, clock_timestamp() + make_interval(secs => $3))
ON CONFLICT (name) DO UPDATE
   SET holder = $2,
       token = CASE WHEN kept.holder = $2 AND kept.expires_at > clock_timestamp() THEN kept.token
                    ELSE kept.token + 1 END,
       expires_at = clock_timestamp() + make_interval(secs => $3)
 WHERE kept.holder = $2 OR kept.expires_at <= clock_timestamp() OR (kept.token, kept.expires_at) =
     ($4, $5)
RETURNING token
"""
SEE_LEASE = "SELECT token, expires_at FROM leases WHERE name = $1"


async def hold_lease(
    connection: Connection,
    name: str,
    holder: str,
    *,
    seconds: float,
    abandoned: HeldLease | None = None,
) -> int | HeldLease | None:
    """Take the lease when it is free, expired or still the `abandoned` one, or renew our own; its
    token. While another holds it, that lease; None if it was dropped meanwhile."""
    token: int | None = await connection.fetchval(
        HOLD_LEASE,
        name,
        holder,
        seconds,
        abandoned and abandoned.token,
        abandoned and abandoned.expires_at,
    )
    if token is not None:
        return token
    row = await connection.fetchrow(SEE_LEASE, name)
    return None if row is None else HeldLease(**row)


# The lock makes a take-over wait until this transaction is done, so that the two cannot interleave.
CHECK_LEASE = """
SELECT 1 FROM leases WHERE name = $1 AND token = $2 AND expires_at > clock_timestamp() FOR SHARE
"""


async def check_lease(connection: Connection, name: str, token: int) -> None:
    """Raise LeaseLost unless the lease is held with this token now; it stays so until the
    transaction ends."""
    if await connection.fetchval(CHECK_LEASE, name, token) is None:
        raise LeaseLost(name=name, token=token)


DROP_LEASE = "UPDATE leases SET expires_at = clock_timestamp() WHERE name = $1 AND token = $2"


async def drop_lease(connection: Connection, name: str, token: int) -> None:
    """Give it back before it expires, so that another need not wait."""
    await connection.execute(DROP_LEASE, name, token)
