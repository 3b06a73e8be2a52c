"""The secret that all processors of one database sign their canaries with."""

from __future__ import annotations

import secrets

from manman_status.store.pool import Connection

SECRET_BYTES = 32

OFFER = "INSERT INTO canary_key (id, secret) VALUES (1, $1) ON CONFLICT (id) DO NOTHING"
READ = "SELECT secret FROM canary_key WHERE id = 1"


async def shared_secret(connection: Connection) -> bytes:
    """The secret of whichever processor came first, which may be this one. The second waits for its
    commit."""
    secret: bytes | None = await connection.fetchval(READ)
    if secret is None:
        await connection.execute(OFFER, secrets.token_bytes(SECRET_BYTES))
        secret = await connection.fetchval(READ)
    assert secret is not None
    return secret
