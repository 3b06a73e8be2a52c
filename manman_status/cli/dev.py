"""The command that runs everything on this machine."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from manman_status.cli.flags import DatabaseUrl, RabbitmqUrl, setting
from manman_status.settings import load_settings, redacted

LOOK = """
  the fleet to look at   {api}/
  workers and servers    {api}/status/workers
  the fleet in numbers   {api}/status/system
  all endpoints          {api}/schema
  database               {database}
  broker                 {broker}
  logs                   {logs}

Try
  curl '{api}/status/workers?limit=3'
  {command} workers --url {api}
  MANMAN_STATUS_RABBITMQ_URL={broker} {command} publish heartbeat 99

Ctrl-C ends everything.
"""


def dev(
    *,
    workers: Annotated[int, Parameter(validator=Number(gte=1))] = 6,
    servers: Annotated[int, Parameter(validator=Number(gte=0))] = 3,
    folder: Path = Path(".manman"),
    port: Annotated[int | None, setting("port", "Port for the api")] = None,
    database_url: DatabaseUrl = None,
    rabbitmq_url: RabbitmqUrl = None,
) -> None:
    """Run everything on this machine until Ctrl-C, with a simulated fleet to look at.

    PostgreSQL and RabbitMQ are started as private processes, unless URLs name those to use.

    Parameters
    ----------
    workers
        How many workers to simulate.
    servers
        Server instances of each of them.
    folder
        Where data and logs are kept.
    """
    from manman_status.dev.stack import StackPlan, running_stack

    settings = load_settings(database_url=database_url, rabbitmq_url=rabbitmq_url, port=port)
    plan = StackPlan(
        folder=folder,
        database_url=settings.database_url,
        rabbitmq_url=settings.broker_url,
        port=settings.port,
        workers=workers,
        servers=servers,
    )
    # SIGINT too: a shell's background job is born with it ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        with running_stack(plan, say=say) as stack:
            # Those that we started have no secret; what was given may.
            database = redacted(settings.database_url) or stack.database_url
            broker = redacted(settings.rabbitmq_url) or stack.rabbitmq_url
            say(
                LOOK.format(
                    api=stack.api_url,
                    logs=stack.log_folder,
                    database=database,
                    broker=broker,
                    command=as_called(),
                )
            )
            stack.watch()
    except KeyboardInterrupt:
        return


def as_called() -> str:
    """The command as it was called, so that it can be copied; its name alone may not be on the
    PATH."""
    return sys.argv[0] if Path(sys.argv[0]).name == "manman-status" else "manman-status"


def say(text: str) -> None:
    print(text, flush=True)
