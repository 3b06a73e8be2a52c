"""The registry of alert rules. A new rule is a module beside this one and a line in `RULES`.

The order of the lines does not matter: rules are judged after those that they name as `causes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from graphlib import TopologicalSorter
from typing import Any

from manman_status.alerts.rule import Rule
from manman_status.alerts.rules.clock_stepped import ClockStepped
from manman_status.alerts.rules.crash_loop import CrashLoop
from manman_status.alerts.rules.dead_letters import DeadLetters, DeadLettersStuck
from manman_status.alerts.rules.duplicate_worker import DuplicateWorker
from manman_status.alerts.rules.flapping import Flapping
from manman_status.alerts.rules.fleet_guard import FleetGuard
from manman_status.alerts.rules.new_workers import NewWorkers
from manman_status.alerts.rules.no_processor import NoProcessor
from manman_status.alerts.rules.observer import Observer
from manman_status.alerts.rules.server_crashed import ServerCrashed
from manman_status.alerts.rules.unwatched_workers import UnwatchedWorkers
from manman_status.alerts.rules.worker_lost import WorkerLost

RULES: tuple[Rule[Any], ...] = (
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
    UnwatchedWorkers(),
)
RULE_NAMES = tuple(rule.name for rule in RULES)


def causes_first(rules: Sequence[Rule[Any]] = RULES) -> list[Rule[Any]]:
    """Order rules so that each comes after its causes. Raises KeyError for a cause that is not
    among them, and CycleError for rules that are causes of each other."""
    by_class = {type(rule): rule for rule in rules}
    order = TopologicalSorter({type(rule): rule.causes for rule in rules}).static_order()
    return [by_class[each] for each in order]
