"""One look of all rules at a scene: which alerts begin, change and end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec

from manman_status.alerts.judging.folding import fold, fold_over, folded_by_now, is_full
from manman_status.alerts.rule import Finding, OpenAlert, Rule, fold_key, rule_of
from manman_status.alerts.rules import RULES, causes_first
from manman_status.alerts.scene import Folded, Memory, Scene
from manman_status.domain.alert import WEIGHT


class Judgement(msgspec.Struct):
    """`opened` are new, each with the key of the alert that it is part of, if any; causes come
    before their parts. `found_again` were open before, and none of them is less severe now. `over`
    says why, by key, of both. `memory` is what must be known the next time."""

    opened: list[tuple[Finding, str | None]] = []
    found_again: list[Finding] = []
    over: dict[str, str] = {}
    memory: Memory = Memory()


def judge(scene: Scene, rules: Sequence[Rule[Any]] = RULES) -> Judgement:
    """Judge causes before what they cause, in whatever order the rules are given. Afterwards
    `scene.open` has the alerts that are open then."""
    rules = causes_first(rules)
    judgement = Judgement()
    folded = dict(scene.memory.folded)
    for rule in rules:
        beyond: list[Finding] = []
        for finding in rule.find(scene):
            if finding.key not in scene.open and is_full(rule.name, scene):
                beyond.append(finding)
            else:
                _take(finding, rule, scene, judgement)
        if beyond:
            folded[rule.name] = folded_by_now(rule.name, beyond, scene)
        if (finding_of_all := fold(rule.name, beyond, folded.get(rule.name), scene)) is not None:
            _take(finding_of_all, rule, scene, judgement)
    _end(rules, scene, judgement, folded)
    memory = msgspec.structs.replace(scene.memory, folded=folded)
    for rule in rules:
        memory = rule.remember(memory, scene)
    judgement.memory = memory
    return judgement


def _end(
    rules: Sequence[Rule[Any]], scene: Scene, judgement: Judgement, folded: dict[str, Folded]
) -> None:
    """End the alerts that are over, and drop their counts from `folded`."""
    alerts: defaultdict[str, list[OpenAlert]] = defaultdict(list)
    for alert in scene.open.values():
        alerts[alert.rule].append(alert)
    # Parts end before their causes.
    for rule in reversed(rules):
        for alert in alerts[rule.name]:
            is_fold = alert.key == fold_key(rule.name)
            if (
                why := fold_over(rule.name, folded.get(rule.name), scene)
                if is_fold
                else rule.over(alert, scene)
            ):
                judgement.over[alert.key] = why
                scene.end(alert.key)
                if is_fold:
                    folded.pop(rule.name, None)


def _take(finding: Finding, rule: Rule[Any], scene: Scene, judgement: Judgement) -> None:
    if (known := scene.open.get(finding.key)) is not None:
        # A channel that was notified of it at its worst must be notified of its end, and may take
        # the worst alone.
        worst = max(known.severity, finding.severity, key=WEIGHT.__getitem__)
        scene.open[finding.key] = msgspec.structs.replace(
            known, severity=worst, subject=finding.subject
        )
        judgement.found_again.append(msgspec.structs.replace(finding, severity=worst))
        return
    declared = {cause.name for cause in rule.causes}
    cause = next(
        (key for key in finding.causes if key in scene.open and rule_of(key) in declared), None
    )
    scene.begin(_opened(finding, cause, scene))
    judgement.opened.append((finding, cause))


def _opened(finding: Finding, cause: str | None, scene: Scene) -> OpenAlert:
    return OpenAlert(
        key=finding.key,
        rule=finding.rule,
        severity=finding.severity,
        summary=finding.summary,
        subject=finding.subject,
        opened_at=scene.now,
        part_of=cause,
    )
