"""A living fleet, without any I/O: asked for what is due at a time, it answers with reports."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import msgspec

from manman_status.reporter.messages import Incarnation, Report, RunningServer

GROUPS = ("eu-1", "eu-2", "us-1", "asia-1")
CONFIGS = 5
DOWNTIME_INTERVALS = (2.0, 20.0)
"""How long a crashed worker stays away. Some are back before anyone noticed, most are not."""
CRASHED_SERVER_CHANCE = 0.2
INSTANCES_OF_A_WORKER = 10**12
"""Instance ids from one worker to the next: milliseconds for 31 years."""


class FleetPlan(msgspec.Struct, frozen=True, kw_only=True):
    """`churn` is the chance per beat and server that it stops and another starts in its place; `crash` the chance
    per beat that the worker ends without a word, to come back later as a new incarnation."""

    workers: int
    first_worker: int = 1
    servers: int
    interval_seconds: float
    churn: float = 0.0
    crash: float = 0.0
    seed: int = 0


class Worker:
    """`incarnation` is None while it is down."""

    def __init__(self, worker_id: int, *, begun: datetime) -> None:
        self.worker_id = worker_id
        # By worker: fleets side by side share none. By time: an ended instance stays ended, and a later run on the
        # same database needs others.
        milliseconds = int(begun.timestamp() * 1_000) % INSTANCES_OF_A_WORKER
        self.instance_ids = itertools.count(worker_id * INSTANCES_OF_A_WORKER + milliseconds)
        self.labels = {"group": GROUPS[worker_id % len(GROUPS)]}
        self.incarnation: Incarnation | None = None
        self.servers: list[RunningServer] = []


class Fleet:
    """Times are seconds since `begun`. The same plan and `begun` give the same reports, bit for bit."""

    def __init__(self, plan: FleetPlan, *, begun: datetime) -> None:
        self.plan = plan
        worker_ids = range(plan.first_worker, plan.first_worker + plan.workers)
        self.workers = [Worker(worker_id, begun=begun) for worker_id in worker_ids]
        self.crashes = 0
        self._begun = begun
        self._now = 0.0
        self._random = random.Random(plan.seed)  # noqa: S311
        self._due = [(self._random.uniform(0, plan.interval_seconds), worker.worker_id) for worker in self.workers]
        heapq.heapify(self._due)

    def next_due(self) -> float:
        return self._due[0][0]

    def due(self, now: float) -> list[Report]:
        """All reports up to and including `now`, in their order."""
        reports: list[Report] = []
        while self._due[0][0] <= now:
            self._now, worker_id = self._due[0]
            wait = self._live(self.workers[worker_id - self.plan.first_worker], reports)
            heapq.heapreplace(self._due, (self._now + wait, worker_id))
        return reports

    def stop(self, now: float) -> list[Report]:
        """A graceful end of all that live."""
        self._now = now
        return [report for worker in self.workers for report in self._stopped(worker)]

    def _live(self, worker: Worker, reports: list[Report]) -> float:
        """One beat, or what happens instead of it. Seconds until the worker's next one."""
        interval = self.plan.interval_seconds
        if worker.incarnation is None:
            reports.extend(self._started(worker))
        elif self._random.random() < self.plan.crash:
            self.crashes += 1
            worker.incarnation = None
            return self._random.uniform(*DOWNTIME_INTERVALS) * interval
        else:
            reports.extend(self._churned(worker, worker.incarnation))
            reports.append(worker.incarnation.heartbeat(worker.servers))
        return interval

    def _started(self, worker: Worker) -> Iterator[Report]:
        worker.incarnation = Incarnation(
            worker.worker_id,
            number=int(self._clock().timestamp() * 1_000_000),
            interval_seconds=self.plan.interval_seconds,
            labels=worker.labels,
            clock=self._clock,
        )
        worker.servers = [self._new_server(worker) for _ in range(self.plan.servers)]
        yield worker.incarnation.worker_started()
        for server in worker.servers:
            yield _server_started(worker.incarnation, server)

    def _churned(self, worker: Worker, incarnation: Incarnation) -> Iterator[Report]:
        for place, server in enumerate(worker.servers):
            if self._random.random() < self.plan.churn:
                exit_code = 139 if self._random.random() < CRASHED_SERVER_CHANCE else 0
                yield incarnation.server_stopped(server.instance_id, exit_code=exit_code)
                worker.servers[place] = self._new_server(worker)
                yield _server_started(incarnation, worker.servers[place])

    def _stopped(self, worker: Worker) -> Iterator[Report]:
        if worker.incarnation is None:
            return
        for server in worker.servers:
            yield worker.incarnation.server_stopped(server.instance_id, exit_code=0)
        yield worker.incarnation.worker_stopped()
        worker.incarnation = None

    def _new_server(self, worker: Worker) -> RunningServer:
        return RunningServer(next(worker.instance_ids), self._random.randint(1, CONFIGS))

    def _clock(self) -> datetime:
        return (self._begun + timedelta(seconds=self._now)).astimezone(UTC)


def _server_started(incarnation: Incarnation, server: RunningServer) -> Report:
    return incarnation.server_started(server.instance_id, game_server_config_id=server.game_server_config_id)
