"""The schema, by command."""

from __future__ import annotations

import asyncio

from manman_status.cli.flags import DatabaseUrl
from manman_status.errors import CommandFailed, DatabaseUnavailable
from manman_status.settings import load_settings


def migrate(*, database_url: DatabaseUrl = None) -> None:
    """Bring the database schema to the newest revision. Safe to run twice, or by two at once."""
    settings = load_settings(needs=("database_url",), database_url=database_url)

    import asyncpg
    from sqlalchemy.exc import DBAPIError

    from manman_status.store import migrate as schema
    from manman_status.store.pool import CONNECTION_ERRORS

    async def revision() -> str:
        async with asyncio.timeout(settings.database_timeout_seconds):
            return await schema.found_revision(settings.database_url)

    try:
        before = asyncio.run(revision())
        schema.migrate(settings.database_url)
        after = asyncio.run(revision())
    except CONNECTION_ERRORS as error:
        raise DatabaseUnavailable(cause=str(error) or type(error).__name__) from error
    except (asyncpg.PostgresError, DBAPIError) as error:
        raise CommandFailed(f"the database refuses: {str(error).splitlines()[0]}") from error
    print(f"schema {after}: nothing to do" if before == after else f"schema {before} → {after}")
