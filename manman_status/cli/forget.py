"""Commands that delete a worker or a server instance; its next event creates it again."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from manman_status.cli.control import By, Why, login_name, say
from manman_status.cli.flags import Id, RabbitmqUrl
from manman_status.wire.control import ForgetRequested

app = App(name="forget", help_format="plaintext")


@app.command
def worker(
    worker_id: Annotated[Id, Parameter(name="ID")],
    /,
    *,
    why: Why = "",
    by: By = None,
    rabbitmq_url: RabbitmqUrl = None,
) -> None:
    """Delete a worker and its server instances. Their history stays; a worker that beats is back at
    its next beat."""
    say(
        ForgetRequested,
        rabbitmq_url=rabbitmq_url,
        worker_id=worker_id,
        why=why,
        by=login_name() if by is None else by,
    )
    print(
        f"sent: a processor deletes worker {worker_id} and its server instances, if they are known"
    )


@app.command
def server(
    instance_id: Annotated[Id, Parameter(name="ID")],
    /,
    *,
    why: Why = "",
    by: By = None,
    rabbitmq_url: RabbitmqUrl = None,
) -> None:
    """Delete a server instance. Its history stays; one that runs is back when its worker lists or
    starts it."""
    say(
        ForgetRequested,
        rabbitmq_url=rabbitmq_url,
        instance_id=instance_id,
        why=why,
        by=login_name() if by is None else by,
    )
    print(f"sent: a processor deletes server instance {instance_id}, if it is known")
