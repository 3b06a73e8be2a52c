"""The same thing crashes again and again: one config wherever it runs, or everything on one worker.

What a worker no longer lists at one moment went at once, with its process for instance: that is one crash of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from datetime import timedelta

from manman_status.domain.alerts.alert import Finding, OpenAlert, Severity, Subject
from manman_status.domain.alerts.scene import Crash, Scene

CRASHES = 3
CRASH_WINDOW = timedelta(minutes=10)

Culprit = tuple[str, int]


class CrashLoop:
    """Each crash has one culprit: whoever has most of them, a loop that is open before a new one. Over when it has not
    crashed for as long as the window."""

    name = "crash_loop"

    def find(self, scene: Scene) -> Iterator[Finding]:
        recent = [crash for crash in scene.crashes if crash.at > scene.now - CRASH_WINDOW]
        while culprit := self._worst(recent, scene):
            crashes = [crash for crash in recent if culprit in culprits(crash)]
            yield self._finding(culprit, crashes, scene)
            recent = [crash for crash in recent if culprit not in culprits(crash)]

    def _worst(self, crashes: list[Crash], scene: Scene) -> Culprit | None:
        crashes_of: defaultdict[Culprit, list[Crash]] = defaultdict(list)
        for crash in crashes:
            for culprit in culprits(crash):
                crashes_of[culprit].append(crash)
        numbers = {culprit: occasions(some) for culprit, some in crashes_of.items()}
        known = [culprit for culprit in numbers if self._key(culprit) in scene.open]
        looping = [culprit for culprit, number in numbers.items() if number >= CRASHES]
        # Of a config and a worker with as many the config: it is what somebody changed.
        return min(known or looping, key=lambda culprit: (-numbers[culprit], culprit), default=None)

    def _key(self, culprit: Culprit) -> str:
        kind, number = culprit
        return f"{self.name}:{kind}:{number}"

    def _finding(self, culprit: Culprit, crashes: list[Crash], scene: Scene) -> Finding:
        kind, number = culprit
        workers = [scene.workers.get(crash.worker_id or 0) for crash in crashes]
        groups = {worker.group for worker in workers if worker is not None}
        what = (
            f"servers of config {number} crash again and again: take back what was changed in it"
            if kind == "config"
            else f"servers on worker {number} crash again and again: look at its memory, disk and network"
        )
        return Finding(
            key=self._key(culprit),
            rule=self.name,
            severity=Severity.CRITICAL,
            summary=f"{len(crashes)} crashes within {CRASH_WINDOW.seconds // 60} minutes: {what}",
            subject=Subject(
                group=next(iter(groups)) if len(groups) == 1 else None,
                worker_id=number if kind == "worker" else None,
                game_server_config_id=number if kind == "config" else None,
            ),
            evidence={"crashes": len(crashes), "first_at": crashes[0].at, "last_at": crashes[-1].at},
        )

    def over(self, alert: OpenAlert, scene: Scene) -> str | None:
        crashed = any(
            self._key(culprit) == alert.key
            for crash in scene.crashes
            if crash.at > scene.now - CRASH_WINDOW
            for culprit in culprits(crash)
        )
        return None if crashed or scene.parts_of(alert.key) else f"no crash for {CRASH_WINDOW.seconds // 60} minutes"


def occasions(crashes: Collection[Crash]) -> int:
    """How many times it crashed."""
    said = sum(not crash.was_inferred for crash in crashes)
    return said + len({(crash.worker_id, crash.at) for crash in crashes if crash.was_inferred})


def culprits(crash: Crash) -> Iterator[Culprit]:
    if crash.game_server_config_id is not None:
        yield "config", crash.game_server_config_id
    if crash.worker_id is not None:
        yield "worker", crash.worker_id
