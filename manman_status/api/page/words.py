"""Sentences that explain a status to people, as `reason` and `evidence` do to programs."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeAlias

from manman_status.api.responses import ServerInstance, Transition, Worker
from manman_status.domain.status import Health, Reason, StatusType

Evidence: TypeAlias = dict[str, Any]

UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def clock(at: datetime, today: datetime) -> str:
    """UTC, to the second; with the day where it is another."""
    return f"{at:%H:%M:%S}" if at.date() == today.date() else f"{at:%d %b %Y, %H:%M:%S}"


def span(seconds: float) -> str:
    """The two greatest units: `2 d 3 h`, `4 min 10 s`, `3 s`, `0.4 s`."""
    if seconds < 1:
        return f"{max(seconds, 0):.1f} s"
    greatest = next(index for index, (size, _) in enumerate(UNITS) if seconds >= size)
    parts, rest = [], int(seconds)
    for size, unit in UNITS[greatest : greatest + 2]:
        count, rest = divmod(rest, size)
        parts += [f"{count} {unit}"] if count else []
    return " ".join(parts)


def worker_why(worker: Worker, as_of: datetime) -> str:
    """Explain the health of a worker as it was known at `as_of`."""
    match worker.health:
        case Health.HEALTHY:
            return _healthy(worker, as_of)
        case Health.LATE:
            return _late(worker, as_of)
        case Health.UNHEALTHY:
            return _unhealthy(worker, as_of)
        case Health.UNKNOWN:
            return _unknown(worker, as_of)
        case Health.TERMINATED:
            return _ended(
                worker.status,
                worker.reason,
                worker.evidence,
                worker.end_date or worker.status_since,
                as_of,
            )


def _healthy(worker: Worker, as_of: datetime) -> str:
    assert worker.last_heartbeat is not None
    received = (
        f"Heard at {clock(worker.last_heartbeat, as_of)}; beats every"
        f" {worker.interval_seconds:g} s."
    )
    if worker.reason is Reason.RECOVERED:
        return (
            f"Came back at {clock(worker.status_since, as_of)} after it had been taken for lost."
            f" {received}"
        )
    return received


def _silence(since: datetime, until: datetime, worker: Worker) -> str:
    missed = int((until - since).total_seconds() / worker.interval_seconds)
    count = NUMBERS[missed] if missed < len(NUMBERS) else f"{missed:,}"
    beats = "beat" if missed == 1 else "beats"
    return (
        f"Silent since {clock(since, until)}; {count} {beats} of {worker.interval_seconds:g} s"
        " missed"
    )


def _late(worker: Worker, as_of: datetime) -> str:
    assert worker.last_heartbeat is not None
    assert worker.deadline is not None
    silence = _silence(worker.last_heartbeat, as_of, worker)
    if worker.deadline < as_of:
        return f"{silence}. Not given up: we were away ourselves until just now."
    return f"{silence}. Lost when nothing is heard until {clock(worker.deadline, as_of)}."


def _unhealthy(worker: Worker, as_of: datetime) -> str:
    if worker.status is not StatusType.LOST:
        assert worker.last_heartbeat is not None
        silence = _silence(worker.last_heartbeat, as_of, worker)
        return f"{silence}. Overdue; the next sweep gives it up, or a guard holds."
    if worker.last_heartbeat is None or "observed_through" not in worker.evidence:
        return f"Lost since {clock(worker.status_since, as_of)}."
    received = _time(worker.evidence, "observed_through")
    return (
        f"{_silence(worker.last_heartbeat, received, worker)}; heard everything else until"
        f" {clock(received, as_of)}."
    )


def _unknown(worker: Worker, as_of: datetime) -> str:
    """Explain an unknown worker. One that has sent heartbeats is unknown only while monitoring is
    blind."""
    if worker.last_heartbeat is None:
        return (
            "Has never sent a heartbeat, so its silence means nothing: known only from what was"
            " reported of it."
        )
    return (
        f"Nobody has listened since {clock(as_of, as_of)}, so nothing is known of it now. "
        f"Last heard at {clock(worker.last_heartbeat, as_of)}."
    )


def server_why(server: ServerInstance, as_of: datetime) -> str:
    """Explain the status of a server instance."""
    since = clock(server.status_since, as_of)
    match server.reason:
        case Reason.WORKER_LOST if "last_heartbeat" in server.evidence:
            silent = clock(_time(server.evidence, "last_heartbeat"), as_of)
            why = f"Its worker fell silent at {silent} and was lost at {since}."
        case Reason.WORKER_LOST:
            end = "lost" if server.status is StatusType.LOST else "taken for crashed"
            why = f"Its worker ended without a word of it; {end} at {since}."
        case Reason.MISSING_FROM_INVENTORY:
            missing = clock(_time(server.evidence, "missing_since"), as_of)
            why = f"Its worker lists it no longer since {missing}, and reported no end."
        case Reason.SUPERSEDED:
            why = "Its worker began anew without it."
        case Reason.RECOVERED:
            why = f"Its worker told of it again at {since}."
        case _ if server.is_active:
            why = f"{server.status.capitalize()} since {since}."
            if "reported_as" in server.evidence:
                why = f"{why} Its host reports it as {server.evidence['reported_as']}."
        case _ if server.status is StatusType.LOST:
            why = f"Reported as lost at {since}."
        case _:
            ended = server.end_date or server.status_since
            why = _ended(server.status, server.reason, server.evidence, ended, as_of)
    return why


def transition_why(transition: Transition) -> str:
    """Explain a transition."""
    match transition.reason:
        case Reason.HEARTBEAT_EXPIRED:
            silent, received = (
                clock(_time(transition.evidence, name), transition.at)
                for name in ("last_heartbeat", "observed_through")
            )
            return f"silent since {silent}; heard everything else until {received}"
        case Reason.RECOVERED:
            return "heard again"
        case Reason.EXIT_CODE:
            return f"ended with exit code {transition.evidence.get('exit_code', '?')}"
        case Reason.GRACEFUL:
            return "stopped in order"
        case Reason.REPORTED:
            return "it said so"
        case _:
            return str(transition.reason).replace("_", " ")


def _ended(
    status: StatusType, reason: Reason, evidence: Evidence, at: datetime, as_of: datetime
) -> str:
    when = clock(at, as_of)
    if reason is Reason.EXIT_CODE:
        return f"Ended at {when} with exit code {evidence.get('exit_code', '?')}."
    return f"Crashed at {when}." if status is StatusType.CRASHED else f"Stopped in order at {when}."


def _time(evidence: Evidence, name: str) -> datetime:
    return datetime.fromisoformat(evidence[name])
