"""Runs a bridge until it is stopped."""

from __future__ import annotations

import asyncio
import signal
import socket
import uuid
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from time import monotonic

import structlog
import uvloop

from manman_status.bridge.bridge import Bridge, StatusInfoWriter
from manman_status.bridge.sending import Sending
from manman_status.cancellation import cancel
from manman_status.leadership import Leadership
from manman_status.probes import probe_files
from manman_status.reporter.alarms import learn_reasons
from manman_status.running import Part, Runs, unless_stopped, when_available
from manman_status.settings import Settings
from manman_status.store.pool import Pool, create_pool, opened, require_schema

log = structlog.get_logger()

READ_WITHIN_SECONDS = 3.0
LEASE_SECONDS = 5.0
STUCK_SECONDS = 120.0


def serve(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; the exit code. Raises SchemaBehind."""
    uvloop.run(run_bridge(settings))
    return 0


async def run_bridge(settings: Settings) -> None:
    learn_reasons()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as stack:
        probes = await stack.enter_async_context(probe_files(settings.probe_folder))
        pool = await stack.enter_async_context(_pool(settings.database_url, 3))
        manman = await stack.enter_async_context(_pool(settings.manman_database_url, 2))
        if await unless_stopped(when_available(partial(_check_schema, pool)), stopping) is None:
            return
        leadership = Leadership(
            pool,
            f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}",
            lease_seconds=LEASE_SECONDS,
            lease=f"bridge {settings.bridge_name}",
        )
        sending = Sending(settings.broker_url, exchange=settings.inbound_exchange)
        stack.push_async_callback(sending.close)
        bridge = Bridge(
            leadership,
            manman,
            sending,
            name=settings.bridge_name,
            arrays=not settings.body_must_match_key,
            writes=settings.write_status_info,
        )
        tasks: list[Runs] = [bridge]
        if settings.write_status_info:
            tasks.append(StatusInfoWriter(leadership, manman, name=settings.bridge_name))
        parts = [
            Part(leadership, rests_seconds=0),
            # While another bridge leads they rest.
            *(Part(task, rests_seconds=float("inf")) for task in tasks),
        ]
        probes.is_alive = lambda: not parts[0].is_stuck(for_seconds=STUCK_SECONDS)
        probes.is_ready = lambda: (
            leadership.token is None
            or monotonic() - bridge.proven_at < settings.degraded_after_seconds
        )
        running = [asyncio.create_task(part.keep_running()) for part in parts]
        await stopping.wait()
        log.info("bridge_stopping")
        await cancel(*running)
    log.info("bridge_stopped")


def _pool(url: str, size: int) -> AbstractAsyncContextManager[Pool]:
    """Open a pool whose queries end soon: a look that hangs shows nothing."""
    pool = create_pool(
        url,
        application="manman-status bridge",
        size=size,
        timeout_seconds=READ_WITHIN_SECONDS,
    )
    return opened(pool, close_within_seconds=0.5)


async def _check_schema(pool: Pool) -> bool:
    async with pool.acquire() as connection:
        await require_schema(connection)
    return True
