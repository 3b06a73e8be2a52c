"""Compares what the api says with the truth, and keeps what was wrong."""

from __future__ import annotations

import math
from collections import Counter
from datetime import datetime
from enum import StrEnum
from typing import Any

from manman_status.domain.status import ACTIVE, Reason, StatusType
from manman_status.lab.simulator.expectations import (
    MARGIN_SECONDS,
    RUNS,
    Moment,
    accepted,
    explaining_span,
    is_overdue,
    must_be_lost,
    must_live,
)
from manman_status.lab.simulator.observed import Observation, SeenServer, SeenWorker
from manman_status.lab.simulator.truth import ServerTruth, Truth, WorkerTruth

NEVER_UNLISTED = frozenset({Reason.MISSING_FROM_INVENTORY, Reason.SUPERSEDED})


class Wrong(StrEnum):
    FALSE_LOST = "false LOST"
    MISSED_LOST = "missed LOST"
    WORKER_STATUS = "wrong worker status"
    SERVER_STATUS = "wrong server status"


class Judge:
    """`pending` counts what could not be judged since it was last set to 0: it is not yet what it
    will be.

    `delays` are the seconds from the end of its timeout until each worker was marked LOST, where
    neither grace nor guard held it back; `rightly_lost` counts all of them.
    """

    def __init__(self, truth: Truth, observation: Observation, *, timeout_seconds: float) -> None:
        self.pending = 0
        self.rightly_lost = 0
        self.delays: list[float] = []
        self.findings: dict[tuple[object, ...], tuple[Wrong, str]] = {}
        self._truth = truth
        self._observation = observation
        self._timeout_seconds = timeout_seconds
        self._concluded: set[tuple[int, datetime]] = set()

    def counts(self) -> Counter[Wrong]:
        return Counter(wrong for wrong, _ in self.findings.values())

    def judge_worker(self, seen: SeenWorker, as_of: float) -> None:
        """Judge a worker as the api shows it, unless it is not ours. The api has seen everything
        that was sent before `as_of`."""
        worker = self._truth.workers.get(seen.worker_id)
        if worker is None:
            return
        moment = self._moment(as_of, worker)
        self._judge_conclusion(worker, seen)
        if worker.is_ending:
            self._judge_ending(worker, seen, moment)
        elif must_live(worker, moment):
            if seen.status is StatusType.LOST:
                words = (
                    f"worker {seen.worker_id}: still LOST {_at(as_of)}, though it beats"
                    f" {_since(worker)}"
                )
                self._note(Wrong.FALSE_LOST, (seen.worker_id, seen.status_since), words)
            elif seen.status is not StatusType.RUNNING:
                self._find(
                    Wrong.WORKER_STATUS, seen, f"{_said(seen)}, though it beats {_since(worker)}"
                )
        elif seen.status is StatusType.LOST:
            self.pending += not is_overdue(worker, moment)
        elif not must_be_lost(worker, moment):
            self.pending += 1
        elif seen.status in ACTIVE:
            self._find(
                Wrong.MISSED_LOST,
                seen,
                f"{_said(seen)} {_at(as_of)}, though silent {_silent(worker)}",
            )
        else:
            self._find(
                Wrong.WORKER_STATUS, seen, f"{_said(seen)}, though it fell silent {_silent(worker)}"
            )

    def judge_server(self, seen: SeenServer, as_of: float) -> None:
        server = self._truth.servers.get(seen.instance_id)
        if server is None:
            return
        if server.since is None or server.since > as_of - MARGIN_SECONDS:
            self.pending += 1
            return
        worker = self._truth.workers[server.worker_id]
        allowed = accepted(server, worker, self._moment(as_of, worker))
        if not any(seen.status is status and seen.reason in reasons for status, reasons in allowed):
            wanted = " or ".join(status for status, _ in allowed)
            self._find(
                Wrong.SERVER_STATUS,
                seen,
                f"{_said(seen)} {_at(as_of)}; true is {wanted}{_why(server, worker)}",
            )
        elif allowed == (RUNS,) and seen.evidence.get("was") in NEVER_UNLISTED:
            self._find(
                Wrong.SERVER_STATUS,
                seen,
                f"it was given up as {seen.evidence['was']}, though always listed",
            )
        elif not worker.is_ending:
            self.pending += RUNS in allowed[:-1] and seen.status is RUNS[0]
            self.pending += len(allowed) > 1 and allowed[-1] is RUNS

    def judge_unseen_workers(self, seen: set[int], as_of: float) -> None:
        """Judge the ids that a complete list lacks: everything that was reported before `as_of`
        must be in it."""
        for worker_id in self._truth.workers.keys() - seen:
            known_since = self._truth.workers[worker_id].received_since
            if known_since is not None and known_since < as_of - MARGIN_SECONDS:
                self._note(
                    Wrong.WORKER_STATUS, worker_id, f"worker {worker_id}: not known {_at(as_of)}"
                )

    def judge_unseen_servers(self, seen: set[int], as_of: float) -> None:
        for instance_id in self._truth.servers.keys() - seen:
            since = self._truth.servers[instance_id].since
            if since is not None and since < as_of - MARGIN_SECONDS:
                self._note(
                    Wrong.SERVER_STATUS,
                    instance_id,
                    f"server {instance_id}: not known {_at(as_of)}",
                )
            else:
                self.pending += 1

    def _judge_conclusion(self, worker: WorkerTruth, seen: SeenWorker) -> None:
        """Each LOST is judged once, also one that was taken back before anybody looked."""
        since = _concluded_at(seen)
        if (
            since is None
            or not self._observation.is_dated
            or (worker.worker_id, since) in self._concluded
        ):
            return
        self._concluded.add((worker.worker_id, since))
        lost_at = self._observation.fleet_time(since)
        if lost_at < 0:
            return  # an earlier run's
        span = explaining_span(
            worker,
            lost_at,
            timeout_seconds=self._timeout_seconds,
            lag_seconds=self._observation.longest_lag_seconds,
        )
        if span is None:
            words = (
                f"LOST {_at(lost_at)} after a timeout of {self._timeout_seconds:g} s, though"
                f" {_received(worker, lost_at)}"
            )
            self._note(
                Wrong.FALSE_LOST, (worker.worker_id, since), f"worker {worker.worker_id}: {words}"
            )
            return
        if math.isinf(span.begun):
            return  # an earlier run's worker, which this one has taken over
        self.rightly_lost += 1
        due = span.begun + self._timeout_seconds
        if due >= self._observation.ready_at(worker.group):
            self.delays.append(max(lost_at - due, 0.0))

    def _judge_ending(self, worker: WorkerTruth, seen: SeenWorker, moment: Moment) -> None:
        if worker.ended_at is None or worker.ended_at > moment.as_of - MARGIN_SECONDS:
            self.pending += 1
        elif (seen.status, seen.reason) != (StatusType.COMPLETE, Reason.GRACEFUL):
            self._find(
                Wrong.WORKER_STATUS,
                seen,
                f"{_said(seen)}, though it stopped in order {_at(worker.ended_at)}",
            )

    def _moment(self, as_of: float, worker: WorkerTruth) -> Moment:
        return Moment(as_of, self._observation.ready_at(worker.group), self._timeout_seconds)

    def _find(self, wrong: Wrong, seen: SeenWorker | SeenServer, words: str) -> None:
        kind = "worker" if isinstance(seen, SeenWorker) else "server"
        self._note(wrong, seen.id, f"{kind} {seen.id}: {words}")

    def _note(self, wrong: Wrong, key: object, words: str) -> None:
        self.findings.setdefault((wrong, key), (wrong, words))


def _concluded_at(seen: SeenWorker) -> datetime | None:
    if seen.status is StatusType.LOST:
        return seen.status_since
    if seen.reason is Reason.RECOVERED and seen.evidence.get("was") == Reason.HEARTBEAT_EXPIRED:
        return datetime.fromisoformat(seen.evidence["since"])
    return None


def _received(worker: WorkerTruth, lost_at: float) -> str:
    known = [
        span
        for span in worker.all_silent_spans()
        if span.begun < lost_at and not math.isinf(span.begun)
    ]
    if not known:
        return "it was heard of all the time"
    until = f" to {_at(known[-1].ended)[3:]}" if known[-1].ended < math.inf else " on"
    return f"it was silent only from {_at(known[-1].begun)[3:]}{until}"


def _said(seen: SeenWorker | SeenServer) -> str:
    return f"{seen.status} ({seen.reason})"


def _at(seconds: Any) -> str:
    return f"at {seconds:.1f} s"


def _since(worker: WorkerTruth) -> str:
    return f"since {worker.received_since:.1f} s" if worker.received_since is not None else ""


def _silent(worker: WorkerTruth) -> str:
    return f"since {worker.silent_since():.1f} s"


def _why(server: ServerTruth, worker: WorkerTruth) -> str:
    if server.life < worker.life:
        return f", left behind by a life of worker {worker.worker_id} that is over"
    return (
        f", reported {_at(server.since)}, its worker {worker.worker_id} heard of until"
        f" {worker.silent_since():.1f} s"
    )
