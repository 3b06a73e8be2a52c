"""Probes of a processor, which has no port: the age of two files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import structlog

from manman_status.errors import CommandFailed

log = structlog.get_logger()

EVERY_SECONDS = 1.0


class ProbeFiles:
    """`alive` is touched while `is_alive()` says so, `ready` while `is_ready()` does too."""

    def __init__(self, folder: Path) -> None:
        self._alive = folder / "alive"
        self._ready = folder / "ready"
        self.is_alive: Callable[[], bool] = lambda: True
        self.is_ready: Callable[[], bool] = lambda: False

    def touch(self) -> None:
        if not self.is_alive():
            return
        self._alive.touch()
        if self.is_ready():
            self._ready.touch()

    async def keep_touching(self) -> None:
        problem = ""
        while True:
            try:
                self.touch()
            except OSError as error:
                if str(error) != problem:
                    problem = str(error)
                    log.warning("probe_files_fail", error=problem)
            await asyncio.sleep(EVERY_SECONDS)

    def remove(self) -> None:
        for file in (self._alive, self._ready):
            with suppress(OSError):
                file.unlink(missing_ok=True)


@asynccontextmanager
async def probe_files(folder: str) -> AsyncIterator[ProbeFiles]:
    """Touched until the end, and gone then; none without a folder. Raises CommandFailed when it
    cannot be written."""
    files = ProbeFiles(Path(folder))
    if not folder:
        yield files
        return
    try:
        files.remove()
        files.touch()
    except OSError as error:
        raise CommandFailed(
            f"cannot write into the probe folder {folder}: {error.strerror}"
        ) from error
    touching = asyncio.create_task(files.keep_touching())
    try:
        yield files
    finally:
        touching.cancel()
        files.remove()
