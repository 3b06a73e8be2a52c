"""A streaming standby of a PostgreSQL that the tests started."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from manman_status.dev.postgres import EmbeddedPostgres


def start_standby(primary: Any, folder: Path) -> Any:
    """A copy of all databases of `primary`, which follows it; its data is in `folder`."""
    standby = EmbeddedPostgres(folder, options=primary._options)
    data = standby.folder / "data"
    data.mkdir(mode=0o700, parents=True)
    if standby._user:
        os.chown(data, standby._user.pw_uid, standby._user.pw_gid)
    copying = standby._command(
        *(
            "pg_basebackup",
            standby._binaries() / "pg_basebackup",
            "-D",
            data,
            "-R",
            "-c",
            "fast",
            "-d",
            primary.url,
        )
    )
    assert copying.wait(within_seconds=60) == 0, copying.log
    return standby.start()
