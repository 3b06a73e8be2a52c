"""All rules asked once: which alerts begin, change and end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import msgspec

from manman_status.domain.alerts.alert import WEIGHT, Finding, OpenAlert
from manman_status.domain.alerts.dead_letters import remember
from manman_status.domain.alerts.folding import fold, fold_key, fold_over, folded_by_now, is_full
from manman_status.domain.alerts.rules import RULES, Rule
from manman_status.domain.alerts.scene import Folded, Memory, Scene


class Judgement(msgspec.Struct):
    """`opened` are new, each with the key of the alert that it is part of, if any; causes come
    before their parts. `found_again` were open before, and none of them is less severe now. `over`
    says why, by key, of both. `memory` is what must be known the next time."""

    opened: list[tuple[Finding, str | None]] = []
    found_again: list[Finding] = []
    over: dict[str, str] = {}
    memory: Memory = Memory()


def judge(scene: Scene, rules: Sequence[Rule] = RULES) -> Judgement:
    """Leaves in `scene.open` what is open afterwards."""
    judgement = Judgement()
    folded = dict(scene.memory.folded)
    for rule in rules:
        beyond: list[Finding] = []
        for finding in rule.find(scene):
            if finding.key not in scene.open and is_full(rule.name, scene):
                beyond.append(finding)
            else:
                _take(finding, scene, judgement)
        if beyond:
            folded[rule.name] = folded_by_now(rule.name, beyond, scene)
        if (finding_of_all := fold(rule.name, beyond, folded.get(rule.name), scene)) is not None:
            _take(finding_of_all, scene, judgement)
    _end(rules, scene, judgement, folded)
    judgement.memory = msgspec.structs.replace(
        remember(scene), minutes=tuple(scene.minutes), folded=folded
    )
    return judgement


def _end(
    rules: Sequence[Rule], scene: Scene, judgement: Judgement, folded: dict[str, Folded]
) -> None:
    """End what is over, and leave in `folded` what is not."""
    alerts: defaultdict[str, list[OpenAlert]] = defaultdict(list)
    for alert in scene.open.values():
        alerts[alert.rule].append(alert)
    # What is part of another ends before it.
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


def _take(finding: Finding, scene: Scene, judgement: Judgement) -> None:
    if (known := scene.open.get(finding.key)) is not None:
        # Who was told of it at its worst must hear the end of it, and may listen for the worst
        # alone.
        worst = max(known.severity, finding.severity, key=WEIGHT.__getitem__)
        scene.open[finding.key] = msgspec.structs.replace(
            known, severity=worst, subject=finding.subject
        )
        judgement.found_again.append(msgspec.structs.replace(finding, severity=worst))
        return
    cause = next((key for key in finding.causes if key in scene.open), None)
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
