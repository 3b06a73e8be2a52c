"""The whole system on this machine: servers, schema, both roles and a simulated fleet, all children
of this process."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from manman_status.dev.ports import free_port, is_free, is_open
from manman_status.dev.postgres import EmbeddedPostgres
from manman_status.dev.processes import Child, wait_until
from manman_status.dev.rabbitmq import EmbeddedRabbitMQ
from manman_status.errors import CommandFailed

HOST = "127.0.0.1"
# Where they are free, the same ports each time: a copied URL still works tomorrow.
DATABASE_PORT = 25_432
BROKER_PORT = 25_673
FLEET = {"--first-worker": "1", "--interval": "2", "--churn": "0.02", "--crash": "0.01"}
QUEUES_WITHIN_SECONDS = 10


class StackPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Servers to use or to start. Those without a URL are started here, with data in `folder`."""

    folder: Path
    database_url: str = ""
    rabbitmq_url: str = ""
    port: int = 8000
    workers: int
    servers: int


class Stack(msgspec.Struct):
    """The running system. `own` are the children that must not end by themselves."""

    database_url: str
    rabbitmq_url: str
    api_url: str
    log_folder: Path
    own: list[Child]

    def watch(self) -> None:
        """Never returns. Raises ChildFailed when something ended by itself."""
        while True:
            for child in self.own:
                if child.returncode is not None:
                    raise child.ended(child.returncode)
            time.sleep(0.2)


@contextmanager
def running_stack(plan: StackPlan, *, say: Callable[[str], None]) -> Iterator[Stack]:
    """Start everything, and at the end stop it in reverse order."""
    if not is_free(plan.port):
        raise CommandFailed(f"port {plan.port} is taken: choose another with --port")
    folder = plan.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    stack = Stack(
        plan.database_url, plan.rabbitmq_url, f"http://{HOST}:{plan.port}", folder / "logs", []
    )
    with ExitStack() as resources:
        resources.enter_context(locked(folder))
        resources.callback(say, "stopped; the data stays")
        start_servers(stack, folder, resources, say)
        start_roles(stack, plan, resources, say)
        resources.callback(say, "stopping (RabbitMQ takes its time)")
        yield stack


def start_servers(
    stack: Stack, folder: Path, resources: ExitStack, say: Callable[[str], None]
) -> None:
    from manman_status.store.migrate import migrate

    broker = None
    if not stack.rabbitmq_url:
        broker = EmbeddedRabbitMQ(folder / "rabbitmq", port=free_port(BROKER_PORT))
        say("starting RabbitMQ (takes about 8 s)")
        resources.callback(broker.stop)
        broker.launch()
        stack.rabbitmq_url = broker.url
    if not stack.database_url:
        database = EmbeddedPostgres(folder / "postgres", port=free_port(DATABASE_PORT))
        say("starting PostgreSQL")
        if database.folder != folder / "postgres":
            say(
                f"it may not run as root, and its user cannot reach {folder}: its data is in"
                f" {database.folder}"
            )
        resources.callback(database.stop)
        database.start()
        stack.database_url = database.url
        stack.own.append(database.child)
    say("migrating the schema")
    migrate(stack.database_url)
    if broker:
        broker.wait_until_ready()
        stack.own.append(broker.child)


def start_roles(
    stack: Stack, plan: StackPlan, resources: ExitStack, say: Callable[[str], None]
) -> None:
    # Pass URLs by the environment, not by flags: they hold passwords, and everyone on the machine
    # can read a command line.
    env = os.environ | {
        "MANMAN_STATUS_DATABASE_URL": stack.database_url,
        "MANMAN_STATUS_RABBITMQ_URL": stack.rabbitmq_url,
        "MANMAN_STATUS_HOST": HOST,
        "MANMAN_STATUS_PORT": str(plan.port),
    }

    def start(name: str, *arguments: str) -> Child:
        command = [sys.executable, "-m", "manman_status", *arguments]
        child = Child(name, command, log_file=stack.log_folder / f"{name}.log", env=env)
        resources.callback(child.stop)
        stack.own.append(child)
        return child

    say("starting one api, one processor and the fleet")
    api = start("api", "serve", "--role", "api")
    processor = start("processor", "serve", "--role", "processor")
    api.wait_until_ready(lambda: is_open(plan.port), within_seconds=30)
    # Before the processor has declared its queues, messages of the fleet are unroutable. With logs
    # above info it does not log that, so the wait has a limit.
    wait_until(
        lambda: processor.returncode is not None or "processor_started" in processor.log,
        within_seconds=QUEUES_WITHIN_SECONDS,
    )
    fleet = {"--workers": str(plan.workers), "--servers": str(plan.servers), **FLEET}
    start("fleet", "simulate", *(part for flag in fleet.items() for part in flag))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the folder: two nodes on the same data would ruin it."""
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandFailed(f"another `manman-status dev` is using {folder}") from None
        yield
