"""The read side: HTTP in front of the database. It knows no broker and writes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.metadata
import ipaddress
import multiprocessing
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import asyncpg
import structlog
from granian.constants import Interfaces, Loops
from granian.server import Server
from litestar import Litestar, Request, Response, Router
from litestar.exceptions import NotFoundException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from manman_status.api.database import Database
from manman_status.api.errors import problem_response
from manman_status.api.gate import Gate
from manman_status.api.metrics import MULTIPROCESS_FOLDER, http_metrics
from manman_status.api.parameters import refuse_unknown_parameters
from manman_status.api.routes import probes, servers, system, workers
from manman_status.logs import configure_logs
from manman_status.store.health import Timeouts
from manman_status.store.pool import CONNECTION_ERRORS, create_pool, require_schema

if TYPE_CHECKING:
    from manman_status.settings import Settings

log = structlog.get_logger()


def create_app(settings: Settings) -> Litestar:
    app = Litestar(
        [
            Router(
                "/status",
                route_handlers=[
                    workers.workers,
                    workers.worker,
                    servers.servers,
                    servers.active_servers,
                    servers.server,
                    system.system,
                ],
                before_request=refuse_unknown_parameters,
            ),
            system.metrics,
            probes.livez,
            probes.readyz,
        ],
        lifespan=[_parent, functools.partial(_database, settings=settings)],
        middleware=[http_metrics.middleware],
        exception_handlers={Exception: _problem},
        openapi_config=_openapi(),
        logging_config=None,
    )
    app.asgi_handler = Gate(app.asgi_handler, tokens=settings.api_tokens)
    return app


def _problem(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    return problem_response(error)


async def _plain_not_found(response: Response[Any]) -> Response[Any]:
    """Litestar answers HTML below the schema's path; nothing else here does."""
    if response.status_code == NotFoundException.status_code:
        raise NotFoundException
    return response


def _openapi() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="manman-status",
        version=importlib.metadata.version("manman-status"),
        description="Which workers and game server instances live, told from their own messages.",
        openapi_router=Router("/schema", route_handlers=[], after_request=_plain_not_found, include_in_schema=False),
        render_plugins=[JsonRenderPlugin(path=["/openapi.json"])],
        use_handler_docstrings=True,
        security=[{}, {"token": []}],
        components=Components(security_schemes={"token": SecurityScheme(type="http", scheme="bearer")}),
    )


@contextlib.asynccontextmanager
async def _parent(_: Litestar) -> AsyncIterator[None]:
    """End with the process that started this one, even when that was killed: else the port would stay taken."""
    loop = asyncio.get_running_loop()

    def end(sentinel: int) -> None:
        loop.remove_reader(sentinel)
        os.kill(os.getpid(), signal.SIGTERM)

    if parent := multiprocessing.parent_process():
        loop.add_reader(parent.sentinel, end, parent.sentinel)
    yield


@contextlib.asynccontextmanager
async def _database(app: Litestar, *, settings: Settings) -> AsyncIterator[None]:
    pool = create_pool(
        settings.database_url,
        application="manman-status api",
        size=settings.database_pool_size,
        timeout_seconds=settings.database_timeout_seconds,
        read_only=True,
    )
    await pool
    app.state["database"] = Database(
        pool,
        timeout_seconds=settings.database_timeout_seconds,
        timeouts=Timeouts(settings.default_interval_seconds, settings.minimum_timeout_seconds),
    )
    try:
        yield
    finally:
        try:
            async with asyncio.timeout(settings.database_timeout_seconds):
                await pool.close()
        except TimeoutError:
            pool.terminate()


def serve(settings: Settings) -> int:
    """Answer until SIGTERM or Ctrl-C. Raises SchemaBehind; a database that is only away is waited for while serving."""
    asyncio.run(_check_schema(settings))
    if not settings.api_tokens and not _is_loopback(settings.bind_host):
        log.warning("open_to_all", host=settings.bind_host, hint="anybody who reaches this port may read: set tokens")
    # A fork would bring along what this process has imported, and prometheus_client decides then where it counts.
    multiprocessing.set_start_method("spawn", force=True)
    with _shared_metrics(settings.workers):
        log.info("api_starts", host=settings.bind_host, port=settings.port, processes=settings.workers)
        Server(
            "manman-status",
            address=settings.bind_host,
            port=settings.port,
            interface=Interfaces.ASGI,
            workers=settings.workers,
            workers_kill_timeout=max(1, int(settings.shutdown_timeout_seconds)),
            loop=Loops.uvloop,
            websockets=False,
            log_enabled=False,
        ).serve(target_loader=functools.partial(_load, settings), wrap_loader=False)
    log.info("api_stopped")
    return 0


async def _check_schema(settings: Settings) -> None:
    timeout_seconds = settings.database_timeout_seconds
    try:
        async with asyncio.timeout(timeout_seconds):
            connection = await asyncpg.connect(settings.database_url, timeout=timeout_seconds)
            try:
                await require_schema(connection)
            finally:
                connection.terminate()
    except CONNECTION_ERRORS as error:
        log.warning("database_away", cause=type(error).__name__, hint="answers are 503 until it is back")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextlib.contextmanager
def _shared_metrics(processes: int) -> Iterator[None]:
    """A folder in which several processes add up their metrics."""
    if processes == 1:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="manman-status-metrics-") as folder:
        os.environ[MULTIPROCESS_FOLDER] = folder
        yield


def _load(settings: Settings) -> Litestar:
    """In each process."""
    configure_logs(role="api", level=settings.log_level, format=settings.log_format)
    return create_app(settings)
