"""The same thing crashes again and again: one config wherever it runs, or everything on one worker.

What a worker no longer lists at one moment went at once, with its process for instance: that is one
crash of it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta
from heapq import heapify, heappop, heappush

from manman_status.domain.alerts.alert import Finding, OpenAlert, Severity, Subject
from manman_status.domain.alerts.scene import Crash, Culprit, Scene

CRASHES = 3
CRASH_WINDOW = timedelta(minutes=10)

Occasion = int | tuple[int | None, datetime]
"""What counts as one crash: a place among the crashes, or of inferred ones worker and time."""


class CrashLoop:
    """Each crash has one culprit: whoever has most of them, a loop that is open before a new one.
    Over when it has not crashed for as long as the window."""

    name = "crash_loop"

    def find(self, scene: Scene) -> Iterator[Finding]:
        recent = [crash for crash in scene.crashes if crash.at > scene.now - CRASH_WINDOW]
        known = {
            culprit
            for crash in recent
            for culprit in crash.culprits
            if self._key(culprit) in scene.open
        }
        for culprit, crashes in take_turns(recent, known):
            yield self._finding(culprit, crashes, scene)

    def _key(self, culprit: Culprit) -> str:
        kind, number = culprit
        return f"{self.name}:{kind}:{number}"

    def _finding(self, culprit: Culprit, crashes: list[Crash], scene: Scene) -> Finding:
        kind, number = culprit
        worker_ids = {crash.worker_id for crash in crashes}
        workers = [scene.workers.get(worker_id or 0) for worker_id in worker_ids]
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
            key=self._key(culprit),
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
        _, kind, number = alert.key.split(":")
        at = scene.crashed_at.get((kind, int(number)))
        crashed = at is not None and at > scene.now - CRASH_WINDOW
        return (
            None
            if crashed or scene.parts_of(alert.key)
            else f"no crash for {CRASH_WINDOW.seconds // 60} minutes"
        )


def take_turns(
    crashes: Sequence[Crash], known: Collection[Culprit]
) -> Iterator[tuple[Culprit, list[Crash]]]:
    """Culprits with the crashes that are theirs, as they come: the known ones first, then whoever
    has most."""
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
        if was != turn(
            culprit
        ):  # others have taken of it since: it waits behind those that have more now
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
