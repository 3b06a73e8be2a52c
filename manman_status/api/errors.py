"""Errors as RFC 9457 problems: the only place where an error becomes an HTTP status."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from litestar import Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi.datastructures import ResponseSpec

from manman_status.errors import (
    DatabaseUnavailable,
    ManManStatusError,
    SchemaBehind,
    UnknownAlert,
    UnknownHost,
    UnknownServerInstance,
    UnknownWorker,
)
from manman_status.store.feed import BeginAnew, RevisionDropped
from manman_status.store.past import ServerInstanceNotKnownThen, WorkerNotKnownThen

log = structlog.get_logger()

PROBLEM_JSON = "application/problem+json"


class InvalidParameter(ManManStatusError):  # noqa: N818
    """{parameter}: {problem}"""

    def __init__(self, parameter: str, problem: str) -> None:
        self.parameter = parameter
        super().__init__(parameter=parameter, problem=problem)


class Unauthorized(ManManStatusError):  # noqa: N818
    """A token is needed: `Authorization: Bearer …`."""


class ReadOnly(ManManStatusError):  # noqa: N818
    """Nothing can be changed here: only GET and HEAD are answered."""


class TooManyStreams(ManManStatusError):  # noqa: N818
    """{most} clients of this process are being told of changes, and there may be no more."""


class DatabaseBusy(ManManStatusError):  # noqa: N818
    """The database is busy with other expensive queries (a past time, uptime, old revisions). Retry
    later."""


class UnknownCharacter(ManManStatusError):  # noqa: N818
    """A parameter has a character that the encoding of the database does not have."""


class TooManySignIns(ManManStatusError):  # noqa: N818
    """Too many wrong tokens. Retry in a minute."""


class RequestTooSlow(ManManStatusError):  # noqa: N818
    """The request did not arrive in time."""


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """A problem (RFC 9457). `parameter` names what has to be changed in the request,
    `oldest_revision` is the first transition that is still kept. After a restore `epoch` is the
    history of now, and whoever goes on from `resume_from` misses nothing of it."""

    type: str
    title: str
    status: int
    detail: str
    parameter: str | None = None
    oldest_revision: int | None = None
    epoch: str | None = None
    resume_from: str | None = None


PARAMETER_OF: dict[type[Exception], str] = {
    UnknownWorker: "worker_id",
    WorkerNotKnownThen: "worker_id",
    UnknownServerInstance: "instance_id",
    ServerInstanceNotKnownThen: "instance_id",
    UnknownAlert: "alert_id",
}


STATUSES: dict[type[Exception], tuple[HTTPStatus, dict[str, str]]] = {
    InvalidParameter: (HTTPStatus.BAD_REQUEST, {}),
    UnknownCharacter: (HTTPStatus.BAD_REQUEST, {}),
    ValidationException: (HTTPStatus.BAD_REQUEST, {}),
    Unauthorized: (HTTPStatus.UNAUTHORIZED, {"www-authenticate": 'Bearer realm="manman-status"'}),
    UnknownWorker: (HTTPStatus.NOT_FOUND, {}),
    UnknownHost: (HTTPStatus.NOT_FOUND, {}),
    UnknownServerInstance: (HTTPStatus.NOT_FOUND, {}),
    UnknownAlert: (HTTPStatus.NOT_FOUND, {}),
    ReadOnly: (HTTPStatus.METHOD_NOT_ALLOWED, {"allow": "GET, HEAD"}),
    RequestTooSlow: (HTTPStatus.REQUEST_TIMEOUT, {"connection": "close"}),
    RevisionDropped: (HTTPStatus.GONE, {}),
    BeginAnew: (HTTPStatus.GONE, {}),
    TooManySignIns: (HTTPStatus.TOO_MANY_REQUESTS, {"retry-after": "60"}),
    DatabaseUnavailable: (HTTPStatus.SERVICE_UNAVAILABLE, {"retry-after": "1"}),
    SchemaBehind: (HTTPStatus.SERVICE_UNAVAILABLE, {"retry-after": "1"}),
    DatabaseBusy: (HTTPStatus.SERVICE_UNAVAILABLE, {"retry-after": "5"}),
    TooManyStreams: (HTTPStatus.SERVICE_UNAVAILABLE, {"retry-after": "15"}),
}


def problem_response(error: Exception) -> Response[bytes]:
    """Make the response for an error. An error that is not known here is a fault of our own: it is
    logged, and the response does not describe it."""
    status, headers, detail = _answer_to(error)
    parameter = PARAMETER_OF.get(type(error))
    if isinstance(error, InvalidParameter):
        parameter = error.parameter
    elif isinstance(error, ValidationException):
        parameter, detail = _first_fault(error)
    problem = Problem("about:blank", status.phrase, status, detail, parameter, **_positions(error))
    headers = {**headers, "cache-control": "no-store"}
    return Response(
        msgspec.json.encode(problem), status_code=status, media_type=PROBLEM_JSON, headers=headers
    )


def _positions(error: Exception) -> dict[str, Any]:
    match error:
        case RevisionDropped():
            return {"oldest_revision": error.oldest}
        case BeginAnew():
            whence = error.resume_from
            return {
                "oldest_revision": error.oldest,
                "epoch": whence.epoch,
                "resume_from": str(whence),
            }
        case _:
            return {}


def _answer_to(error: Exception) -> tuple[HTTPStatus, dict[str, str], str]:
    for kind in type(error).__mro__:
        if found := STATUSES.get(kind):
            return *found, str(error)
    if isinstance(error, HTTPException) and error.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
        return HTTPStatus(error.status_code), {}, error.detail
    log.error("request_failed", exc_info=error)
    return HTTPStatus.INTERNAL_SERVER_ERROR, {}, "This is a fault of the server."


def _first_fault(error: ValidationException) -> tuple[str | None, str]:
    """The parameter and what is wrong with it."""
    faults = error.extra if isinstance(error.extra, list) else []
    if not faults:
        return None, error.detail
    name = str(faults[0].get("key", "")).partition(".")[0]
    return name, f"{name}: {faults[0].get('message', '')}"


PROBLEMS = {
    HTTPStatus.BAD_REQUEST: "A parameter is unknown, malformed or out of bounds; it is named.",
    HTTPStatus.UNAUTHORIZED: "The api has tokens, and none of them was given.",
    HTTPStatus.NOT_FOUND: "Nothing is known of this id.",
    HTTPStatus.GONE: (
        "Transitions after this revision are no longer kept, or a restore replaced them; where to"
        " go on is named."
    ),
    HTTPStatus.SERVICE_UNAVAILABLE: (
        "The database does not answer, is busy or has an older schema. Try again later."
    ),
}


def documented_problems(
    *, finds_one: bool = False, reads: bool = True, watches: bool = False
) -> dict[int, ResponseSpec]:
    """Describe for the schema which problems an endpoint gives. One that `reads` reads the database
    and has parameters, one that `finds_one` may not find it, one that `watches` may need
    dropped revisions."""
    given = {HTTPStatus.UNAUTHORIZED} | (
        {HTTPStatus.BAD_REQUEST, HTTPStatus.SERVICE_UNAVAILABLE} if reads else set()
    )
    given |= {HTTPStatus.NOT_FOUND} if finds_one else set()
    given |= {HTTPStatus.GONE} if watches else set()
    return {
        status: ResponseSpec(
            Problem, generate_examples=False, description=PROBLEMS[status], media_type=PROBLEM_JSON
        )
        for status in sorted(given)
    }
