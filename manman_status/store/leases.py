"""Leadership by lease: a row with a holder, an expiry in database time, and a token that grows with each holder.

A session lock would stay with a process that is frozen; a lease expires. Whoever writes as leader calls `check_lease`
in the same transaction, so that one that was frozen and wakes up writes nothing.
"""

from __future__ import annotations

from manman_status.errors import ManManStatusError
from manman_status.store.pool import Connection


class LeaseLost(ManManStatusError):  # noqa: N818
    """The lease {name} is no longer held with token {token}."""


HOLD_LEASE = """
INSERT INTO leases AS kept (name, holder, token, expires_at)
VALUES ($1, $2, 1, clock_timestamp() + make_interval(secs => $3))
ON CONFLICT (name) DO UPDATE
   SET holder = $2,
       token = CASE WHEN kept.holder = $2 AND kept.expires_at > clock_timestamp() THEN kept.token
                    ELSE kept.token + 1 END,
       expires_at = clock_timestamp() + make_interval(secs => $3)
 WHERE kept.holder = $2 OR kept.expires_at <= clock_timestamp()
RETURNING token
"""


async def hold_lease(connection: Connection, name: str, holder: str, *, seconds: float) -> int | None:
    """Take the lease when it is free or expired, or renew our own; its token, or None while another holds it."""
    token: int | None = await connection.fetchval(HOLD_LEASE, name, holder, seconds)
    return token


# The lock makes a take-over wait until this transaction is done, so that the two cannot interleave.
CHECK_LEASE = """
SELECT 1 FROM leases WHERE name = $1 AND token = $2 AND expires_at > clock_timestamp() FOR SHARE
"""


async def check_lease(connection: Connection, name: str, token: int) -> None:
    """Raise LeaseLost unless the lease is held with this token now; it stays so until the transaction ends."""
    if await connection.fetchval(CHECK_LEASE, name, token) is None:
        raise LeaseLost(name=name, token=token)


DROP_LEASE = "UPDATE leases SET expires_at = clock_timestamp() WHERE name = $1 AND token = $2"


async def drop_lease(connection: Connection, name: str, token: int) -> None:
    """Give it back before it expires, so that another need not wait."""
    await connection.execute(DROP_LEASE, name, token)
