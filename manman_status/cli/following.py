"""Follow the api's stream of changes: each change once and in order, also across outages."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from manman_status.backoff import Backoff
from manman_status.cli.client import Client, Query, Refused, Unreachable
from manman_status.errors import CommandFailed

SERVERS_FAULT = 500


@contextmanager
def ended_by_signal() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the command normally."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        yield


class Follower:
    """Follow the changes that match `query`. `complain` receives a line when the api is lost, when
    it answers again, and when a backup was restored."""

    def __init__(self, client: Client, query: Query, *, complain: Callable[[str], None]) -> None:
        self._client = client
        self._query = query
        self._complain = complain
        self._last_id = ""
        self._lost_at: float | None = None

    def follow(self) -> Iterator[dict[str, Any]]:
        """Yield changes for ever. Raises CommandFailed when the api does not answer at first,
        Refused when it never will."""
        backoff = Backoff()
        while True:
            try:
                for fields in self._blocks():
                    backoff = Backoff()
                    self._find()
                    if fields.get("event") == "transition":
                        yield json.loads(fields["data"])
                    elif fields.get("event") == "restored":
                        self._begin_anew(self._last_id)
            except Unreachable as error:
                self._lose(error)
            except Refused as error:
                resume_from = error.problem.get("resume_from")
                if self._last_id and resume_from:
                    self._begin_anew(resume_from)
                    continue
                if error.status < SERVERS_FAULT:
                    raise
                self._lose(error)
            time.sleep(backoff.failed())

    def _blocks(self) -> Iterator[dict[str, str]]:
        """Yield the blocks of one stream, until the api asks us to reconnect. Raises Unreachable
        when the stream just ends."""
        headers = {"last-event-id": self._last_id} if self._last_id else {}
        with self._client.stream("/status/events", self._query, headers=headers) as chunks:
            for fields in blocks(chunks):
                self._last_id = fields.get("id", self._last_id)
                yield fields
                if fields.get("event") == "overrun":
                    return
        raise Unreachable(f"{self._client.where} has ended the stream")

    def _lose(self, error: CommandFailed) -> None:
        if not self._last_id:
            raise error
        if self._lost_at is None:
            self._lost_at = time.monotonic()
            self._complain(f"{error}; trying again")

    def _begin_anew(self, position: str) -> None:
        self._last_id = position
        self._complain(
            f"The history was restored from a backup or by a failover. Changes after {position}"
            " follow, also those that came before."
        )

    def _find(self) -> None:
        if self._lost_at is not None:
            seconds = time.monotonic() - self._lost_at
            self._lost_at = None
            self._complain(
                f"{self._client.where} answers again after {seconds:.1f} s; going on after"
                f" {self._last_id}"
            )


def blocks(chunks: Iterable[bytes]) -> Iterator[dict[str, str]]:
    """Yield the fields of each complete block; a comment is a field without a name."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n\n")
        for block in whole:
            pairs = (line.partition(":") for line in block.decode().split("\n"))
            yield {name: value.removeprefix(" ") for name, _, value in pairs}
