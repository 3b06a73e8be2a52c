"""The command that migrates the database schema."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

from cyclopts import Parameter

from manman_status.cli.flags import DatabaseUrl
from manman_status.errors import DatabaseRefuses, DatabaseUnavailable
from manman_status.settings import read_settings


def migrate(
    *,
    database_url: DatabaseUrl = None,
    new_epoch: Annotated[bool, Parameter(name="--new-epoch", negative=())] = False,
    recount: Annotated[bool, Parameter(name="--recount", negative=())] = False,
) -> None:
    """Bring the database schema to the newest revision. Safe to run twice, or by two at once.

    Parameters
    ----------
    new_epoch
        After a backup was restored, and before processors start: let whoever follows changes begin
        anew.
    recount
        When `doctor` says that the numbers kept of the fleet are wrong: count all rows. Writers
        wait meanwhile.
    """
    reading = read_settings(needs=("database_url",), database_url=database_url)
    settings = reading.settings

    import asyncpg
    from sqlalchemy.exc import DBAPIError

    from manman_status.store import migrate as schema
    from manman_status.store.faults import plain
    from manman_status.store.pool import CONNECTION_ERRORS

    async def revision() -> str:
        async with asyncio.timeout(settings.database_timeout_seconds):
            return await schema.found_revision(settings.database_url)

    _say(*reading.described_sources())
    try:
        before = asyncio.run(revision())
        schema.migrate(settings.database_url, say=_say)
        after = asyncio.run(revision())
        if recount or new_epoch:  # a backup of the data alone is counted twice when it is loaded
            asyncio.run(schema.recount_fleet(settings.database_url))
        epoch = asyncio.run(schema.begin_new_epoch(settings.database_url)) if new_epoch else None
    except asyncpg.ReadOnlySQLTransactionError as error:
        raise DatabaseRefuses(cause=plain(error)) from error
    except CONNECTION_ERRORS as error:
        raise DatabaseUnavailable(cause=plain(error)) from error
    except asyncpg.PostgresError as error:
        raise DatabaseRefuses(cause=plain(error)) from error
    except DBAPIError as error:
        raise DatabaseRefuses(
            cause=plain((error.orig and error.orig.__cause__) or error)
        ) from error
    print(f"schema {after}: nothing to do" if before == after else f"schema {before} → {after}")
    if recount:
        print("the numbers kept of the fleet are counted anew")
    if epoch:
        print(
            f"epoch {epoch.name} begins after revision {epoch.begins_after}: followers of changes"
            " begin anew"
        )


def _say(*lines: str) -> None:
    for line in lines:
        print(f"manman-status: {line}", file=sys.stderr)
