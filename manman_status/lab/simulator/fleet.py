"""A simulated fleet without any I/O: it returns the messages that are due at a time."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import assert_never

import msgspec

from manman_status.lab.simulator.faults import Fault, Kill, KillGroup, Pause, by_time
from manman_status.lab.simulator.messages import Message, Said
from manman_status.reporter.messages import Incarnation, Report
from manman_status.wire.messages import RunningServer

GROUPS = ("eu-1", "eu-2", "us-1", "asia-1")
CONFIGS = 5
DOWNTIME_INTERVALS = (2.0, 20.0)
"""Shortest and longest downtime of a crashed worker, in intervals. Some return before they are
LOST, most do not."""
CRASHED_SERVER_CHANCE = 0.2
CRASHED_SERVER_EXIT_CODE = 139
INSTANCES_OF_A_WORKER = 10**12
"""Instance ids from one worker to the next: milliseconds for 31 years."""
STARTS_PER_SECOND = 2_000
"""A large fleet starts at this rate, so that its lifecycle events do not pile up."""


class FleetPlan(msgspec.Struct, frozen=True, kw_only=True):
    """`churn` is the chance per beat and server that it stops and another starts in its place;
    `crash` the chance per beat that the worker ends without a word, to come back later as a new
    incarnation. `clock_skew_seconds` is how far a worker's own clock may be off, either way."""

    workers: int
    first_worker: int = 1
    servers: int
    interval_seconds: float
    churn: float = 0.0
    crash: float = 0.0
    clock_skew_seconds: float = 0.0
    faults: tuple[Fault, ...] = ()
    seed: int = 0


class Worker:
    """`incarnation` is None while it is down. `clock_off_seconds` is the same in every run, since a
    worker whose clock went back would begin a life that is older than its last one."""

    def __init__(self, worker_id: int, *, begun: datetime, clock_skew_seconds: float = 0.0) -> None:
        self.worker_id = worker_id
        # By worker: fleets side by side share none. By time: an ended instance stays ended, and a
        # later run on the same database needs others.
        milliseconds = int(begun.timestamp() * 1_000) % INSTANCES_OF_A_WORKER
        self.instance_ids = itertools.count(worker_id * INSTANCES_OF_A_WORKER + milliseconds)
        self.group = group_of(worker_id)
        self.clock_off_seconds = random.Random(worker_id).uniform(-1, 1) * clock_skew_seconds  # noqa: S311
        self.incarnation: Incarnation | None = None
        self.servers: list[RunningServer] = []
        self.is_dead = False
        self.paused_until = 0.0
        self._lives = 0
        self._numbers = itertools.count(1)

    def begin(self, incarnation: Incarnation, servers: list[RunningServer]) -> None:
        self.incarnation, self.servers = incarnation, servers
        self._lives += 1

    def says(
        self, said: Said, report: Report, *, instance_id: int = 0, exit_code: int = 0
    ) -> Message:
        return Message(
            report=report,
            said=said,
            worker_id=self.worker_id,
            life=self._lives,
            number=next(self._numbers),
            instance_id=instance_id,
            exit_code=exit_code,
        )


def group_of(worker_id: int) -> str:
    return GROUPS[worker_id % len(GROUPS)]


class Fleet:
    """Times are seconds since `begun`. The same plan and `begun` give the same messages, bit for
    bit."""

    def __init__(self, plan: FleetPlan, *, begun: datetime) -> None:
        self.plan = plan
        self.workers = [
            Worker(worker_id, begun=begun, clock_skew_seconds=plan.clock_skew_seconds)
            for worker_id in range(plan.first_worker, plan.first_worker + plan.workers)
        ]
        self.crashes = self.killed = self.paused = 0
        self._begun = begun
        self._now = 0.0
        self._is_calm = False
        self._faults = deque(sorted(plan.faults, key=by_time))
        self._random = random.Random(plan.seed)  # noqa: S311
        beginning = max(
            plan.interval_seconds, plan.workers * (plan.servers + 1) / STARTS_PER_SECOND
        )
        self._due = [
            (self._random.uniform(0, beginning), worker.worker_id) for worker in self.workers
        ]
        heapq.heapify(self._due)

    def next_due(self) -> float:
        return min(
            self._faults[0].at if self._faults else math.inf,
            self._due[0][0] if self._due else math.inf,
        )

    def due(self, now: float) -> list[Message]:
        """All messages up to and including `now`, in their order."""
        messages: list[Message] = []
        while (at := self.next_due()) <= now:
            self._now = at
            if self._faults and self._faults[0].at == at:
                self._strike(self._faults.popleft())
                continue
            _, worker_id = self._due[0]
            wait = self._live(self.workers[worker_id - self.plan.first_worker], messages)
            if wait is None:
                heapq.heappop(self._due)
            else:
                heapq.heapreplace(self._due, (at + wait, worker_id))
        return messages

    def calm(self, now: float) -> None:
        """Let nothing but heartbeats happen from now on: frozen workers continue, crashed ones stay
        down."""
        self._is_calm = True
        self._faults.clear()
        frozen = {worker.worker_id for worker in self.workers if worker.paused_until > now}
        for worker in self.workers:
            worker.paused_until = 0.0
        self._due = [(now if worker_id in frozen else at, worker_id) for at, worker_id in self._due]
        heapq.heapify(self._due)

    def stop(self, now: float) -> list[Message]:
        """Stop all living workers normally."""
        self._now = now
        return [message for worker in self.workers for message in self._stopped(worker)]

    def _strike(self, fault: Fault) -> None:
        living = [
            worker
            for worker in self.workers
            if worker.incarnation and worker.paused_until <= self._now
        ]
        match fault:
            case Kill():
                self._kill(living, fault.count)
            case KillGroup():
                size = sum(worker.group == fault.group for worker in self.workers)
                members = [worker for worker in living if worker.group == fault.group]
                self._kill(members, round(size * fault.percent / 100))
            case Pause():
                for worker in self._random.sample(living, min(fault.count, len(living))):
                    worker.paused_until = self._now + fault.seconds
                    self.paused += 1
            case _:
                assert_never(fault)

    def _kill(self, living: Sequence[Worker], count: int) -> None:
        for worker in self._random.sample(living, min(count, len(living))):
            worker.is_dead, worker.incarnation = True, None
            self.killed += 1

    def _live(self, worker: Worker, messages: list[Message]) -> float | None:
        """Append the messages of one heartbeat, or of what happens instead. Returns the seconds
        until the worker's next one; None when there is none."""
        interval = self.plan.interval_seconds
        if worker.is_dead or (self._is_calm and worker.incarnation is None):
            return None
        if worker.paused_until > self._now:
            return worker.paused_until - self._now
        if worker.incarnation is None:
            messages.extend(self._started(worker))
        elif not self._is_calm and self._random.random() < self.plan.crash:
            self.crashes += 1
            worker.incarnation = None
            return self._random.uniform(*DOWNTIME_INTERVALS) * interval
        else:
            if not self._is_calm:
                messages.extend(self._churned(worker, worker.incarnation))
            messages.append(worker.says(Said.BEAT, worker.incarnation.heartbeat(worker.servers)))
        return interval

    def _started(self, worker: Worker) -> Iterator[Message]:
        def clock() -> datetime:
            return (
                self._begun + timedelta(seconds=self._now + worker.clock_off_seconds)
            ).astimezone(UTC)

        incarnation = Incarnation(
            worker.worker_id,
            number=int(clock().timestamp() * 1_000_000),
            interval_seconds=self.plan.interval_seconds,
            labels={"group": worker.group},
            clock=clock,
        )
        worker.begin(incarnation, [self._new_server(worker) for _ in range(self.plan.servers)])
        yield worker.says(Said.BEGUN, incarnation.worker_started())
        for server in worker.servers:
            yield _server_started(worker, incarnation, server)

    def _churned(self, worker: Worker, incarnation: Incarnation) -> Iterator[Message]:
        for place, server in enumerate(worker.servers):
            if self._random.random() < self.plan.churn:
                crashed = self._random.random() < CRASHED_SERVER_CHANCE
                yield _server_stopped(
                    worker, incarnation, server, CRASHED_SERVER_EXIT_CODE if crashed else 0
                )
                worker.servers[place] = self._new_server(worker)
                yield _server_started(worker, incarnation, worker.servers[place])

    def _stopped(self, worker: Worker) -> Iterator[Message]:
        if worker.incarnation is None:
            return
        for server in worker.servers:
            yield _server_stopped(worker, worker.incarnation, server, 0)
        yield worker.says(Said.ENDED, worker.incarnation.worker_stopped())
        worker.incarnation = None

    def _new_server(self, worker: Worker) -> RunningServer:
        return RunningServer(next(worker.instance_ids), self._random.randint(1, CONFIGS))


def _server_started(worker: Worker, incarnation: Incarnation, server: RunningServer) -> Message:
    report = incarnation.server_started(
        server.instance_id, game_server_config_id=server.game_server_config_id
    )
    return worker.says(Said.SERVER_BEGUN, report, instance_id=server.instance_id)


def _server_stopped(
    worker: Worker, incarnation: Incarnation, server: RunningServer, exit_code: int
) -> Message:
    report = incarnation.server_stopped(server.instance_id, exit_code=exit_code)
    return worker.says(
        Said.SERVER_ENDED, report, instance_id=server.instance_id, exit_code=exit_code
    )
