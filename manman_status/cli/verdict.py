"""Print the result of verifying a simulated fleet."""

from __future__ import annotations

from manman_status.cli.tables import percentile, print_table
from manman_status.errors import CommandFailed
from manman_status.lab.simulator.judgement import Judge, Wrong
from manman_status.lab.simulator.watcher import Watcher
from manman_status.wire.reasons import printable

FINDINGS_SHOWN = 10
PLURAL = {
    Wrong.WORKER_STATUS: "wrong worker statuses",
    Wrong.SERVER_STATUS: "wrong server statuses",
}


def print_verdict(judge: Judge, watcher: Watcher, *, where: str) -> None:
    """Print the findings. Raises CommandFailed when anything was wrong or the api never
    answered."""
    if not watcher.answered:
        raise CommandFailed(
            f"nothing was verified: {where} never answered:"
            f" {watcher.problem or 'it observes nothing'}"
        )
    counts = judge.counts()
    print_table(
        ("verified", f"{watcher.answered} times, {watcher.skipped} skipped"),
        (
            *((PLURAL.get(wrong, wrong), counts[wrong]) for wrong in Wrong),
            ("rightly LOST", judge.rightly_lost),
            ("detected after the timeout: median", _seconds(percentile(judge.delays, 0.5))),
            ("95 %", _seconds(percentile(judge.delays, 0.95))),
            ("longest", _seconds(max(judge.delays, default=None))),
        ),
    )
    if not judge.findings:
        return
    print()
    findings = list(judge.findings.values())
    for wrong, words in findings[:FINDINGS_SHOWN]:
        print(printable(f"{wrong}: {words}"))
    if len(findings) > FINDINGS_SHOWN:
        print(f"… and {len(findings) - FINDINGS_SHOWN} more")
    raise CommandFailed(f"{len(findings)} times {where} did not say what is true")


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"
