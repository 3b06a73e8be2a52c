"""How fast the api answers."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from collections.abc import AsyncIterator

import httpx

from bench.stack import Stack, answer, compared
from manman_status.dev.ports import free_port

CONNECTIONS = 16
PAGES = ("/status/workers?limit=100", "/status/system")
REQUESTS_A_SECOND = re.compile(r"Requests/sec:\s+([\d.]+)")
REFUSED = re.compile(r"Non-2xx or 3xx responses: (\d+)")


async def pages(stack: Stack) -> AsyncIterator[str]:
    """Each page beside a constant answer; the two take turns."""
    api, constant = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    command = [sys.executable, "-m", "bench.constant", constant.rpartition(":")[2]]
    with stack.role("api", host="127.0.0.1", port=api.rpartition(":")[2]), stack.child(command):
        await answers(f"{api}/livez")
        await answers(f"{constant}/constant")
        for page in PAGES:
            ours, bare = [], []
            for _ in range(stack.sizes.runs):
                ours.append(await asked(api + page, stack.sizes.http_seconds))
                bare.append(await asked(f"{constant}/constant", stack.sizes.http_seconds))
            yield compared(f"(c) GET {page}", ours, "a constant answer", bare, "requests/s")


async def answers(url: str) -> None:
    async with httpx.AsyncClient() as client:
        while True:
            try:
                (await client.get(url)).raise_for_status()
            except httpx.TransportError:
                await asyncio.sleep(0.05)
            else:
                return


async def asked(url: str, seconds: int) -> float:
    """Requests a second, by wrk where there is one: it leaves more of the machine to the server."""
    wrk = shutil.which("wrk")
    if not wrk:
        return await answer("bench.load", url, str(CONNECTIONS), str(seconds))
    process = await asyncio.create_subprocess_exec(
        *(wrk, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", url), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    found = REQUESTS_A_SECOND.search(out.decode())
    assert process.returncode == 0, out
    assert found, out
    assert not REFUSED.search(out.decode()), out
    return float(found[1])
