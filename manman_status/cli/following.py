"""Changes as the api tells them: each once and in order, whatever was down meanwhile."""

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
    """Ctrl-C or SIGTERM is how it ends, and no failure."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        yield


class Follower:
    """`complain` is given a line when the api is lost, when it is found again, and when a backup
    was restored."""

    def __init__(self, client: Client, query: Query, *, complain: Callable[[str], None]) -> None:
        self._client = client
        self._query = query
        self._complain = complain
        self._last_id = ""
        self._lost_at: float | None = None

    def follow(self) -> Iterator[dict[str, Any]]:
        """Without end. Raises CommandFailed when the api is not there at first, Refused when it
        will never tell."""
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
        """Of one stream, until it tells us to come again. Raises Unreachable when it just ends."""
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
    """The fields of each block that is whole; a comment is a field without a name."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n\n")
        for block in whole:
            pairs = (line.partition(":") for line in block.decode().split("\n"))
            yield {name: value.removeprefix(" ") for name, _, value in pairs}
