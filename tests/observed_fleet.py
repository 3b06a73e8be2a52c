"""A fleet and its observers on a simulated clock: the pure domain, between a queue and a database made of lists.

The domain, the custody and what finds steps of the clock are the real ones. Re-stated here are the
broker's behaviour and the rules that stand in SQL (`store/observation.py`, `store/clock_step.py`).
Times are seconds since START: true ones of the world and its workers; in the database and in
canaries those of the database's clock, which may step.
"""

from __future__ import annotations

from collections import deque
from datetime import timedelta
from itertools import groupby

import msgspec
from manman_status.pipeline.custody import Custody

from manman_status.domain.clock import STEP_SECONDS, ClockReading
from manman_status.domain.events import Heartbeat, ServerStarted, ServerStopped, WorkerStarted, WorkerStopped
from manman_status.domain.guard import GuardRules
from manman_status.domain.liveness import timeout_seconds
from manman_status.domain.merge import merge
from manman_status.domain.rows import Receipt, Rows
from manman_status.domain.status import ACTIVE, Entity, Reason, StatusType
from manman_status.domain.sweep import Horizon, SweepRules, sweep
from manman_status.domain.workers import microseconds
from manman_status.pipeline.clock import DatabaseClock
from tests.builders import START, inventory

BEATS, LIFECYCLE = "beats", "lifecycle"
QUEUES = (BEATS, LIFECYCLE)

TICK = 0.5
TICKS_PER_CANARY = 2
PREFETCH = 6
RECONNECT = 3.0
MINIMUM_TIMEOUT = 15.0
STANDSTILL = 5.0
GRACE = 30.0
CUT_AFTER = 25.0
STALE_AFTER = 3.0
HOLD = 20.0
RULES = SweepRules(
    default_interval=10,
    minimum_timeout=MINIMUM_TIMEOUT,
    grace=GRACE,
    guard=GuardRules(minimum_workers=3, percent=30, hold_seconds=HOLD, release_percent=10),
)


def at(seconds):
    return START + timedelta(seconds=seconds)


def seconds(time):
    return (time - START).total_seconds()


class Message(msgspec.Struct, eq=False):
    """An event, or a canary when `event` is None. A number is its place in the queue, for good; it is `done` once
    it is committed, or the broker has lost it."""

    number: int
    sent: float
    queue: str
    event: object = None
    done: bool = False
    canary: float | None = None
    """The database's time at which it was sent."""


class Channel:
    """One processor's reading of one queue, as the broker sees it until the connection ends."""

    def __init__(self):
        self.open = True
        self.delivered = 0
        self.unsettled: list[Message] = []
        self.inbox: deque[tuple[Message | None, int, float | None]] = deque()


class Broker:
    """Beats are transient, lifecycle events are not: only these outlive a stop."""

    def __init__(self):
        self.up = True
        self.stopped_at = float("-inf")
        self.numbers = 0
        self.ready: dict[str, list[Message]] = {queue: [] for queue in QUEUES}
        self.events: list[Message] = []

    def put(self, queue, now, event=None, canary=None):
        self.numbers += 1
        self.ready[queue].append(Message(self.numbers, now, queue, event, canary=canary))
        if event is not None:
            self.events.append(self.ready[queue][-1])

    def put_back(self, queue, channel):
        """What the channel held goes where it was: before everything that came later."""
        channel.open = False
        self.ready[queue] = sorted(self.ready[queue] + channel.unsettled, key=lambda message: message.number)
        channel.unsettled = []

    def hand_out(self, queue, channels):
        for turn in range(len(self.ready[queue]) + len(channels)):
            if not channels or not self.ready[queue]:
                return
            channel = channels[turn % len(channels)]
            if len(channel.unsettled) < PREFETCH:
                message = self.ready[queue].pop(0)
                channel.unsettled.append(message)
                channel.delivered += 1
                channel.inbox.append((message, channel.delivered, None))


class Mark(msgspec.Struct):
    observed_through: float | None = None
    pending_sent: float | None = None
    pending_seen: float | None = None
    pending_by: int | None = None
    canaries_from: float = float("-inf")


class ProcessorRow(msgspec.Struct):
    last_seen: float
    settled_through: dict[str, float]


class Database:
    """What survives everything, and the one clock, which is `ahead` of the true time, and was
    `read_ahead` of it when a processor read it last."""

    def __init__(self):
        self.up = True
        self.ahead = self.read_ahead = 0.0
        self.clock_steps = self.clock_steps_settled = 0
        self.clock_step = 0.0
        self.fleet = Rows()
        self.history = []
        self.marks = {queue: Mark() for queue in QUEUES}
        self.processors: dict[int, ProcessorRow] = {}
        self.observed_through: float | None = None
        self.advanced_at: float | None = None
        self.resumed_at = 0.0
        self.guards = {}

    def write(self, rows):
        """The end of a transaction whose rows were this database's own."""
        self.history += rows.transitions

    def rows(self):
        return Rows(workers=self.fleet.workers, instances=self.fleet.instances, instances_of=self.fleet.instances_of)

    def distrust_canaries(self, queue, now):
        self.marks[queue] = Mark(self.marks[queue].observed_through, canaries_from=now)

    def resume(self, now):
        self.resumed_at = now

    @property
    def last_read(self):
        times = [row.last_seen for row in self.processors.values()]
        times += [] if self.observed_through is None else [self.observed_through]
        return at(max(times)) if times else None

    def take_step(self, by, now):
        for row in self.processors.values():
            row.last_seen, row.settled_through = min(row.last_seen + by, now), {}
        for queue, mark in self.marks.items():
            passed = None if mark.observed_through is None else min(mark.observed_through + by, now)
            self.marks[queue] = Mark(passed, canaries_from=now)
        if self.observed_through is not None:
            self.observed_through = min(self.observed_through + by, now)
            self.advanced_at = self.resumed_at = now
        self.clock_steps += 1
        self.clock_step = by

    def settle_step(self, now):
        """What the leader does before it sweeps."""
        if self.clock_steps_settled == self.clock_steps:
            return
        self.clock_steps_settled = self.clock_steps
        by = timedelta(seconds=self.clock_step)

        def back(time):
            return time if time is None or time <= at(now) else min(time + by, at(now))

        def squeeze(order):
            latest, now_us = microseconds(at(now) - by), microseconds(at(now))
            return order if order is None or order <= now_us else now_us - max(latest - order, 0) // 10_000

        for worker in self.fleet.workers.values():
            worker.status_since = back(worker.status_since)
            if worker.last_heartbeat is not None:
                worker.last_heartbeat = min(worker.last_heartbeat, at(now))
            if not worker.incarnation and self.clock_step < 0:
                worker.seq, worker.begun_at, worker.ended_at = map(
                    squeeze, (worker.seq, worker.begun_at, worker.ended_at)
                )
        for instance in self.fleet.instances.values():
            instance.status_since, instance.missing_since = back(instance.status_since), back(instance.missing_since)

    def forget(self, processor_id, now):
        del self.processors[processor_id]
        for queue in QUEUES:
            self.distrust_canaries(queue, now)

    def note_canary(self, queue, sent, now, processor_id):
        mark = self.marks[queue]
        if mark.pending_sent is None and mark.canaries_from <= sent <= now:
            mark.pending_sent, mark.pending_seen, mark.pending_by = sent, now, processor_id

    def advance(self, queue, now):
        mark = self.marks[queue]
        if mark.pending_sent is not None and all(
            row.settled_through.get(queue, float("-inf")) >= mark.pending_seen
            for processor_id, row in self.processors.items()
            if processor_id != mark.pending_by
        ):
            passed = max(mark.pending_sent, mark.observed_through or mark.pending_sent)
            self.marks[queue] = Mark(passed, canaries_from=mark.canaries_from)
        if not any(abs(row.last_seen - now) <= STEP_SECONDS for row in self.processors.values()):
            return
        passed = [mark.observed_through for mark in self.marks.values()]
        if None in passed or (self.observed_through is not None and min(passed) <= self.observed_through):
            return
        self.observed_through = min(passed)
        if self.advanced_at is None or self.advanced_at < now - STANDSTILL:
            self.resumed_at = now
        self.advanced_at = now


class Processor:
    """Reads both queues, each in batches, each batch in a transaction that may take its time."""

    def __init__(self, processor_id):
        self.processor_id = processor_id
        self.alive = True
        self.frozen_since: float | None = None
        self.messages_per_tick = 50
        self.transaction_seconds = 0.0
        self.turn = 0
        self.custody = {queue: Custody() for queue in QUEUES}
        self.clock = DatabaseClock()
        self.channels: dict[str, Channel] = {}
        self.buffers: dict[str, list[tuple[Message, Channel]]] = {queue: [] for queue in QUEUES}
        self.begun: dict[str, tuple[float, float, int]] = {}
        self.reconnected = False

    @property
    def runs(self):
        return self.alive and self.frozen_since is None

    @property
    def connected(self):
        return any(channel.open for channel in self.channels.values())

    def read(self, broker):
        for queue in QUEUES:
            if broker.up and not (queue in self.channels and self.channels[queue].open):
                self.reconnected |= queue in self.channels
                self.channels[queue] = Channel()
            channel = self.channels.get(queue)
            while channel and channel.inbox:
                message, number, sent = channel.inbox.popleft()
                if message is None:
                    self.custody[queue].see_canary(channel, number, at(sent))
                else:
                    self.buffers[queue].append((message, channel))

    def report(self, broker, database, true_now):
        now = true_now + database.ahead
        reading = ClockReading(at(now), true_now, true_now)
        if by := self.clock.step_to_take(reading, steps=database.clock_steps, last_read=database.last_read):
            database.take_step(by, now)
        self.clock.keep(reading, database.clock_steps)
        database.read_ahead = database.ahead
        if self.reconnected or not all(channel.open for channel in self.channels.values()):
            database.resume(now)
            self.reconnected = False
        restarted = [queue for queue in QUEUES if self.custody[queue].restarted]
        for queue in restarted:
            database.distrust_canaries(queue, now)
            self.custody[queue].restarted = False
        row = database.processors.setdefault(self.processor_id, ProcessorRow(now, {}))
        row.last_seen = now
        for queue, custody in self.custody.items():
            if custody.settled_through is not None and custody.settled_through <= at(now):
                row.settled_through[queue] = seconds(custody.settled_through)
        for queue in QUEUES:
            database.advance(queue, now)
            channel = self.channels.get(queue)
            if not broker.up or channel is None or not channel.open:
                continue
            if self.turn % TICKS_PER_CANARY == 0:
                broker.put(queue, true_now, canary=now)
            channel.delivered += 1
            channel.inbox.append((None, channel.delivered, now))
        self.turn += 1

    def store(self, queue, database, true_now):
        """Begin a batch, or commit the one that was begun: its time is the one at which it began."""
        now = true_now + database.ahead
        if not self.buffers[queue]:
            return
        if not database.up:
            self.begun.pop(queue, None)
            return
        size = min(len(self.buffers[queue]), self.messages_per_tick)
        truly_began, began, size = self.begun.setdefault(queue, (true_now, now, size))
        if true_now < truly_began + self.transaction_seconds:
            return
        del self.begun[queue]
        batch, self.buffers[queue] = self.buffers[queue][:size], self.buffers[queue][size:]
        rows = database.rows()
        for place, (message, _) in enumerate(batch):
            if message.event is not None:
                merge(rows, message.event, Receipt(at(began), microseconds(at(began)) + place))
        database.write(rows)
        canaries = [message.canary for message, _ in batch if message.event is None]
        if canaries:
            database.note_canary(queue, max(canaries), now, self.processor_id)
            database.advance(queue, now)
        for message, channel in batch:
            message.done = True
            if message in channel.unsettled:
                channel.unsettled.remove(message)
        for channel, some in groupby(batch, key=lambda delivery: delivery[1]):
            self.custody[queue].settle(channel, len(list(some)))


class Worker:
    """A worker process, and what it truly did: `beats` are the moments at which it was alive and said so."""

    def __init__(self, worker_id, interval, now, *, counted, clock_off_by):
        self.worker_id = worker_id
        self.interval = interval
        self.timeout = timeout_seconds(interval, minimum_seconds=MINIMUM_TIMEOUT)
        self.counted = counted
        self.clock_off_by = clock_off_by
        self.servers: set[int] = set()
        self.stopped_servers: dict[int, float] = {}
        self.beats: list[float] = []
        self.outbox: list[object] = []
        self.began_lives = 0
        self.began_at = 0
        self.went_back = False
        self.muted = False
        self.start(now)

    def start(self, now, *, clock_off_by=None, repeats_incarnation=False):
        """A new incarnation: the old one's servers are gone without a word. Its clock may have gone back, or its
        counter may begin again in the same one."""
        self.alive = True
        self.servers = set()
        self.began_lives += 1
        self.clock_off_by = self.clock_off_by if clock_off_by is None else clock_off_by
        before = self.began_at
        if not repeats_incarnation:
            self.began_at = microseconds(at(now + self.clock_off_by)) + self.began_lives
        self.went_back |= self.counted and self.began_at <= before
        self.seq = 0
        self.next_beat = now
        self.reconnects_at = now
        self.outbox = [WorkerStarted(worker_id=self.worker_id, interval_seconds=self.interval, **self.order(now))]

    def order(self, now):
        self.seq += 1
        sent_at = microseconds(at(now + self.clock_off_by)) + self.began_lives
        return (
            {"incarnation": self.began_at, "seq": self.seq, "sent_at": sent_at}
            if self.counted
            else {"sent_at": sent_at}
        )

    def heartbeat(self, now):
        """With everything it can say, or with nothing but the worker's id."""
        if not self.counted:
            return Heartbeat(worker_id=self.worker_id)
        servers = inventory(*self.servers)
        return Heartbeat(worker_id=self.worker_id, interval_seconds=self.interval, servers=servers, **self.order(now))

    def start_server(self, instance_id, now):
        self.servers.add(instance_id)
        self.outbox.append(ServerStarted(instance_id=instance_id, worker_id=self.worker_id, **self.order(now)))

    def stop_server(self, instance_id, now):
        self.servers.remove(instance_id)
        self.outbox.append(ServerStopped(instance_id=instance_id, worker_id=self.worker_id, **self.order(now)))

    def work(self, broker, now):
        """Alive it beats in time, whether or not a broker is there to be told."""
        if not self.speaks:
            return
        if not broker.up:
            self.reconnects_at = now + RECONNECT
        connected = now >= self.reconnects_at
        while connected and self.outbox:
            event = self.outbox.pop(0)
            if isinstance(event, ServerStopped):
                self.stopped_servers[event.instance_id] = now
            broker.put(LIFECYCLE, now, event)
        if now >= self.next_beat:
            self.next_beat = now + self.interval
            self.beats.append(now)
            if connected:
                broker.put(BEATS, now, self.heartbeat(now))

    @property
    def speaks(self):
        return self.alive and not self.muted


class World:
    def __init__(self, processors=2):
        self.now = 0.0
        self.broker = Broker()
        self.database = Database()
        self.workers: dict[int, Worker] = {}
        self.processors: list[Processor] = []
        self.instances = 0
        self.told = 0
        self.swept_through: float | None = None
        self.swept_steps = 0
        self.status = {}
        for _ in range(processors):
            self.start_processor()

    def start_processor(self):
        processor = Processor(len(self.processors) + 1)
        self.processors.append(processor)
        self.database.processors[processor.processor_id] = ProcessorRow(
            self.database_now, dict.fromkeys(QUEUES, self.database_now)
        )

    def start_worker(self, interval, *, counted=True, clock_off_by=0):
        worker_id = len(self.workers) + 1
        self.workers[worker_id] = Worker(worker_id, interval, self.now, counted=counted, clock_off_by=clock_off_by)
        return self.workers[worker_id]

    def start_server(self, worker):
        self.instances += 1
        worker.start_server(self.instances, self.now)
        return self.instances

    def stop_worker(self, worker):
        worker.outbox.append(WorkerStopped(worker_id=worker.worker_id, **worker.order(self.now)))
        worker.work(self.broker, self.now)
        worker.alive = False

    def disconnect(self, processor):
        for queue, channel in processor.channels.items():
            self.broker.put_back(queue, channel)

    def kill(self, processor):
        processor.alive = False
        self.disconnect(processor)

    def stop_broker(self):
        for processor in self.processors:
            self.disconnect(processor)
        self.broker.up, self.broker.stopped_at = False, self.now
        for message in self.broker.ready[BEATS]:
            message.done = True
        self.broker.ready[BEATS] = []

    @property
    def database_now(self):
        return self.now + self.database.ahead

    def pass_time(self, duration):
        until = self.now + duration
        while self.now < until:
            self.now += TICK
            self.tick()

    def tick(self):
        for worker in self.workers.values():
            worker.work(self.broker, self.now)
        for processor in self.processors:
            if processor.frozen_since is not None and self.now > processor.frozen_since + CUT_AFTER:
                self.disconnect(processor)
        for queue in QUEUES:
            channels = [p.channels[queue] for p in self.processors if queue in p.channels and p.channels[queue].open]
            self.broker.hand_out(queue, channels)
        for processor in self.processors:
            if processor.runs:
                processor.read(self.broker)
                for queue in QUEUES:
                    processor.store(queue, self.database, self.now)
                if self.database.up:
                    processor.report(self.broker, self.database, self.now)
        if self.database.up and self.now % 1 == 0 and any(processor.runs for processor in self.processors):
            self.forget_the_gone()
            self.sweep()
        self.check_watermark()
        self.check_transitions()

    def check_watermark(self):
        """All that was put on a queue before it is in the rows, as far as silence may count: after
        a step of the clock that nobody could measure it may claim more, but not beyond the
        beginning of the grace."""
        self.broker.events = [message for message in self.broker.events if not message.done]
        for message in self.broker.events:
            through = self.database.marks[message.queue].observed_through
            claimed = through is not None and through > self.database.resumed_at
            sent = message.sent + self.database.read_ahead
            assert not claimed or sent >= through, f"{self.database_now}: passed {message} at {through}"

    def forget_the_gone(self):
        if not self.broker.up:
            return  # it cannot be asked who is connected
        for processor in self.processors:
            row = self.database.processors.get(processor.processor_id)
            if row and row.last_seen < self.database_now - STALE_AFTER and not processor.connected:
                self.database.forget(processor.processor_id, self.database_now)

    def sweep(self):
        database = self.database
        if database.observed_through is None:
            return
        database.settle_step(self.database_now)
        rows = database.rows()
        horizon = Horizon(at(database.observed_through), at(database.resumed_at))
        database.guards = sweep(rows, database.guards, horizon, at=at(self.database_now), rules=RULES)
        database.write(rows)
        self.swept_through, self.swept_steps = database.observed_through, database.clock_steps

    def check_transitions(self):
        """Each transition leaves from where the one before led, and says nothing that is not so."""
        for transition in self.database.history[self.told :]:
            key = transition.entity, transition.entity_id
            assert transition.old_status == self.status.get(key), transition
            assert transition.old_status != transition.new_status, transition
            self.status[key] = transition.new_status
            if transition.new_status is StatusType.LOST:
                assert transition.old_status in ACTIVE, transition
            self.check_conclusion(transition)
        self.told = len(self.database.history)

    @property
    def truly_observed_through(self):
        through = self.database.observed_through
        return None if through is None else through - self.database.read_ahead

    def is_falsely_lost(self, worker):
        """It said that it lived within the timeout that was observed. Of one who is dead by now, what the broker lost,
        or what it said while it was not connected again, is no proof; nor is the first beat of a life that counts
        lower than the one before, which may be a late copy. (The end asserts that such a life is not LOST for good.)"""
        if worker.went_back:
            return False
        through = self.truly_observed_through
        earliest = through - worker.timeout
        told = worker.speaks or max(self.broker.stopped_at, worker.reconnects_at) < earliest
        return told and any(earliest <= beat <= through for beat in worker.beats)

    def check_conclusion(self, transition):
        through = self.truly_observed_through
        if transition.entity is Entity.WORKER:
            worker = self.workers[transition.entity_id]
            if transition.reason is Reason.HEARTBEAT_EXPIRED:
                assert not self.is_falsely_lost(worker), f"{self.now}: {transition}"
            return
        worker = self.workers[self.database.fleet.instances[transition.entity_id].worker_id]
        listed = transition.entity_id in worker.servers
        match transition.reason:
            case Reason.WORKER_LOST:
                assert not (listed and self.is_falsely_lost(worker)), transition
            case Reason.MISSING_FROM_INVENTORY | Reason.SUPERSEDED:
                assert not listed, transition
                assert worker.stopped_servers.get(transition.entity_id, through) >= through, transition
            case _:
                pass
