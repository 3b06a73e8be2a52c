"""The rules there are. To add one: a file beside this one, and its line here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from manman_status.domain.alerts.alert import Finding, OpenAlert
from manman_status.domain.alerts.clock_stepped import ClockStepped
from manman_status.domain.alerts.crash_loop import CrashLoop
from manman_status.domain.alerts.dead_letters import DeadLetters, DeadLettersStuck
from manman_status.domain.alerts.duplicate_worker import DuplicateWorker
from manman_status.domain.alerts.flapping import Flapping
from manman_status.domain.alerts.fleet_guard import FleetGuard
from manman_status.domain.alerts.new_workers import NewWorkers
from manman_status.domain.alerts.no_processor import NoProcessor
from manman_status.domain.alerts.observer import Observer
from manman_status.domain.alerts.scene import Scene
from manman_status.domain.alerts.server_crashed import ServerCrashed
from manman_status.domain.alerts.worker_lost import WorkerLost


class Rule(Protocol):
    name: str

    def find(self, scene: Scene) -> Iterable[Finding]:
        """What is wrong now, or has become wrong by the changes since the last time. What is open
        already may be found again: then its summary and subject are brought up to date, and its
        severity when it is worse."""

    def over(self, alert: OpenAlert, scene: Scene) -> str | None:
        """Why an alert of this rule is over; None while it is not."""


# Causes before what they cause, so that this can be a part of them.
RULES: tuple[Rule, ...] = (
    NoProcessor(),
    Observer(),
    ClockStepped(),
    FleetGuard(),
    DuplicateWorker(),
    Flapping(),
    CrashLoop(),
    WorkerLost(),
    ServerCrashed(),
    DeadLetters(),
    DeadLettersStuck(),
    NewWorkers(),
)
RULE_NAMES = tuple(rule.name for rule in RULES)
