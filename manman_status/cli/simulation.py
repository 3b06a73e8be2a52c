"""A simulated fleet's run: connected, stopped by signals, shown on a terminal, and verified where
that is asked for."""

from __future__ import annotations

import asyncio
import importlib.metadata
import math
import signal
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from manman_status.cancellation import cancel
from manman_status.cli.broker import connected
from manman_status.cli.client import thresholds_of
from manman_status.cli.verdict import print_verdict
from manman_status.errors import CommandFailed
from manman_status.lab.simulator.delivery import Delivery
from manman_status.lab.simulator.fleet import GROUPS, INSTANCES_OF_A_WORKER, Fleet
from manman_status.lab.simulator.judgement import Judge
from manman_status.lab.simulator.observed import Observation
from manman_status.lab.simulator.readers import report_unread
from manman_status.lab.simulator.run import FleetRun
from manman_status.lab.simulator.truth import Truth
from manman_status.lab.simulator.watcher import Watcher
from manman_status.reporter.connection import Publisher, open_publisher
from manman_status.settings import Settings, redacted

API_ANSWERS_WITHIN_SECONDS = 10.0
SLOW_SECONDS = 2.0
"""A heartbeat that took longer to reach the broker is reported."""


async def live(fleet: Fleet, delivery: Delivery, settings: Settings, *, seconds: float) -> None:
    run = FleetRun(fleet, delivery, connect=lambda: _lanes(settings), complain=_complain)
    stop, _ = _stops()
    async with run.sending(), _progress(run, seconds):
        await run.live(stop, seconds=seconds)
        await run.finish()
    _print_totals(run, fleet)
    if run.tally.dropped:
        raise CommandFailed(f"{run.tally.dropped} heartbeats reached no queue")


async def live_verified(
    fleet: Fleet, delivery: Delivery, settings: Settings, *, seconds: float
) -> None:
    """Run the fleet beside a watcher of the api. Raises CommandFailed when the api was wrong."""
    thresholds = await asyncio.to_thread(thresholds_of, settings)
    timeout = thresholds.timeout(fleet.plan.interval_seconds)
    truth = Truth(
        ((worker.worker_id, worker.group) for worker in fleet.workers), timeout_seconds=timeout
    )
    observation = Observation(grace_seconds=max(timeout, thresholds.recovery_grace_seconds))
    judge = Judge(truth, observation, timeout_seconds=timeout)
    run = FleetRun(
        fleet, delivery, truth=truth, connect=lambda: _lanes(settings), complain=_complain
    )
    last_worker = fleet.workers[-1].worker_id
    async with _api(settings) as http:
        watcher = Watcher(
            http,
            judge,
            observation,
            clock=run.now,
            last_worker=last_worker,
            last_instance=(last_worker + 1) * INSTANCES_OF_A_WORKER,
        )
        async with run.sending(), _progress(run, seconds):
            await _live_watched(fleet, run, watcher, seconds=seconds, settle_seconds=timeout)
    _print_totals(run, fleet)
    if run.tally.dropped:
        print(f"{run.tally.dropped} heartbeats reached no queue")
    print_verdict(judge, watcher, where=redacted(settings.url))


async def _live_watched(
    fleet: Fleet, run: FleetRun, watcher: Watcher, *, seconds: float, settle_seconds: float
) -> None:
    """Run fleet and watcher, wait for the consequences of all faults, then stop the fleet."""
    stop, stop_settling = _stops()
    await _beside(asyncio.create_task(watcher.watch()), run.live(stop, seconds=seconds))
    fleet.calm(run.now())
    if watcher.answered:
        print(f"settling, for {settle_seconds:g} s or longer; Ctrl-C skips it", flush=True)
        settling = asyncio.create_task(
            watcher.settle(timeout_seconds=settle_seconds, groups=GROUPS)
        )
        settling.add_done_callback(lambda _: stop_settling.set())
        await _beside(settling, run.live(stop_settling))
    await run.finish()
    if watcher.answered:
        await watcher.check_end()


async def _beside(task: asyncio.Task[None], living: Awaitable[None]) -> None:
    """Run `task` as long as `living`; raise its failure afterwards."""
    try:
        await living
    finally:
        await cancel(task)
        if not task.cancelled():
            task.result()


def _stops() -> tuple[asyncio.Event, asyncio.Event]:
    """Two events: the first signal sets the first, the next signal the second."""
    stops = asyncio.Event(), asyncio.Event()

    def stop() -> None:
        next((event for event in stops if not event.is_set()), stops[-1]).set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    return stops


@asynccontextmanager
async def _lanes(settings: Settings) -> AsyncIterator[tuple[Publisher, Publisher]]:
    """Open a connection for heartbeats and one for lifecycle events: when messages pile up,
    RabbitMQ blocks a whole connection."""
    exchange = settings.inbound_exchange
    queues = settings.queues(settings.partitions)
    async with (
        connected(settings) as first,
        connected(settings) as second,
        open_publisher(first, exchange=exchange) as beats,
        open_publisher(second, exchange=exchange) as lifecycle,
    ):
        checking = asyncio.create_task(report_unread(first, queues, complain=_complain))
        try:
            yield beats, lifecycle
        finally:
            await cancel(checking)


def _api(settings: Settings) -> httpx.AsyncClient:
    headers = {"user-agent": f"manman-status/{importlib.metadata.version('manman-status')}"}
    if settings.api_token:
        headers["authorization"] = f"Bearer {settings.api_token}"
    return httpx.AsyncClient(
        base_url=settings.url, headers=headers, timeout=API_ANSWERS_WITHIN_SECONDS
    )


@asynccontextmanager
async def _progress(run: FleetRun, seconds: float) -> AsyncIterator[None]:
    """Show a progress bar, on a terminal only."""
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
            await cancel(showing)


def _print_totals(run: FleetRun, fleet: Fleet) -> None:
    tally = run.tally
    struck = f"{fleet.crashes} workers crashed"
    if fleet.killed or fleet.paused:
        struck = f"{struck}, {fleet.killed} were killed, {fleet.paused} paused"
    print(f"sent {tally.heartbeats} heartbeats and {tally.lifecycle} lifecycle events; {struck}")
    if tally.slowest_seconds > SLOW_SECONDS:
        _complain(
            f"a heartbeat took {tally.slowest_seconds:.1f} s: too much for this machine or the"
            " broker"
        )


def _complain(problem: str) -> None:
    print(problem, file=sys.stderr, flush=True)
