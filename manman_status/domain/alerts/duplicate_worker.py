"""Two processes beat as one worker: a host was copied, or a worker started twice."""

from __future__ import annotations

from collections.abc import Iterator

from manman_status.domain.alerts.alert import Finding, OpenAlert, Severity, Subject
from manman_status.domain.alerts.scene import Duplicate, Scene
from manman_status.domain.rows import Evidence


class DuplicateWorker:
    """Opens when both have beaten for one timeout. Over when only one has beaten for one
    timeout."""

    name = "duplicate_worker"

    def find(self, scene: Scene) -> Iterator[Finding]:
        for duplicate in scene.duplicates.values():
            worker = duplicate.worker
            differing = differing_labels(duplicate)
            where = "".join(
                f", {name} {' and '.join(values)}"
                for name, values in differing.items()
                if all(values)
            )
            evidence: Evidence = {
                "incarnation": duplicate.incarnation,
                "other_incarnation": duplicate.rival_incarnation,
                "differing_labels": differing,
                "since": duplicate.since,
            }
            yield Finding(
                key=f"{self.name}:{worker.worker_id}",
                rule=self.name,
                severity=Severity.WARNING,
                summary=(
                    f"two processes beat as worker {worker.worker_id} (incarnations"
                    f" {duplicate.incarnation} and {duplicate.rival_incarnation}{where}): stop one,"
                    " or give it an id of its own"
                ),
                subject=Subject(
                    group=worker.group, worker_id=worker.worker_id, labels=dict(worker.labels)
                ),
                evidence=evidence,
            )

    def over(self, alert: OpenAlert, scene: Scene) -> str | None:
        return (
            None
            if (alert.subject.worker_id or 0) in scene.duplicates
            else "no two processes beat as it now"
        )


def differing_labels(duplicate: Duplicate) -> dict[str, tuple[str, str]]:
    """Labels of which the two have different values: the row's process first, "" where it has
    none."""
    own, other = duplicate.worker.labels, duplicate.rival_labels
    pairs = {name: (own.get(name, ""), other.get(name, "")) for name in sorted({*own, *other})}
    return {name: values for name, values in pairs.items() if values[0] != values[1]}
