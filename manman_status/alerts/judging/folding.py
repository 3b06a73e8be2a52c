"""Fold the findings of one rule beyond a bound into one alert: "and N more".

Whoever sends events chooses ids and groups, so their number has no bound. Without one of ours, a
flood of invented workers is as many alerts: rows that each look reads, and messages that nobody
reads. So a rule has at most `OPEN_AT_ONCE` alerts open. Findings beyond them are folded into one
alert more, which is open as long as something is folded into it. Lost workers are counted in the
rows; findings of other rules pass by themselves, so none is left when none has come for a while.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from manman_status.alerts.rule import OPEN_AT_ONCE, Finding, fold_key
from manman_status.alerts.rules.worker_lost import Unlisted, WorkerLost
from manman_status.alerts.scene import Folded, Scene
from manman_status.domain.alert import WEIGHT

QUIET = timedelta(minutes=10)


def is_full(rule: str, scene: Scene) -> bool:
    """True when no alert more of this rule may be open, beside the one for all others."""
    return scene.number_of(rule) - (fold_key(rule) in scene.open) >= OPEN_AT_ONCE


def folded_by_now(rule: str, beyond: Sequence[Finding], scene: Scene) -> Folded:
    """`beyond` are the findings of this look for which there is no room."""
    before = scene.memory.folded.get(rule)
    return Folded(len(beyond) + (before.number if before else 0), scene.now)


def fold(
    rule: str, beyond: Sequence[Finding], folded: Folded | None, scene: Scene
) -> Finding | None:
    """The finding that stands for all folded ones; None when there are none, or when it stays as it
    is."""
    key = fold_key(rule)
    known = scene.open.get(key)
    if folded is None or (known is None and not beyond):
        return None
    if rule == WorkerLost.name:
        unlisted = scene.seen(WorkerLost).unlisted or Unlisted(
            len(beyond), len({each.subject.group for each in beyond})
        )
        if not unlisted.workers:
            return None
        what = f"and {unlisted.workers:,} more workers are lost, in {unlisted.groups:,} groups"
        evidence = {"workers": unlisted.workers, "groups": unlisted.groups}
    else:
        what = f"and {folded.number:,} more alerts of the rule {rule}"
        evidence = {"alerts": folded.number}
    severities = [each.severity for each in beyond] + ([known.severity] if known else [])
    return Finding(
        key=key,
        rule=rule,
        severity=max(severities, key=WEIGHT.__getitem__),
        summary=(
            f"{what}: {OPEN_AT_ONCE:,} have an alert of their own. Look at what they share, and at"
            " whether somebody sends events of workers that do not exist"
        ),
        evidence=evidence,
    )


def fold_over(rule: str, folded: Folded | None, scene: Scene) -> str | None:
    """Say why the alert for all folded findings is over; None while it is not."""
    if rule == WorkerLost.name:
        unlisted = scene.seen(WorkerLost).unlisted
        is_empty = unlisted is not None and not unlisted.workers
        return "each lost worker has an alert of its own" if is_empty else None
    if folded is not None and scene.now - folded.at < QUIET:
        return None
    return f"no more have come for {QUIET.seconds // 60} minutes"
