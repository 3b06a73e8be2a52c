"""The bridge to ManMan's own database, and its removal."""

from __future__ import annotations

import asyncio
from typing import Annotated

from cyclopts import App

from manman_status.cli.flags import DatabaseUrl, RabbitmqUrl, setting
from manman_status.cli.serve import serve
from manman_status.errors import CommandFailed
from manman_status.settings import load_settings

app = App(
    name="bridge",
    help="Report the workers of ManMan's own database, where they beat by HTTP alone.",
)


@app.default
def run(
    *,
    manman_database_url: Annotated[str | None, setting("manman_database_url")] = None,
    name: Annotated[str | None, setting("bridge_name")] = None,
    write_status_info: Annotated[bool | None, setting("write_status_info")] = None,
    database_url: DatabaseUrl = None,
    rabbitmq_url: RabbitmqUrl = None,
) -> int:
    """Run a bridge until SIGTERM or Ctrl-C; the same as `serve --role bridge`.

    Several with one name stand by for each other. While none of them can read, nobody's silence
    counts.
    """
    return serve(
        role="bridge",
        database_url=database_url,
        rabbitmq_url=rabbitmq_url,
        manman_database_url=manman_database_url,
        bridge_name=name,
        write_status_info=write_status_info,
    )


@app.command
def remove(name: str, /, *, database_url: DatabaseUrl = None) -> None:
    """Remove a bridge that has been stopped for good.

    Until then the observation waits for it, and is blind. Workers that it reported are silent from
    now on, and are marked LOST after a recovery grace.
    """
    settings = load_settings(needs=("database_url",), database_url=database_url)
    if not asyncio.run(_remove(settings.database_url, name)):
        raise CommandFailed(f"there is no bridge {name!r}")
    print(f"the observation no longer waits for bridge {name}")


async def _remove(database_url: str, name: str) -> bool:
    from manman_status.store.bridges import forget_bridge
    from manman_status.store.observation import resume_observation
    from manman_status.store.pool import create_pool

    async with (
        create_pool(database_url, application="manman-status", size=1, timeout_seconds=10) as pool,
        pool.acquire() as connection,
        connection.transaction(),
    ):
        is_known = await forget_bridge(connection, name)
        if is_known:
            await resume_observation(connection)
        return is_known
