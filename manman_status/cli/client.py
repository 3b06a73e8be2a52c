"""The HTTP client of the commands."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import httpx
import msgspec

from manman_status.domain.liveness import Thresholds
from manman_status.errors import CommandFailed
from manman_status.settings import Settings, redacted, variable

ANSWER_WITHIN_SECONDS = 10.0
LARGEST_PAGE = 1000

SILENT_SECONDS = 45.0
"""The api sends something on a stream every 15 s: a stream that was silent for so long is dead."""

Query: TypeAlias = Mapping[str, str | int | Sequence[str] | Sequence[int] | None]


class Unreachable(CommandFailed):
    """{reason}"""


class Refused(CommandFailed):
    """{reason}"""

    def __init__(self, reason: str, *, status: int, problem: dict[str, Any]) -> None:
        self.status = status
        self.problem = problem
        super().__init__(reason)


class Client:
    """A client of one api. Each failure is a CommandFailed with one line that names the URL."""

    def __init__(self, settings: Settings) -> None:
        self.where = redacted(settings.url)
        headers = {"user-agent": f"manman-status/{importlib.metadata.version('manman-status')}"}
        if settings.api_token:
            headers["authorization"] = f"Bearer {settings.api_token}"
        self._http = httpx.Client(
            base_url=settings.url, headers=headers, timeout=ANSWER_WITHIN_SECONDS
        )

    def get(self, path: str, query: Query | None = None) -> dict[str, Any]:
        with self._reaching():
            response = self._http.get(path, params=_given(query))
        return self._answer(response)

    @contextmanager
    def stream(
        self, path: str, query: Query, *, headers: Mapping[str, str]
    ) -> Iterator[Iterator[bytes]]:
        """Yield an event stream's bytes as they arrive. A stream that breaks off raises Unreachable
        too."""
        timeout = httpx.Timeout(ANSWER_WITHIN_SECONDS, read=SILENT_SECONDS)
        request = self._http.stream(
            "GET", path, params=_given(query), headers=headers, timeout=timeout
        )
        with self._reaching(), request as response:
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                response.read()
                self._answer(response)
                raise self._stranger(response)
            yield response.iter_bytes()

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise Unreachable(
                f"{self.where} does not answer: {str(error) or type(error).__name__}"
            ) from error

    def _answer(self, response: httpx.Response) -> dict[str, Any]:
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise self._stranger(response)
        if response.is_success:
            return answer
        if response.status_code == httpx.codes.UNAUTHORIZED:
            reason = (
                f"{self.where} wants a token: {variable('api_token')} is unset or not one of"
                " its own"
            )
        else:
            reason = f"{self.where}: {answer.get('detail', response.reason_phrase)}"
        raise Refused(reason, status=response.status_code, problem=answer)

    def _stranger(self, response: httpx.Response) -> Refused:
        reason = f"{self.where} is no manman-status api: it answers {response.status_code}"
        return Refused(reason, status=response.status_code, problem={})

    def items(self, path: str, query: Query, *, limit: int | None) -> Iterator[dict[str, Any]]:
        """Yield the items of all pages, at most `limit`. Each item has the `as_of` of its page."""
        for page in self.pages(path, query, limit=limit):
            for item in page["items"]:
                yield {**item, "as_of": page["as_of"]}

    def pages(self, path: str, query: Query, *, limit: int | None) -> Iterator[dict[str, Any]]:
        """Yield at least one page; all pages together have at most `limit` items."""
        cursor = None
        left = limit
        while left is None or left > 0:
            size = LARGEST_PAGE if left is None else min(left, LARGEST_PAGE)
            page = self.get(path, {**query, "limit": size, "cursor": cursor})
            yield page
            left = None if left is None else left - len(page["items"])
            cursor = page["next_cursor"]
            if cursor is None:
                return


def thresholds_of(settings: Settings) -> Thresholds:
    """The thresholds that count, from the api; those of the settings where none answers."""
    try:
        observation = Client(settings).get("/status/system")["observation"]
        return msgspec.convert(observation["thresholds"], Thresholds)
    except (CommandFailed, KeyError, msgspec.ValidationError):
        return settings.sweep_rules.thresholds


def _given(query: Query | None) -> dict[str, Any]:
    return {name: value for name, value in (query or {}).items() if value is not None}
