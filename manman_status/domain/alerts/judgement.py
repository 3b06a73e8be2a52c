"""All rules asked once: which alerts begin, change and end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import msgspec

from manman_status.domain.alerts.alert import WEIGHT, Finding, OpenAlert
from manman_status.domain.alerts.rules import RULES, Rule
from manman_status.domain.alerts.scene import Scene


class Judgement(msgspec.Struct):
    """`opened` are new, each with the key of the alert that it is part of, if any; causes come before their parts.
    `found_again` were open before, and none of them is less severe now. `over` says why, by key, of both."""

    opened: list[tuple[Finding, str | None]] = []
    found_again: list[Finding] = []
    over: dict[str, str] = {}


def judge(scene: Scene, rules: Sequence[Rule] = RULES) -> Judgement:
    """Leaves in `scene.open` what is open afterwards."""
    judgement = Judgement()
    for rule in rules:
        for finding in rule.find(scene):
            if (known := scene.open.get(finding.key)) is not None:
                # Who was told of it at its worst must hear the end of it, and may listen for the worst alone.
                worst = max(known.severity, finding.severity, key=WEIGHT.__getitem__)
                scene.open[finding.key] = msgspec.structs.replace(known, severity=worst, subject=finding.subject)
                judgement.found_again.append(msgspec.structs.replace(finding, severity=worst))
                continue
            cause = next((key for key in finding.causes if key in scene.open), None)
            scene.begin(_opened(finding, cause, scene))
            judgement.opened.append((finding, cause))
    alerts: defaultdict[str, list[OpenAlert]] = defaultdict(list)
    for alert in scene.open.values():
        alerts[alert.rule].append(alert)
    # What is part of another ends before it.
    for rule in reversed(rules):
        for alert in alerts[rule.name]:
            if why := rule.over(alert, scene):
                judgement.over[alert.key] = why
                scene.end(alert.key)
    return judgement


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
