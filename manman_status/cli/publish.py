"""Publishing one event by hand."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import msgspec
from cyclopts import App, Parameter
from cyclopts.validators import Number

from manman_status.cli.broker import publishing, virtual_host
from manman_status.cli.flags import Id, Labels, OptionalId, RabbitmqUrl, labels_of
from manman_status.cli.tracing import tracing
from manman_status.errors import SettingsError
from manman_status.reporter.messages import Incarnation, Report
from manman_status.reporter.tracing import trace_headers
from manman_status.settings import Settings, load_settings
from manman_status.wire.messages import RunningServer

app = App(
    name="publish",
    help="Send one event by hand. Exits 1 when no queue takes it.",
    help_format="plaintext",
)

Interval: TypeAlias = Annotated[float | None, Parameter(validator=Number(gt=0))]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Life:
    """Position of the event among the worker's others; by its time when not given."""

    incarnation: OptionalId = None
    "Start of the worker's life, in µs since the epoch."
    seq: Id = 1
    "Number of the event in that life; counts with --incarnation only."


WITHOUT_ORDER = Life()


@app.command
def heartbeat(
    worker_id: Id,
    /,
    *,
    interval: Interval = None,
    label: Labels = (),
    server: Annotated[tuple[str, ...] | None, Parameter(negative="--no-servers")] = None,
    life: Life = WITHOUT_ORDER,
    rabbitmq_url: RabbitmqUrl = None,
) -> None:
    """Say that a worker is alive.

    Parameters
    ----------
    worker_id
        Which worker.
    interval
        Seconds until it promises the next one.
    label
        KEY:VALUE, or KEY=VALUE; may be repeated.
    server
        ID or ID:CONFIG_ID of a server instance that it runs; may be repeated, and is all that it
        runs.
    """
    settings = load_settings(needs=("rabbitmq_url",), rabbitmq_url=rabbitmq_url)
    worker = _worker(worker_id, life, interval, label)
    servers = None if server is None else [_server(text) for text in server]
    _send(settings, worker.heartbeat(servers))


@app.command
def started(
    worker_id: Id,
    /,
    *,
    server: OptionalId = None,
    config: OptionalId = None,
    interval: Interval = None,
    label: Labels = (),
    life: Life = WITHOUT_ORDER,
    rabbitmq_url: RabbitmqUrl = None,
) -> None:
    """Say that a worker started, or with --server that one of its server instances did.

    Parameters
    ----------
    worker_id
        Which worker.
    server
        The server instance's id.
    config
        The server instance's game_server_config_id.
    interval
        Seconds between the worker's heartbeats.
    label
        KEY:VALUE of the worker, or KEY=VALUE; may be repeated.
    """
    settings = load_settings(needs=("rabbitmq_url",), rabbitmq_url=rabbitmq_url)
    worker = _worker(worker_id, life, interval, label)
    if server is None:
        _send(settings, worker.worker_started())
    else:
        _send(settings, worker.server_started(server, game_server_config_id=config))


@app.command
def stopped(
    worker_id: Id,
    /,
    *,
    server: OptionalId = None,
    exit_code: int | None = None,
    life: Life = WITHOUT_ORDER,
    rabbitmq_url: RabbitmqUrl = None,
) -> None:
    """Say that a worker stopped gracefully, or with --server that one of its server instances
    ended.

    Parameters
    ----------
    worker_id
        Which worker.
    server
        The server instance's id.
    exit_code
        The server instance's; anything but 0 is a crash.
    """
    settings = load_settings(needs=("rabbitmq_url",), rabbitmq_url=rabbitmq_url)
    worker = _worker(worker_id, life)
    if server is None:
        _send(settings, worker.worker_stopped())
    else:
        _send(settings, worker.server_stopped(server, exit_code=exit_code))


def _worker(
    worker_id: int, life: Life, interval: float | None = None, label: tuple[str, ...] = ()
) -> Incarnation:
    return Incarnation(
        worker_id,
        number=life.incarnation,
        first_seq=life.seq,
        interval_seconds=interval,
        labels=labels_of(label),
    )


def _server(text: str) -> RunningServer:
    try:
        instance_id, *config = (int(part) for part in text.split(":"))
        if len(config) <= 1 and all(1 <= number < 2**63 for number in (instance_id, *config)):
            return RunningServer(instance_id, config[0] if config else None)
    except ValueError:
        pass
    raise SettingsError([f"--server {text}: must be ID or ID:CONFIG_ID, each 1 to 2^63-1"])


def _send(settings: Settings, report: Report) -> None:
    async def send() -> None:
        async with publishing(settings) as publisher:
            await publisher.send(msgspec.structs.replace(report, headers=trace_headers()))

    with (
        tracing(settings, "publish") as begin_span,
        begin_span(f"{settings.inbound_exchange} publish"),
    ):
        asyncio.run(send())
    place = f"{settings.inbound_exchange} (virtual host {virtual_host(settings)})"
    print(f"sent to {place} as {report.routing_key}: {report.body.decode()}")
