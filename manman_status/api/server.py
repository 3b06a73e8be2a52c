"""The processes that serve the application."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import functools
import ipaddress
import multiprocessing
import os
import resource
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import structlog
from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings, HTTP2Settings
from granian.server import Server

from manman_status.errors import CommandFailed, DatabaseRefuses, DatabaseUnavailable
from manman_status.logs import configure_logs
from manman_status.store.faults import plain
from manman_status.store.pool import CONNECTION_ERRORS, create_pool, opened, require_schema

if TYPE_CHECKING:
    from litestar import Litestar

    from manman_status.settings import Settings

log = structlog.get_logger()

METRICS_FOLDER = "manman-status-metrics-"
FRESH_SECONDS = 60
BACKLOG = 1024
OTHER_FILES = 100
"""Files beside the connections of clients: those to the database, the event loop's, logs."""
LONGEST_HEADERS_BYTES = 32 * 1024
HTTP2 = HTTP2Settings(
    max_concurrent_streams=32, max_headers_size=LONGEST_HEADERS_BYTES, keep_alive_interval=20_000
)


def serve(settings: Settings) -> int:
    """Answer until SIGTERM or Ctrl-C. A database that is merely unavailable is waited for while
    serving.

    Raises SchemaBehind, DatabaseUnavailable when the database will not have us, CommandFailed
    without an address.
    """
    asyncio.run(_check_database(settings))
    address = _free_address(settings.bind_host, settings.port)
    if (
        not (settings.api_tokens or settings.metrics_tokens)
        and not ipaddress.ip_address(address).is_loopback
    ):
        log.warning(
            "open_to_all",
            host=settings.bind_host,
            hint="whoever reaches this port may read; set tokens",
        )
    # A shell allows 1,024 open files, and each stream is one.
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    # A fork would bring along what this process has imported, and prometheus_client decides then
    # where it counts.
    multiprocessing.set_start_method("spawn", force=True)
    with _shared_metrics(settings.workers):
        log.info("api_starts", host=address, port=settings.port, processes=settings.workers)
        most_connections = _most_connections(settings, most_files)
        Server(
            "manman-status",
            address=address,
            port=settings.port,
            interface=Interfaces.ASGI,
            workers=settings.workers,
            http=HTTPModes.auto if settings.http2 else HTTPModes.http1,
            http1_settings=HTTP1Settings(
                # Also of a connection that sends nothing, and between two requests.
                header_read_timeout=int(settings.idle_timeout_seconds * 1000),
                max_buffer_size=LONGEST_HEADERS_BYTES,
            ),
            http2_settings=HTTP2,
            backlog=BACKLOG,
            backpressure=most_connections,
            workers_kill_timeout=max(1, int(settings.shutdown_timeout_seconds)),
            loop=Loops.uvloop,
            websockets=False,
            log_enabled=False,
        ).serve(
            target_loader=functools.partial(_load, settings, most_connections), wrap_loader=False
        )
    log.info("api_stopped")
    return 0


def _most_connections(settings: Settings, most_files: int) -> int:
    """Bound of open connections of each process. Streams are connections too, and other requests
    must not wait for one to end."""
    wanted = settings.connections + settings.event_streams
    allowed = max(1, most_files - OTHER_FILES - settings.database_pool_size)
    if wanted > allowed:
        log.warning(
            "few_open_files", open_files=most_files, connections=allowed, hint="raise ulimit -n"
        )
    return min(wanted, allowed)


def _load(settings: Settings, most_connections: int) -> Litestar:
    """Make the application, in each process."""
    from manman_status.api.app import create_app

    configure_logs(role="api", level=settings.log_level, format=settings.log_format)
    return create_app(settings, most_connections=most_connections)


async def _check_database(settings: Settings) -> None:
    timeout_seconds = settings.database_timeout_seconds
    pool = create_pool(
        settings.read_url,
        application="manman-status api",
        size=1,
        timeout_seconds=timeout_seconds,
        read_only=True,
    )
    try:
        async with (
            asyncio.timeout(timeout_seconds),
            opened(pool, close_within_seconds=0.5),
            pool.acquire() as connection,
        ):
            await require_schema(connection)
    except asyncpg.ClientConfigurationError as error:
        raise DatabaseUnavailable(cause=plain(error)) from error
    except CONNECTION_ERRORS as error:
        log.warning(
            "database_unavailable", cause=plain(error), hint="answers are 503 until it is back"
        )
    except asyncpg.PostgresError as error:
        raise DatabaseRefuses(cause=plain(error)) from error


def _free_address(host: str, port: int) -> str:
    """The IP address to listen on. Raises CommandFailed when somebody does already: granian would
    share the port."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server(address[:2], family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise CommandFailed(
                f"port {port} of {host} is taken: choose another with --port"
            ) from error
        # The system's words alone: Python adds the address, which is named here already.
        reason = str(error.strerror).partition(" (while")[0]
        raise CommandFailed(
            f"cannot listen on port {port} of {host}: {reason}; see --host and --port"
        ) from error
    return str(address[0])


@contextlib.contextmanager
def _shared_metrics(processes: int) -> Iterator[None]:
    """A folder in which several processes add up their metrics."""
    if processes == 1:
        yield
        return
    _remove_abandoned_metrics()
    with tempfile.TemporaryDirectory(prefix=METRICS_FOLDER) as folder, _locked(folder):
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        yield


def _remove_abandoned_metrics() -> None:
    """Remove the folders of killed apis, which are not locked. The process id is no proof:
    containers that share a folder all have a 1."""
    for folder in Path(tempfile.gettempdir()).glob(f"{METRICS_FOLDER}*"):
        with contextlib.suppress(OSError):
            # One that was made just now may not be locked yet.
            if folder.stat().st_mtime < time.time() - FRESH_SECONDS:
                with _locked(folder):
                    shutil.rmtree(folder)


@contextlib.contextmanager
def _locked(folder: str | Path) -> Iterator[None]:
    """Raises BlockingIOError when another process has it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
