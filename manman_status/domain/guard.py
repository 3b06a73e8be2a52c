"""The guard on the cascade: when much of a group falls silent at once, the observer is suspected
first.

Times are observed time, so that holding lasts only while the watermark moves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timedelta

import msgspec


class GuardRules(msgspec.Struct, frozen=True):
    """It holds when at least `minimum_workers` and more than `percent` of a group would be lost
    within one timeout: that is, were lost, are overdue, or will be unless they beat again. Workers
    that drain do not count, silent or not: theirs was announced, and says nothing against the
    observer."""

    minimum_workers: int
    percent: float
    hold_seconds: float
    release_percent: float


class GuardState(msgspec.Struct, frozen=True):
    """A group that is held. Unless a person releases it, silence beyond `hold_seconds` does, little
    by little.

    However few are left meanwhile: workers that return do so one after another, and the last are no
    more dead for it.
    """

    opened_at: datetime
    held: int
    group_size: int
    releasing_since: datetime | None = None
    released_by_hand_at: datetime | None = None


class Verdict(msgspec.Struct, frozen=True):
    """How many of the overdue to lose now, longest silence first, and the guard afterwards: None
    when it is open."""

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
    """One group at one sweep. `alive` counts its watched active workers, among them the overdue and
    the `late`, which have missed a beat only; `lost_recently` those lost to silence within one
    timeout that were not held before. Of those that drain there are only the overdue, `draining` of
    them: while others are held, they are held with them.

    Workers that fall silent at once become overdue one after another, as they beat. The late tell
    it at the first.
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
    # Workers that join meanwhile must not make the release slower: those who went silent first
    # could wait for ever.
    held = msgspec.structs.replace(
        guard, held=overdue, group_size=max(guard.group_size, size + draining)
    )
    if observed < guard.opened_at + timedelta(seconds=rules.hold_seconds):
        return Verdict(0, held)
    lose = min(overdue, math.ceil(rules.release_percent / 100 * held.group_size))
    releasing = msgspec.structs.replace(
        held, held=overdue - lose, releasing_since=guard.releasing_since or observed
    )
    return Verdict(lose, releasing if lose < overdue else None)


class Group(msgspec.Struct):
    """Numbers of workers. `overdue` counts all that are overdue, `draining` those among them that
    drain. Without the ones that drain: `alive` are watched and active, `silent` of these have
    missed a heartbeat, overdue or not, and `lost_recently` were marked LOST for silence within one
    timeout and were not on hold before."""

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
    """The verdict on each group that has overdue workers or a guard, by name."""
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
