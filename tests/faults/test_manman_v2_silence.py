"""Silence of ManMan V2's hosts counts only while V2's own queue is proven."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from tests.faults.liveness import Observed
from tests.kinds import Eventually, StartRole
from tests.manman_v2 import EXCHANGE, QUEUE, health, session
from tests.messaging import Publisher

TIMEOUT_SECONDS = 15
"""Three of V2's intervals."""


async def is_now(observed: Observed, server_id: int, status: str) -> bool:
    return (await observed.worker(server_id) or ("",))[0] == status


@pytest.fixture
async def beating(publish: Publisher, channel: Any) -> AsyncIterator[None]:
    """Host 8 publishes its health until the test ends."""
    await channel.declare_exchange(EXCHANGE, "topic", durable=True)

    async def beat() -> None:
        while True:
            await publish(*health(8), EXCHANGE)
            await asyncio.sleep(1)

    task = asyncio.create_task(beat())
    yield
    task.cancel()


async def test_a_silent_host_is_lost_and_its_sessions_are_not(
    start_quick: StartRole,
    publish: Publisher,
    observed: Observed,
    eventually: Eventually,
) -> None:
    await start_quick(dialects="manman,manman-v2")
    await publish(*health(7), EXCHANGE)
    await publish(*session(31, "running"), EXCHANGE)
    await eventually(lambda: is_now(observed, 7, "LOST"))
    assert await observed.worker(7) == ("LOST", "heartbeat_expired")
    assert await observed.server(31) == ("RUNNING", "reported")
    await publish(*health(7), EXCHANGE)
    await eventually(lambda: is_now(observed, 7, "RUNNING"))


async def test_no_host_is_lost_while_its_heartbeats_have_no_way_in(
    start_quick: StartRole,
    channel: Any,
    observed: Observed,
    eventually: Eventually,
    beating: None,
) -> None:
    """The binding of the heartbeats is the binding of the canary: without it nothing is proven."""
    await start_quick(dialects="manman,manman-v2")
    await eventually(lambda: is_now(observed, 8, "RUNNING"))

    async def is_observed() -> bool:
        lag = await observed.lag()
        return lag is not None and lag < TIMEOUT_SECONDS

    await eventually(is_observed)
    queue = await channel.get_queue(QUEUE)
    await queue.unbind(EXCHANGE, "*.host.*")
    unbound = await observed.value("SELECT now()")

    async def is_blind_for_a_timeout() -> bool:
        passed = await observed.value("SELECT now()") - unbound
        return bool(passed > timedelta(seconds=TIMEOUT_SECONDS + 3))

    await eventually(is_blind_for_a_timeout)
    assert await observed.lost() == []
    assert await observed.lag() > TIMEOUT_SECONDS
    await queue.bind(EXCHANGE, "*.host.*")
    rebound = await observed.value("SELECT now()")
    passed = rebound + timedelta(seconds=TIMEOUT_SECONDS + 1)
    await eventually(lambda: observed.has_passed(passed))
    assert await observed.lost() == []
