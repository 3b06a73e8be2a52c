"""Reading a stream of Server-Sent Events as a browser does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple

import httpx


class Event(NamedTuple):
    id: str
    kind: str
    data: dict[str, Any]

    @property
    def revision(self) -> int:
        return revision_of(self.id)


def revision_of(position: str) -> int:
    """The revision in `<epoch>-<revision>`; -1 before there is one."""
    return int(position.rpartition("-")[2] or -1)


class Parser:
    """`last_id` is what a browser would send as Last-Event-ID, also after a block that is no
    event."""

    def __init__(self, last_id: str = "") -> None:
        self.last_id = last_id
        self.comments = 0
        self._rest = ""

    def feed(self, text: str) -> list[Event]:
        *blocks, self._rest = (self._rest + text).split("\n\n")
        return [event for block in blocks if (event := self._block(block))]

    def _block(self, block: str) -> Event | None:
        fields = dict.fromkeys(("event", "data"), "")
        for line in block.split("\n"):
            name, _, value = line.partition(":")
            if name == "id":
                self.last_id = value.removeprefix(" ")
            elif name:
                fields[name] += value.removeprefix(" ")
            else:
                self.comments += 1
        return (
            Event(self.last_id, fields["event"], json.loads(fields["data"]))
            if fields["data"]
            else None
        )


class Reader:
    """Resumes where it was. `began` is set once it misses nothing any more; `streams` is how often
    it came."""

    def __init__(self, **parameters: Any) -> None:
        self.parser = Parser()
        self.began = asyncio.Event()
        self.streams = 0
        self._parameters = parameters

    async def read(self, http: httpx.AsyncClient) -> AsyncGenerator[Event, None]:
        """Yield events until the server ends the stream. Raises httpx.HTTPStatusError."""
        self.streams += 1
        headers = {"Last-Event-ID": self.parser.last_id} if self.parser.last_id else {}
        async with http.stream(
            "GET", "/status/events", params=self._parameters, headers=headers
        ) as response:
            if response.is_error:
                await response.aread()
            response.raise_for_status()
            async for text in response.aiter_text():
                self.began.set()
                for event in self.parser.feed(text):
                    yield event
