"""The command that each container runs."""

from __future__ import annotations

from typing import Annotated, assert_never

from cyclopts import Parameter

from manman_status.cli.flags import DatabaseUrl, RabbitmqUrl, Role, setting
from manman_status.errors import SettingsError
from manman_status.logs import configure_logs
from manman_status.settings import Needs, Reading, read_settings, variable

NEEDS: dict[Role, Needs] = {
    "api": (("database_url", "database_read_url"),),
    "processor": ("database_url", "rabbitmq_url"),
    "bridge": ("database_url", "rabbitmq_url", "manman_database_url"),
}
"""The settings that each role needs. Those of the other role do no harm: containers may share one
environment."""


def serve(
    *,
    role: Annotated[
        Role | None,
        Parameter(
            env_var=variable("role"), show_env_var=False, help=f"What to run. [{variable('role')}]"
        ),
    ] = None,
    database_url: DatabaseUrl = None,
    rabbitmq_url: RabbitmqUrl = None,
    host: Annotated[str | None, setting("host")] = None,
    port: Annotated[int | None, setting("port")] = None,
    workers: Annotated[int | None, setting("workers")] = None,
    worker_series: Annotated[bool | None, setting("worker_series")] = None,
    manman_database_url: Annotated[str | None, setting("manman_database_url")] = None,
    bridge_name: Annotated[str | None, setting("bridge_name")] = None,
    write_status_info: Annotated[bool | None, setting("write_status_info")] = None,
) -> int:
    """Run one role until SIGTERM or Ctrl-C.

    The api answers over HTTP, on 127.0.0.1 unless tokens are set or --host says otherwise. The
    processor listens on nothing: it turns messages into rows. The bridge reports what it reads in
    ManMan's own database.
    """
    if role is None:
        raise SettingsError(
            [f"--role is missing, and {variable('role')} is not set: api, processor or bridge"]
        )
    reading = read_settings(
        needs=NEEDS[role],
        database_url=database_url,
        rabbitmq_url=rabbitmq_url,
        host=host,
        port=port,
        workers=workers,
        worker_series=worker_series,
        manman_database_url=manman_database_url,
        bridge_name=bridge_name,
        write_status_info=write_status_info,
    )
    settings = reading.settings
    configure_logs(role=role, level=settings.log_level, format=settings.log_format)
    log_reading(reading)
    match role:
        case "api":
            from manman_status.api import server as api

            return api.serve(settings)
        case "processor":
            from manman_status.processor import app as processor

            return processor.serve(settings)
        case "bridge":
            from manman_status.bridge import app as bridge

            return bridge.serve(settings)
        case _:
            assert_never(role)


def log_reading(reading: Reading) -> None:
    """Log which variables of others count here, and which do not. Never their values."""
    import structlog

    log = structlog.get_logger()
    for name, names in reading.sources.items():
        log.info("setting_from_manman", setting=variable(name), variables=names)
    if reading.ignored:
        log.warning("variables_ignored", variables=reading.ignored)
