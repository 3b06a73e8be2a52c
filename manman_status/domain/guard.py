"""The guard against false cascades: when much of a group goes silent at once, monitoring is
suspected first, and its workers are put on hold instead of being marked LOST.

A guard holds or does not hold. It begins when too many workers of a group are gone within one
timeout, and it ends in one of three ways: nobody of the group is overdue any more, a person
releases it, or `hold_seconds` of silence were observed; then the longest silent are marked LOST,
a share of the group in each sweep. The invariant: while a guard holds, no worker of its group is
marked LOST. It holds because times are observed time. A hold cannot run out while monitoring is
down, for then the watermark, and with it `observed`, stands still.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timedelta

import msgspec


class GuardRules(msgspec.Struct, frozen=True):
    """The guard begins to hold when at least `minimum_workers` and more than `percent` of a group
    would be lost within one timeout: they were marked LOST, are overdue, or will be unless they
    send a heartbeat. Draining workers do not count: their silence was announced, and says nothing
    against monitoring."""

    minimum_workers: int
    percent: float
    hold_seconds: float
    release_percent: float


class GuardState(msgspec.Struct, frozen=True):
    """A group on hold. It stays on hold however few of its workers are left: those that return do
    so one after another, and the last are no more dead for it."""

    holding_since: datetime
    held: int
    group_size: int
    releasing_since: datetime | None = None
    released_by_hand_at: datetime | None = None


class Verdict(msgspec.Struct, frozen=True):
    """The number of overdue workers to mark LOST now, longest silent first, and the guard
    afterwards: None when it does not hold."""

    lose: int
    guard: GuardState | None


def judge(
    *,
    overdue: int,
    draining: int = 0,
    late: int = 0,
    lost_recently: int,
    alive: int,
    guard: GuardState | None,
    observed: datetime,
    rules: GuardRules,
) -> Verdict:
    """Judge one group in one sweep. `alive` counts its watched active workers, among them the
    overdue and the `late`, which have only missed a heartbeat. `lost_recently` counts the workers
    marked LOST for silence within one timeout that were not on hold before. `draining` of the
    overdue carry the label `drain`: they are on hold only together with others.

    Workers that go silent together become overdue one after another, each by its own last
    heartbeat. The late ones show it at the first.
    """
    if overdue == draining:
        return Verdict(overdue, None)
    size = alive + lost_recently
    gone = overdue - draining + late + lost_recently
    alarming = gone >= rules.minimum_workers and gone * 100 > rules.percent * size
    if guard is None:
        return (
            Verdict(0, GuardState(observed, overdue, size + draining))
            if alarming
            else Verdict(overdue, None)
        )
    if guard.released_by_hand_at is not None:
        return Verdict(overdue, None)
    # Workers that join meanwhile must not make the release slower: those that went silent first
    # could wait for ever.
    held = msgspec.structs.replace(
        guard, held=overdue, group_size=max(guard.group_size, size + draining)
    )
    if observed < guard.holding_since + timedelta(seconds=rules.hold_seconds):
        return Verdict(0, held)
    lose = min(overdue, math.ceil(rules.release_percent / 100 * held.group_size))
    releasing = msgspec.structs.replace(
        held, held=overdue - lose, releasing_since=guard.releasing_since or observed
    )
    return Verdict(lose, releasing if lose < overdue else None)


class Group(msgspec.Struct):
    """The numbers of a group's workers: `overdue`, and `draining` of these. Without draining
    workers: `alive` are watched and active, `silent` of these have missed a heartbeat, overdue or
    not, and `lost_recently` were marked LOST for silence within one timeout without a hold."""

    alive: int = 0
    silent: int = 0
    lost_recently: int = 0
    overdue: int = 0
    draining: int = 0


def judge_groups(
    groups: Mapping[str, Group],
    guards: Mapping[str, GuardState],
    *,
    observed: datetime,
    rules: GuardRules,
) -> dict[str, Verdict]:
    """Judge each group that has overdue workers or a guard, by name."""
    names = sorted({*guards, *(name for name, group in groups.items() if group.overdue)})
    return {
        name: _judge_group(groups.get(name, Group()), guards.get(name), observed, rules)
        for name in names
    }


def _judge_group(
    group: Group, guard: GuardState | None, observed: datetime, rules: GuardRules
) -> Verdict:
    return judge(
        overdue=group.overdue,
        draining=group.draining,
        late=max(group.silent - (group.overdue - group.draining), 0),
        lost_recently=group.lost_recently,
        alive=group.alive,
        guard=guard,
        observed=observed,
        rules=rules,
    )
