"""Query the api while the fleet runs, and judge each answer."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from typing import TypeVar

import httpx
import msgspec

from manman_status.lab.simulator.expectations import ALLOWED_DELAY_SECONDS
from manman_status.lab.simulator.judgement import Judge
from manman_status.lab.simulator.observed import (
    Observation,
    Page,
    Seen,
    SeenServer,
    SeenSystem,
    SeenWorker,
)

LARGEST_PAGE = 1000
QUERY_EVERY_SECONDS = 1.0
SERVERS_EVERY_SECONDS = 5.0
WORKERS_SHARE, SERVERS_SHARE = 0.3, 0.1
"""The share of time that may go into reading each list: a large fleet is read less often."""
AFTER_TIMEOUT_SECONDS = 2.0
SLACK_SECONDS = ALLOWED_DELAY_SECONDS + 5.0
HOLDS_AT_MOST_SECONDS = 180.0
UNOBSERVED_AT_MOST_SECONDS = 20.0
ENDED_WITHIN_SECONDS = 30.0

SYSTEM = msgspec.json.Decoder(SeenSystem)
WORKERS = msgspec.json.Decoder(Page[SeenWorker])
SERVERS = msgspec.json.Decoder(Page[SeenServer])

Answer = TypeVar("Answer")


class Refused(Exception):  # noqa: N818 - it says what the api did
    """The api answered with an error."""


UNANSWERED = (Refused, httpx.HTTPError, httpx.InvalidURL, msgspec.MsgspecError, UnicodeDecodeError)


class Watcher:
    """`answered` and `skipped` count looks at the api; `problem` is why the last one was skipped.
    `last_instance` is the largest id that can be ours."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        judge: Judge,
        observation: Observation,
        *,
        clock: Callable[[], float],
        last_worker: int,
        last_instance: int,
    ) -> None:
        self.answered = self.skipped = 0
        self.problem = ""
        self._http = http
        self._judge = judge
        self._observation = observation
        self._clock = clock
        self._last_worker = last_worker
        self._last_instance = last_instance

    async def watch(self) -> None:
        """Query and judge for ever."""
        workers_at = servers_at = 0.0
        while True:
            begun = self._clock()
            if await self._look(workers=begun >= workers_at, servers=begun >= servers_at):
                took = self._clock() - begun
                if begun >= servers_at:
                    servers_at = self._clock() + max(SERVERS_EVERY_SECONDS, took / SERVERS_SHARE)
                elif begun >= workers_at:
                    workers_at = self._clock() + took / WORKERS_SHARE
            await asyncio.sleep(max(QUERY_EVERY_SECONDS - (self._clock() - begun), 0.1))

    async def settle(self, *, timeout_seconds: float, groups: Iterable[str]) -> None:
        """Query until everything is final: for at least one timeout, and longer while a recovery
        grace or a guard holds workers back."""
        begun = self._clock()
        known = tuple(groups)

        def limit() -> float:
            earliest = begun + timeout_seconds
            ready = max(self._observation.ready_at(group) for group in known)
            if math.isinf(ready):  # nothing is observed: for how long, nobody knows
                return earliest + UNOBSERVED_AT_MOST_SECONDS
            return min(max(earliest, ready) + SLACK_SECONDS, earliest + HOLDS_AT_MOST_SECONDS)

        await self._look_until_settled(begun + timeout_seconds + AFTER_TIMEOUT_SECONDS, limit)

    async def check_end(self) -> None:
        """Query until every stopped worker is shown as stopped."""
        begun = self._clock()
        await self._look_until_settled(begun, lambda: begun + ENDED_WITHIN_SECONDS)

    async def _look_until_settled(self, earliest: float, limit: Callable[[], float]) -> None:
        while True:
            self._judge.pending = 0
            begun = self._clock()
            if await self._look() and not self._judge.pending and self._clock() >= earliest:
                return
            if self._clock() > limit():
                await self._look(at_last=True)
                return
            await asyncio.sleep(max(QUERY_EVERY_SECONDS, 2 * (self._clock() - begun)))

    async def _look(
        self, *, workers: bool = True, servers: bool = True, at_last: bool = False
    ) -> bool:
        """Query and judge once. False when the api did not answer or has received nothing yet. With
        `at_last`, everything sent until now must be right."""
        try:
            self._observation.answered(await self._get("/status/system", SYSTEM), self._clock())
            if not (self._observation.is_dated or at_last):
                return False
            as_of = self._clock() if at_last else None
            judge = self._judge
            if workers:
                seen = await self._read(
                    "/status/workers", WORKERS, judge.judge_worker, self._last_worker, as_of
                )
                judge.judge_unseen_workers(*seen)
            if servers:
                seen = await self._read(
                    "/status/servers", SERVERS, judge.judge_server, self._last_instance, as_of
                )
                judge.judge_unseen_servers(*seen)
        except UNANSWERED as error:
            self.skipped += 1
            self.problem = str(error) or type(error).__name__
            return False
        self.answered += 1
        return True

    async def _read(
        self,
        path: str,
        decoder: msgspec.json.Decoder[Page[Seen]],
        judge: Callable[[Seen, float], None],
        last_id: int,
        as_of: float | None,
    ) -> tuple[set[int], float]:
        """Judge all pages. Returns the ids that were there, and the oldest `as_of`."""
        ids: set[int] = set()
        oldest = math.inf
        query: dict[str, str | int] = {"limit": LARGEST_PAGE}
        while True:
            page = await self._get(path, decoder, query)
            page_as_of = self._observation.fleet_time(page.as_of) if as_of is None else as_of
            oldest = min(oldest, page_as_of)
            for seen in page.items:
                judge(seen, page_as_of)
                ids.add(seen.id)
            if page.next_cursor is None or page.items[-1].id > last_id:
                return ids, oldest
            query["cursor"] = page.next_cursor

    async def _get(
        self,
        path: str,
        decoder: msgspec.json.Decoder[Answer],
        query: dict[str, str | int] | None = None,
    ) -> Answer:
        response = await self._http.get(path, params=query or {})
        if response.status_code != httpx.codes.OK:
            raise Refused(
                f"{path} is answered with {response.status_code} {response.reason_phrase}"
            )
        return decoder.decode(response.content)
