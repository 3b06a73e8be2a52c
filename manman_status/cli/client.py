"""The api, asked from a terminal."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import httpx

from manman_status.errors import CommandFailed
from manman_status.settings import Settings, redacted, variable

ANSWER_WITHIN_SECONDS = 10.0
LARGEST_PAGE = 1000

Query: TypeAlias = Mapping[str, str | int | list[str] | None]


class Client:
    """Whatever goes wrong is CommandFailed, in one line that names where it was asked."""

    def __init__(self, settings: Settings) -> None:
        self._where = redacted(settings.url)
        headers = {"user-agent": f"manman-status/{importlib.metadata.version('manman-status')}"}
        if settings.api_token:
            headers["authorization"] = f"Bearer {settings.api_token}"
        self._http = httpx.Client(base_url=settings.url, headers=headers, timeout=ANSWER_WITHIN_SECONDS)

    def get(self, path: str, query: Query | None = None) -> dict[str, Any]:
        given = {name: value for name, value in (query or {}).items() if value is not None}
        try:
            response = self._http.get(path, params=given)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise CommandFailed(f"{self._where} does not answer: {str(error) or type(error).__name__}") from error
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise CommandFailed(f"{self._where} is no manman-status api: it answers {response.status_code}")
        if response.status_code == httpx.codes.UNAUTHORIZED:
            raise CommandFailed(f"{self._where} wants a token: {variable('api_token')} is unset or not one of its own")
        if not response.is_success:
            raise CommandFailed(f"{self._where}: {answer.get('detail', response.reason_phrase)}")
        return answer

    def items(self, path: str, query: Query, *, limit: int | None) -> Iterator[dict[str, Any]]:
        """From all pages, `limit` of them at most. Each has the `as_of` of its page."""
        for page in self.pages(path, query, limit=limit):
            for item in page["items"]:
                yield {**item, "as_of": page["as_of"]}

    def pages(self, path: str, query: Query, *, limit: int | None) -> Iterator[dict[str, Any]]:
        """One at least, with `limit` items at most on all of them."""
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
