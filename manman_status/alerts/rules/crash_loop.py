"""The same thing crashes again and again: one config wherever it runs, or everything on one worker.

Servers that a worker no longer lists at one moment went at once, with its process for instance:
that is one crash of the worker.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from manman_status.alerts.rule import OPEN_AT_ONCE, Finding, OpenAlert, Rule
from manman_status.alerts.rules.crashes import (
    Crash,
    Crashes,
    Culprit,
    crashes_in,
    read_crashes,
)
from manman_status.alerts.scene import Scene, read_workers
from manman_status.domain.alert import Severity, Subject

if TYPE_CHECKING:
    from manman_status.store.pool import Connection

CRASHES = 3
CRASH_WINDOW = timedelta(minutes=10)

Occasion = int | tuple[int | None, datetime]
"""One crash, counted once: a place among the crashes, or the worker and time of inferred ones."""


class CrashLoop(Rule[Crashes]):
    """Each crash has one culprit: the one with most of them, an open loop before a new one. Over
    when it has not crashed for as long as the window."""

    name = "crash_loop"
    unread = Crashes()

    async def read(self, connection: Connection, scene: Scene) -> Crashes:
        """Crashes of the last `CRASH_WINDOW`, those among the changes too; none are looked up
        while none matters."""
        new = crashes_in(scene.changes)
        if not new and not scene.has_open(CrashLoop):
            return self.unread
        before = await read_crashes(connection, within=CRASH_WINDOW, at_most=2 * OPEN_AT_ONCE)
        on = {crash.worker_id for crash in before if crash.worker_id is not None}
        missing = on - scene.workers.keys()
        workers = await read_workers(connection, missing) if missing else {}
        return Crashes([*before, *new], workers)

    def find(self, scene: Scene) -> Iterator[Finding]:
        crashes = scene.seen(CrashLoop).all
        recent = [crash for crash in crashes if crash.at > scene.now - CRASH_WINDOW]
        known = {
            culprit
            for crash in recent
            for culprit in crash.culprits
            if self.key(*culprit) in scene.open
        }
        for culprit, crashes in take_turns(recent, known):
            yield self._finding(culprit, crashes, scene)

    def _finding(self, culprit: Culprit, crashes: list[Crash], scene: Scene) -> Finding:
        kind, number = culprit
        worker_ids = {crash.worker_id for crash in crashes}
        others = scene.seen(CrashLoop).workers
        workers = [scene.workers.get(i or 0) or others.get(i or 0) for i in worker_ids]
        groups = {None if worker is None else worker.group for worker in workers}
        of_one = len(worker_ids) == 1
        what = (
            f"servers of config {number} crash again and again: take back what was changed in it"
            if kind == "config"
            else (
                f"servers on worker {number} crash again and again: look at its memory, disk and"
                " network"
            )
        )
        return Finding(
            key=self.key(*culprit),
            rule=self.name,
            severity=Severity.CRITICAL,
            summary=f"{len(crashes)} crashes within {CRASH_WINDOW.seconds // 60} minutes: {what}",
            subject=Subject(
                group=next(iter(groups)) if len(groups) == 1 else None,
                worker_id=next(iter(worker_ids)) if of_one else None,
                game_server_config_id=number if kind == "config" else None,
                labels=dict(workers[0].labels) if of_one and workers[0] is not None else {},
            ),
            evidence={
                "crashes": len(crashes),
                "first_at": crashes[0].at,
                "last_at": crashes[-1].at,
            },
        )

    def over(self, alert: OpenAlert, scene: Scene) -> str | None:
        config, worker_id = alert.subject.game_server_config_id, alert.subject.worker_id
        culprit = ("worker", worker_id or 0) if config is None else ("config", config)
        at = scene.seen(CrashLoop).last_at.get(culprit)
        crashed = at is not None and at > scene.now - CRASH_WINDOW
        return (
            None
            if crashed or scene.parts_of(alert.key)
            else f"no crash for {CRASH_WINDOW.seconds // 60} minutes"
        )


def take_turns(
    crashes: Sequence[Crash], known: Collection[Culprit]
) -> Iterator[tuple[Culprit, list[Crash]]]:
    """Yield culprits with their crashes, in order of time: the known ones first, then the one with
    most crashes."""
    places: defaultdict[Culprit, list[int]] = defaultdict(list)
    times: defaultdict[Culprit, Counter[Occasion]] = defaultdict(Counter)
    for place, crash in enumerate(crashes):
        for culprit in crash.culprits:
            places[culprit].append(place)
            times[culprit][occasion(place, crash)] += 1

    def turn(culprit: Culprit) -> tuple[bool, int, Culprit]:
        # Of a config and a worker with as many the config: it is what somebody changed.
        return culprit not in known, -len(times[culprit]), culprit

    waiting = [turn(culprit) for culprit in times]
    heapify(waiting)
    taken: set[int] = set()
    while waiting:
        was = heappop(waiting)
        culprit = was[-1]
        number = len(times[culprit])
        if number < (1 if culprit in known else CRASHES):
            continue
        # Others have taken of its crashes since: it waits behind those that have more now.
        if was != turn(culprit):
            heappush(waiting, turn(culprit))
            continue
        own = [place for place in places[culprit] if place not in taken]
        taken.update(own)
        for place in own:
            for other in crashes[place].culprits:
                what = occasion(place, crashes[place])
                times[other][what] -= 1
                if not times[other][what]:
                    del times[other][what]
        yield culprit, [crashes[place] for place in own]


def occasion(place: int, crash: Crash) -> Occasion:
    return (crash.worker_id, crash.at) if crash.was_inferred else place
