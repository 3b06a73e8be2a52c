"""The read side: HTTP in front of the database. It knows no broker and writes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.metadata
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from litestar import Litestar, Request, Response, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import NotFoundException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from manman_status.api.answers import Answers, remembered_questions
from manman_status.api.database import (
    EXPENSIVE_AT_ONCE,
    EXPENSIVE_QUEUED,
    EXPENSIVE_TIMEOUT_TIMES,
    Database,
    Outage,
)
from manman_status.api.errors import problem_response
from manman_status.api.feed import Feed
from manman_status.api.gate import Gate
from manman_status.api.metrics import Metrics, http_metrics
from manman_status.api.overflow import overflow_closed
from manman_status.api.page.bar import bar_reading
from manman_status.api.page.site import files_path, page_router, template_config
from manman_status.api.parameters import refuse_unknown_parameters
from manman_status.api.past import Past
from manman_status.api.routes import (
    alerts,
    badges,
    events,
    history,
    manman,
    probes,
    schema,
    servers,
    system,
    uptime,
    workers,
)
from manman_status.api.tokens import SignInLimit, Tokens
from manman_status.store.pool import create_pool, opened

if TYPE_CHECKING:
    from manman_status.settings import Settings
    from manman_status.store.pool import Pool


PROVIDED = (
    "answers",
    "bar",
    "database",
    "feed",
    "metrics",
    "past",
    "probes",
    "retention",
    "sign_in_limit",
    "tokens",
)
"""A handler names one of these as a parameter."""


def _provided(name: str) -> Provide:
    def provide(state: State) -> Any:
        return state[name]

    return Provide(provide, sync_to_thread=False)


def create_app(settings: Settings, *, most_connections: int | None = None) -> Litestar:
    """`most_connections`: what the server in front of it takes at most, where one listens in this
    process."""
    tokens, files = Tokens(settings.api_tokens, for_metrics=settings.metrics_tokens), files_path()
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
                    history.worker_transitions,
                    history.server_transitions,
                    uptime.fleet_uptime,
                    uptime.worker_uptime,
                    uptime.host_uptime,
                    badges.fleet_badge,
                    badges.worker_badge,
                    events.events,
                    events.changes,
                    alerts.alerts,
                    alerts.alert,
                    alerts.silences,
                    manman.worker,
                    manman.instance,
                ],
                before_request=refuse_unknown_parameters,
                middleware=[remembered_questions],
            ),
            system.metrics,
            probes.livez,
            probes.readyz,
            probes.manman_health,
            page_router(files),
        ],
        lifespan=[
            _parent,
            functools.partial(_overflow, most_connections=most_connections),
            functools.partial(_database, settings=settings),
            _streams_end,
        ],
        middleware=[http_metrics.middleware],
        exception_handlers={Exception: _problem},
        openapi_config=_openapi(),
        template_config=template_config(files, signs_in=tokens.are_needed),
        dependencies={name: _provided(name) for name in PROVIDED},
        state=State({"tokens": tokens, "sign_in_limit": SignInLimit()}),
        logging_config=None,
    )
    app.asgi_handler = Gate(app.asgi_handler, tokens=tokens, public_badges=settings.public_badges)
    if settings.otlp_endpoint:
        from manman_status.api.telemetry import trace_requests

        trace_requests(app, settings.otlp_endpoint)
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
        openapi_router=Router(
            "/schema",
            route_handlers=[schema.asyncapi_json],
            after_request=_plain_not_found,
            include_in_schema=False,
        ),
        render_plugins=[JsonRenderPlugin(path=["/openapi.json"])],
        use_handler_docstrings=True,
        security=[{}, {"token": []}],
        components=Components(
            security_schemes={"token": SecurityScheme(type="http", scheme="bearer")}
        ),
    )


@contextlib.asynccontextmanager
async def _parent(_: Litestar) -> AsyncIterator[None]:
    """End with the process that started this one, even when that was killed: else the port would
    stay taken."""
    loop = asyncio.get_running_loop()

    def end(sentinel: int) -> None:
        loop.remove_reader(sentinel)
        os.kill(os.getpid(), signal.SIGTERM)

    if parent := multiprocessing.parent_process():
        loop.add_reader(parent.sentinel, end, parent.sentinel)
    yield


@contextlib.asynccontextmanager
async def _overflow(_: Litestar, *, most_connections: int | None) -> AsyncIterator[None]:
    if most_connections is None:
        yield
        return
    with overflow_closed(most_connections):
        yield


@contextlib.asynccontextmanager
async def _streams_end(app: Litestar) -> AsyncIterator[None]:
    """End the event streams at SIGTERM: the server waits for all its answers before it ends the
    lifespan."""
    loop = asyncio.get_running_loop()

    def end() -> None:
        app.state["feed"].end()
        # This replaced the server's own handler; to it, both signals mean the same.
        os.kill(os.getpid(), signal.SIGINT)

    if multiprocessing.parent_process():
        loop.add_signal_handler(signal.SIGTERM, end)
    yield


@contextlib.asynccontextmanager
async def _database(app: Litestar, *, settings: Settings) -> AsyncIterator[None]:
    timeout_seconds = settings.database_timeout_seconds

    def pool(application: str, *, size: int, times: int = 1) -> Pool:
        return create_pool(
            settings.read_url,
            application=application,
            size=size,
            timeout_seconds=times * timeout_seconds,
            read_only=True,
        )

    pools = (
        pool("manman-status api", size=settings.database_pool_size),
        pool("manman-status api, expensive", size=EXPENSIVE_AT_ONCE, times=EXPENSIVE_TIMEOUT_TIMES),
        pool("manman-status api, probes", size=1),
    )
    outage = Outage()
    keep_seconds, retention = settings.answer_cache_ms / 1000, timedelta(settings.retention_days)
    database, probes = (
        Database(each, outage, timeout_seconds=timeout_seconds) for each in (pools[0], pools[2])
    )
    expensive_reads = Database(
        pools[1],
        outage,
        timeout_seconds=EXPENSIVE_TIMEOUT_TIMES * timeout_seconds,
        most_reads=EXPENSIVE_AT_ONCE + EXPENSIVE_QUEUED,
    )
    feed = Feed(database, most_watchers=settings.event_streams)
    app.state.update(
        answers=Answers(database, expensive_reads, keep_ms=settings.answer_cache_ms),
        bar=bar_reading(database, keep_seconds=keep_seconds),
        database=database,
        feed=feed,
        metrics=Metrics(database, worker_series=settings.worker_series, keep_seconds=keep_seconds),
        past=Past(retention),
        probes=probes,
        retention=retention,
    )
    async with contextlib.AsyncExitStack() as stack:
        for each in pools:
            await stack.enter_async_context(opened(each, close_within_seconds=timeout_seconds))
        try:
            yield
        finally:
            await feed.close()
