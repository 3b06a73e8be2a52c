"""`simulate --verify` against real servers: quiet when the service tells the truth, loud when it does not."""

from __future__ import annotations

import asyncio
import re
import sys
from typing import NamedTuple

import pytest

from tests.conftest import role_environment


class Verdict(NamedTuple):
    code: int
    out: str
    err: str

    def number(self, what):
        [found] = re.findall(rf"^ *{what} +(\d+)", self.out, flags=re.MULTILINE)
        return int(found)

    @property
    def wrong(self):
        """False LOST, missed LOST, wrong worker statuses, wrong server statuses."""
        names = ("false LOST", "missed LOST", "wrong worker statuses", "wrong server statuses")
        return tuple(self.number(name) for name in names)


@pytest.fixture
def simulate(broker):
    """Runs it to its end; `meanwhile` is called with what it may ask, while it runs."""

    async def run(arguments, api, *, meanwhile=None, within_seconds=200, **settings):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "manman_status", "simulate", *arguments.split(), "--verify", api.url),
            env=role_environment(rabbitmq_url=broker, **settings),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        beside = asyncio.create_task(meanwhile()) if meanwhile else None
        try:
            async with asyncio.timeout(within_seconds):
                out, err = await process.communicate()
            if beside:
                await beside
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert b"Traceback" not in err, err.decode()
        assert process.returncode is not None
        return Verdict(process.returncode, out.decode(), err.decode())

    return run


async def test_a_fleet_with_faults_is_told_as_it_is(simulate, processor, api):
    verdict = await simulate(
        "--workers 200 --servers 3 --interval 2 --churn 0.02 --crash 0.005 --kill 4@4s --pause 2@5s:3s"
        " --duplicate --reorder --clock-skew 1h --for 12s --seed 1",
        api,
    )
    assert (verdict.wrong, verdict.code) == ((0, 0, 0, 0), 0), verdict
    assert verdict.number("rightly LOST") >= 4
