"""A fleet that lives."""

from __future__ import annotations

import asyncio
import math
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, TypeAlias

from cyclopts import Parameter
from cyclopts.validators import Number

from manman_status.cli.broker import connected
from manman_status.cli.flags import RabbitmqUrl
from manman_status.errors import CommandFailed
from manman_status.reporter.connection import Publisher, open_publisher
from manman_status.settings import Settings, load_settings
from manman_status.simulator.fleet import Fleet, FleetPlan
from manman_status.simulator.run import FleetRun

Chance: TypeAlias = Annotated[float, Parameter(validator=Number(gte=0, lte=1))]


def simulate(
    *,
    workers: Annotated[int, Parameter(validator=Number(gte=1, lte=100_000))] = 10,
    first_worker: Annotated[int, Parameter(validator=Number(gte=1, lte=1_000_000))] = 1_001,
    servers: Annotated[int, Parameter(validator=Number(gte=0, lte=1_000))] = 3,
    interval: Annotated[float, Parameter(validator=Number(gte=1, lte=3_600))] = 10.0,
    churn: Chance = 0.01,
    crash: Chance = 0.001,
    seed: int | None = None,
    duration: Annotated[timedelta | None, Parameter(name="--for")] = None,
    rabbitmq_url: RabbitmqUrl = None,
) -> None:
    """Send the events of a whole fleet until Ctrl-C or the end of its time, then stop every worker gracefully.

    Parameters
    ----------
    workers
        How many workers.
    first_worker
        The first one's id; the others' follow. A worker that is already there would be taken over, and stopped in the
        end: `dev` has its fleet from 1 on.
    servers
        Server instances of each worker.
    interval
        Seconds between two heartbeats of a worker.
    churn
        Chance at each beat, for each server instance, that it stops and another starts.
    crash
        Chance at each beat that the worker goes silent, to come back some beats later.
    seed
        Makes the same things happen again.
    duration
        How long: 90s, 5m, 1h.
    """
    settings = load_settings(needs=("rabbitmq_url",), rabbitmq_url=rabbitmq_url)
    plan = FleetPlan(
        workers=workers,
        first_worker=first_worker,
        servers=servers,
        interval_seconds=interval,
        churn=churn,
        crash=crash,
        seed=time.time_ns() if seed is None else seed,
    )
    fleet = Fleet(plan, begun=datetime.now(UTC))
    ids = f"{first_worker} to {first_worker + workers - 1}"
    print(f"workers {ids} with {servers} servers each, a beat every {interval:g} s; Ctrl-C stops them", flush=True)
    seconds = duration.total_seconds() if duration else math.inf
    asyncio.run(_run(fleet, settings, seconds))


async def _run(fleet: Fleet, settings: Settings, seconds: float) -> None:
    @asynccontextmanager
    async def connect() -> AsyncIterator[Publisher]:
        async with (
            connected(settings) as connection,
            open_publisher(connection, exchange=settings.inbound_exchange) as publisher,
        ):
            yield publisher

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    run = FleetRun(fleet, connect=connect, complain=lambda problem: print(problem, file=sys.stderr, flush=True))
    await run.until(stop, seconds=seconds)
    tally = run.tally
    print(f"sent {tally.heartbeats} heartbeats and {tally.lifecycle} lifecycle events; {fleet.crashes} workers crashed")
    if tally.dropped:
        raise CommandFailed(f"{tally.dropped} heartbeats reached no queue")
