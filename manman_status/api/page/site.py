"""The pages as one router, with what holds for all of them: templates, files, headers, and how a
fault is explained."""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import msgspec
from litestar import Request, Response, Router
from litestar.datastructures import CacheControlHeader
from litestar.plugins.jinja import JinjaTemplateEngine
from litestar.response import Template
from litestar.static_files import create_static_files_router
from litestar.template import TemplateConfig
from litestar_htmx import HTMXRequest

from manman_status.api.errors import Problem, problem_response
from manman_status.api.page import routes, tables, words
from manman_status.api.page.messages import asyncapi_page
from manman_status.api.page.sign_in import SIGN_IN, SIGN_OUT, sign_in, sign_out, try_token
from manman_status.domain.alert import Severity
from manman_status.domain.status import Health, StatusType

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Message, Receive, Scope, Send

FOLDER = Path(__file__).parent
FILES = "/page/files/"
"""The address goes on with a digest of all files: what it leads to never changes."""
A_YEAR = 365 * 24 * 3600

HEADERS = [
    (
        b"content-security-policy",
        (
            b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
            b" connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        ),
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"private, no-cache"),
    # The same address answers a script with a part of the page.
    (b"vary", b"HX-Request"),
]
"""Headers of every answer that does not set them itself."""


def is_page(path: str) -> bool:
    """True if a visitor who has not signed in is sent from this path to the form."""
    return path == "/" or path.startswith(
        ("/workers", "/servers", "/alerts", "/silences", "/schema/asyncapi")
    )


def is_open(path: str) -> bool:
    """True for what the form itself needs; it holds nothing of the fleet."""
    return path in {SIGN_IN, SIGN_OUT} or path.startswith(FILES)


def page_router(files: str) -> Router:
    """`files` is where they are, as `files_path()` says."""
    forever = CacheControlHeader(max_age=A_YEAR, immutable=True, public=True)
    return Router(
        "/",
        route_handlers=[
            routes.fleet,
            routes.bar_alone,
            routes.groups,
            routes.fleet_map,
            routes.why,
            routes.day,
            routes.worker,
            tables.workers,
            tables.servers,
            tables.alerts,
            tables.silences,
            asyncapi_page,
            sign_in,
            try_token,
            sign_out,
            create_static_files_router(
                files,
                directories=[FOLDER / "static", FOLDER / "vendor"],
                cache_control=forever,
                name="page-files",
            ),
        ],
        middleware=[_page_headers],
        exception_handlers={Exception: _page_problem},
        request_class=HTMXRequest,
        include_in_schema=False,
    )


def files_path() -> str:
    digest = hashlib.sha256()
    for folder in ("static", "vendor"):
        for path in sorted((FOLDER / folder).iterdir()):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return FILES + digest.hexdigest()[:16]


def template_config(files: str, *, signs_in: bool) -> TemplateConfig[JinjaTemplateEngine]:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "files": files,
        "signs_in": signs_in,
        "Health": Health,
        "Severity": Severity,
        "StatusType": StatusType,
        "worker_why": words.worker_why,
        "server_why": words.server_why,
        "transition_why": words.transition_why,
    }
    environment.filters |= {"clock": words.clock, "span": words.span, "iso": datetime.isoformat}
    return TemplateConfig(instance=JinjaTemplateEngine.from_environment(environment))


def _page_headers(app: ASGIApp) -> ASGIApp:
    """Middleware, since an answer of `Answers` takes no headers from Litestar."""

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *((k, v) for k, v in HEADERS if k not in given),
                ]
            await send(message)

        await app(scope, receive, answer)

    return middleware


def _page_problem(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """A page for who wants to read it, and what every other path answers for the scripts."""
    answer = problem_response(error)
    if "text/html" not in request.headers.get("accept", ""):
        return answer
    problem = msgspec.json.decode(answer.content, type=Problem)
    return Template(
        "problem.html",
        context={"bar": None, "problem": problem},
        status_code=problem.status,
        headers=dict(answer.headers),
    )
