"""Measure how fast the api answers."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from collections.abc import AsyncIterator

import asyncpg
import httpx

from bench.stack import Stack, answer, compared
from manman_status.dev.ports import free_port

CONNECTIONS = 16
PAGES = ("/status/workers?limit=100", "/status/system")
REQUESTS_A_SECOND = re.compile(r"Requests/sec:\s+([\d.]+)")
REFUSED = re.compile(r"Non-2xx or 3xx responses: (\d+)")


async def pages(stack: Stack) -> AsyncIterator[str]:
    """Each page beside a constant answer, as the api is by default and without kept answers; they
    take turns."""
    ports = [str(free_port()) for _ in range(3)]
    kept, read, constant = (f"http://127.0.0.1:{port}" for port in ports)
    # No processor runs by now, and what a blind api leaves out must not count as speed.
    settings = {"host": "127.0.0.1"}
    connection = await asyncpg.connect(stack.postgres.url)
    await connection.execute("UPDATE observation SET blind_after_seconds = 86400")
    await connection.close()
    with (
        stack.role("api", port=ports[0], **settings),
        stack.role("api", port=ports[1], answer_cache_ms=0, **settings),
        stack.child([sys.executable, "-m", "bench.constant", ports[2]]),
    ):
        for url in (f"{kept}/livez", f"{read}/livez", f"{constant}/constant"):
            await answers(url)
        for page in PAGES:
            urls: dict[str, list[float]] = {
                kept + page: [],
                read + page: [],
                f"{constant}/constant": [],
            }
            for _ in range(stack.sizes.runs):
                for url, found in urls.items():
                    found.append(await measure(url, stack.sizes.http_seconds))
            *ours, bare = urls.values()
            for what, found in zip((page, f"{page}, read anew"), ours, strict=True):
                yield compared(f"(c) GET {what}", found, "a constant answer", bare, "requests/s")


async def answers(url: str) -> None:
    async with httpx.AsyncClient() as client:
        while True:
            try:
                (await client.get(url)).raise_for_status()
            except httpx.TransportError:
                await asyncio.sleep(0.05)
            else:
                return


async def measure(url: str, seconds: int) -> float:
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
