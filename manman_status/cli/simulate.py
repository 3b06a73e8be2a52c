"""A fleet that lives."""

from __future__ import annotations

import asyncio
import importlib.metadata
import math
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, TypeAlias

import httpx
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from manman_status.cli.broker import connected
from manman_status.cli.flags import RabbitmqUrl
from manman_status.cli.ordered_faults import KillGroups, Kills, Pauses, Seconds
from manman_status.cli.verdict import print_verdict
from manman_status.domain.liveness import timeout_seconds
from manman_status.errors import CommandFailed
from manman_status.reporter.connection import Publisher, open_publisher
from manman_status.settings import Settings, load_settings, redacted
from manman_status.simulator.delivery import Delivery
from manman_status.simulator.fleet import GROUPS, INSTANCES_OF_A_WORKER, Fleet, FleetPlan
from manman_status.simulator.judgement import Judge
from manman_status.simulator.observed import Observation
from manman_status.simulator.readers import tell_unread
from manman_status.simulator.run import FleetRun
from manman_status.simulator.truth import Truth
from manman_status.simulator.watcher import Watcher

Chance: TypeAlias = Annotated[float, Parameter(validator=Number(gte=0, lte=1))]
Switch: TypeAlias = Annotated[bool, Parameter(negative="")]
API_ANSWERS_WITHIN_SECONDS = 10.0
SLOW_SECONDS = 2.0
"""A heartbeat that took longer to reach the broker is told of."""


def simulate(
    *,
    workers: Annotated[int, Parameter(validator=Number(gte=1, lte=100_000))] = 10,
    first_worker: Annotated[int, Parameter(validator=Number(gte=1, lte=1_000_000))] = 1_001,
    servers: Annotated[int, Parameter(validator=Number(gte=0, lte=1_000))] = 3,
    interval: Annotated[float, Parameter(validator=Number(gte=1, lte=3_600))] = 10.0,
    churn: Chance = 0.01,
    crash: Chance = 0.001,
    kill: Kills = (),
    kill_group: KillGroups = (),
    pause: Pauses = (),
    duplicate: Switch = False,
    reorder: Switch = False,
    clock_skew: Seconds = 0.0,
    seed: int | None = None,
    duration: Annotated[timedelta | None, Parameter(name="--for")] = None,
    verify: Annotated[str | bool, Parameter(negative="")] = False,
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
    kill
        COUNT@TIME: so many workers die for good, as 3@30s. May be repeated, like the next two.
    kill_group
        GROUP@SHARE@TIME: so much of a group dies, as eu-1@40%@60s.
    pause
        COUNT@TIME:DURATION: so many workers freeze and go on afterwards, as 5@30s:20s.
    duplicate
        Send each message twice, half of the copies up to 3 s later.
    reorder
        Hold messages back for up to a fifth of the interval, at most 2 s, so that they overtake each other.
    clock_skew
        Each worker's own clock is off by up to so much, either way: 90s, 5m, 1h.
    seed
        Makes the same things happen again.
    duration
        How long: 90s, 5m, 1h.
    verify
        Compare what the api says with what is true; exits 1 when anything is wrong. Bare, or with the api's URL.
        [MANMAN_STATUS_URL]
    """
    url = verify if isinstance(verify, str) else None
    settings = load_settings(needs=("rabbitmq_url",), rabbitmq_url=rabbitmq_url, url=url)
    plan = FleetPlan(
        workers=workers,
        first_worker=first_worker,
        servers=servers,
        interval_seconds=interval,
        churn=churn,
        crash=crash,
        clock_skew_seconds=clock_skew,
        faults=(*kill, *kill_group, *pause),
        seed=time.time_ns() if seed is None else seed,
    )
    delivery = Delivery(duplicate=duplicate, reorder=reorder, interval_seconds=interval, seed=plan.seed)
    ids = f"{first_worker} to {first_worker + workers - 1}"
    print(f"workers {ids} with {servers} servers each, a beat every {interval:g} s; Ctrl-C stops them", flush=True)
    seconds = duration.total_seconds() if duration else math.inf
    fleet = Fleet(plan, begun=datetime.now(UTC))
    asyncio.run(_run(fleet, delivery, settings, seconds, verify=bool(verify)))


async def _run(fleet: Fleet, delivery: Delivery, settings: Settings, seconds: float, *, verify: bool) -> None:
    timeout = timeout_seconds(fleet.plan.interval_seconds, minimum_seconds=settings.minimum_timeout_seconds)
    truth = Truth(((worker.worker_id, worker.group) for worker in fleet.workers), timeout_seconds=timeout)
    run = FleetRun(fleet, delivery, truth, connect=lambda: _lanes(settings), complain=_complain)
    stop, stop_settling = _stops()
    async with run.sending(), _progress(run, seconds):
        if not verify:
            await run.live(stop, seconds=seconds)
            await run.finish()
            _tell(run, fleet)
            if run.tally.dropped:
                raise CommandFailed(f"{run.tally.dropped} heartbeats reached no queue")
            return
        observation = Observation(grace_seconds=max(timeout, settings.recovery_grace_seconds))
        judge = Judge(truth, observation, timeout_seconds=timeout)
        async with _api(settings) as http:
            last_worker = fleet.workers[-1].worker_id
            watcher = Watcher(
                http,
                judge,
                observation,
                clock=run.now,
                last_worker=last_worker,
                last_instance=(last_worker + 1) * INSTANCES_OF_A_WORKER,
            )
            watching = asyncio.create_task(watcher.watch())
            await _ended(run.live(stop, seconds=seconds), watching)
            fleet.calm(run.now())
            if watcher.answered:
                print(f"settling, for {timeout:g} s or longer; Ctrl-C skips it", flush=True)
                settling = asyncio.create_task(watcher.settle(timeout_seconds=timeout, groups=list(GROUPS)))
                settling.add_done_callback(lambda _: stop_settling.set())
                await _ended(run.live(stop_settling), settling)
            await run.finish()
            if watcher.answered:
                await watcher.check_end()
    _tell(run, fleet)
    if run.tally.dropped:
        print(f"{run.tally.dropped} heartbeats reached no queue")
    print_verdict(judge, watcher, where=redacted(settings.url))


async def _ended(living: Awaitable[None], beside: asyncio.Task[None]) -> None:
    """Waits for the first; what is beside it ends with it, and is not allowed to have failed."""
    try:
        await living
    finally:
        beside.cancel()
        with suppress(asyncio.CancelledError):
            await beside


def _stops() -> tuple[asyncio.Event, asyncio.Event]:
    """The first signal sets the first, the next one the second."""
    stops = asyncio.Event(), asyncio.Event()

    def stop() -> None:
        next((event for event in stops if not event.is_set()), stops[-1]).set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    return stops


@asynccontextmanager
async def _lanes(settings: Settings) -> AsyncIterator[tuple[Publisher, Publisher]]:
    """A connection each: the broker holds back a connection, not a channel, whose messages pile up."""
    exchange = settings.inbound_exchange
    queues = (settings.heartbeat_queue, settings.lifecycle_queue)
    async with (
        connected(settings) as first,
        connected(settings) as second,
        open_publisher(first, exchange=exchange) as beats,
        open_publisher(second, exchange=exchange) as lifecycle,
    ):
        asking = asyncio.create_task(tell_unread(first, queues, complain=_complain))
        try:
            yield beats, lifecycle
        finally:
            asking.cancel()


def _api(settings: Settings) -> httpx.AsyncClient:
    headers = {"user-agent": f"manman-status/{importlib.metadata.version('manman-status')}"}
    if settings.api_token:
        headers["authorization"] = f"Bearer {settings.api_token}"
    return httpx.AsyncClient(base_url=settings.url, headers=headers, timeout=API_ANSWERS_WITHIN_SECONDS)


@asynccontextmanager
async def _progress(run: FleetRun, seconds: float) -> AsyncIterator[None]:
    """On a terminal only."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    total = None if math.isinf(seconds) else seconds
    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total)

        async def show() -> None:
            while True:
                sent = f"{run.tally.heartbeats} heartbeats, {run.tally.lifecycle} lifecycle events"
                progress.update(task, completed=run.now(), description=sent)
                await asyncio.sleep(0.25)

        showing = asyncio.create_task(show())
        try:
            yield
        finally:
            showing.cancel()


def _tell(run: FleetRun, fleet: Fleet) -> None:
    tally = run.tally
    struck = f"{fleet.crashes} workers crashed"
    if fleet.killed or fleet.paused:
        struck = f"{struck}, {fleet.killed} were killed, {fleet.paused} paused"
    print(f"sent {tally.heartbeats} heartbeats and {tally.lifecycle} lifecycle events; {struck}")
    if tally.slowest_seconds > SLOW_SECONDS:
        _complain(f"a heartbeat took {tally.slowest_seconds:.1f} s: too much for this machine or the broker")


def _complain(problem: str) -> None:
    print(problem, file=sys.stderr, flush=True)
