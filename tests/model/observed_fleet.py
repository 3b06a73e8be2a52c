"""A fleet and its observers on a simulated clock: the pure domain, between a queue and a database
made of lists.

The domain and what finds steps of the clock are the real ones. Re-stated here are the broker's
behaviour, the rules that stand in SQL (`store/observation.py`, `store/clock_step.py`), and which
queues are read (`processor/broker/reading.py`, `processor/leader/housekeeping.py`).
Times are seconds since START: true ones of the world and its workers; in the database and in
canaries those of the database's clock, which may step.
"""

from __future__ import annotations

from collections import deque
from datetime import timedelta
from math import ceil
from typing import Any

import msgspec

from manman_status.clock import DatabaseClock
from manman_status.domain.clock import ClockReading
from manman_status.domain.events import (
    Heartbeat,
    ReportedEvent,
    ServerStarted,
    ServerStopped,
    WorkerStarted,
    WorkerStopped,
    microseconds,
)
from manman_status.domain.guard import GuardRules
from manman_status.domain.liveness import Thresholds, timeout_seconds
from manman_status.domain.merge import merge
from manman_status.domain.rows import Receipt, Rows
from manman_status.domain.status import ACTIVE, Entity, Reason, StatusType
from manman_status.domain.sweep import Horizon, SweepRules
from manman_status.store.clock_step import SETTLING_SECONDS
from tests.builders import START, inventory
from tests.model.sweep import sweep

LIFECYCLE = "lifecycle"
ACTIVE_QUEUE, LEAVING, RETIRED = "active", "leaving", "retired"

TICK = 0.5
TICKS_PER_CANARY = 2
PREFETCH = 6
RECONNECT = 3.0
MINIMUM_TIMEOUT = 15.0
STANDSTILL = 5.0
GRACE = 30.0
CUT_AFTER = 25.0
STALE_AFTER = 3.0
HAND_OVER_EVERY = 3.0
BEAT_EXPIRES = 60.0
DROPPED_EXPIRES = 15.0
HOLD = 20.0
RULES = SweepRules(
    thresholds=Thresholds(minimum_timeout_seconds=MINIMUM_TIMEOUT, recovery_grace_seconds=GRACE),
    guard=GuardRules(minimum_workers=3, percent=30, hold_seconds=HOLD, release_percent=10),
)


def at(seconds: float) -> Any:
    return START + timedelta(seconds=seconds)


def seconds(time: Any) -> Any:
    return (time - START).total_seconds()


class Message(msgspec.Struct, eq=False):
    """An event, or a canary when `event` is None. It is `done` once it is committed."""

    number: int
    sent: float
    queue: str
    event: ReportedEvent | None = None
    canary: float | None = None
    """The database's time at which it was sent, after so many steps of its clock:"""
    clock_steps: int = 0
    was_delivered: bool = False
    done: bool = False
    lost_at: float | None = None
    """Time at which the broker dropped it, or lost it by a restart."""
    saw_loss: list[Processor] | None = None
    """Processors whose connection ended with the loss; None when it was dropped."""


class Channel:
    """One processor's reading of one queue, as the broker sees it."""

    def __init__(self, prefetch: Any) -> None:
        self.prefetch = prefetch
        self.open = True
        self.unsettled: list[Message] = []
        self.inbox: deque[tuple[Message, bool]] = deque()
        """Delivered and not read yet, each with whether it was delivered before."""


class Queue:
    """A queue gives its messages to the first of the channels in `line`. What a channel held when
    it ended goes before all that was never delivered: in a classic queue to where it was, in a
    quorum queue behind what was returned before (as RabbitMQ 3.10 and 4.0 do)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.line: list[Channel] = []
        self.returned: list[Message] = []
        self.ready: list[Message] = []

    @property
    def waiting(self) -> Any:
        return self.returned or self.ready

    def end(self, channel: Channel) -> None:
        channel.open = False
        if channel in self.line:
            self.line.remove(channel)
            self.returned += channel.unsettled
            channel.unsettled = []
            if self.name != LIFECYCLE:
                self.returned.sort(key=lambda message: message.number)

    def deliver(self) -> None:
        while self.line and self.waiting and len(self.line[0].unsettled) < self.line[0].prefetch:
            message = self.waiting.pop(0)
            self.line[0].unsettled.append(message)
            self.line[0].inbox.append((message, message.was_delivered))
            message.was_delivered = True


class Broker:
    """`bound` are the queues over which heartbeats are spread. Lifecycle events outlive a stop,
    heartbeats may."""

    def __init__(self) -> None:
        self.up = True
        self.stopped_at = self.dropped_at = float("-inf")
        self.max_length = 10_000
        self.numbers = 0
        self.queues: dict[str, Queue] = {}
        self.bound: list[str] = []
        self.events: list[Message] = []

    @property
    def heartbeat_queues(self) -> list[Any]:
        return [queue for queue in self.queues.values() if queue.name != LIFECYCLE]

    def subscribe(self, name: str, prefetch: Any) -> Any:
        channel = Channel(prefetch)
        self.queues.setdefault(name, Queue(name)).line.append(channel)
        return channel

    def bind(self, name: str) -> None:
        if name not in self.bound:
            self.bound = sorted([*self.bound, name])

    def put_beat(self, key: Any, now: Any, event: Any) -> None:
        if self.bound:
            self.put(self.bound[key % len(self.bound)], now, event)

    def put(
        self, name: str, now: Any, event: Any = None, canary: Any = None, clock_steps: int = 0
    ) -> None:
        queue = self.queues.setdefault(name, Queue(name))
        self.numbers += 1
        message = Message(self.numbers, now, name, event, canary, clock_steps)
        queue.ready.append(message)
        if event is not None:
            self.events.append(message)
        self.drop(now)

    def work(self, now: Any) -> None:
        if self.up:
            self.drop(now)
            for queue in self.queues.values():
                queue.deliver()

    def drop(self, now: Any) -> None:
        """Drop the oldest while a queue is too long, and what has expired. It is dead-lettered."""
        for queue in self.heartbeat_queues:
            while queue.waiting and (
                len(queue.returned) + len(queue.ready) > self.max_length
                or queue.waiting[0].sent < now - BEAT_EXPIRES
            ):
                queue.waiting.pop(0).lost_at = self.dropped_at = now

    def says_dropped(self, now: Any) -> bool:
        """True until the dead letter of the last drop expires: nobody takes it out."""
        return now < self.dropped_at + DROPPED_EXPIRES

    def lose_beats(self, now: Any, saw_loss: Any) -> None:
        self.dropped_at = float("-inf")
        for queue in self.heartbeat_queues:
            for message in queue.returned + queue.ready:
                message.lost_at = now
            queue.returned, queue.ready = [], []
        for message in self.events:
            if message.lost_at is not None:
                message.saw_loss = saw_loss


class Mark(msgspec.Struct):
    """A queue that is registered, and how far it was read."""

    state: str = ACTIVE_QUEUE
    observed_through: float | None = None


class Database:
    """The state that survives everything, and the one clock, which is `ahead` of the true time, and
    was `read_ahead` of it when a processor read it last."""

    def __init__(self) -> None:
        self.up = True
        self.ahead = self.read_ahead = 0.0
        self.clock_steps = self.clock_steps_settled = 0
        self.clock_step = 0.0
        self.stepped_at = float("-inf")
        self.fleet = Rows()
        self.history: list[Any] = []
        self.marks: dict[str, Mark] = {}
        self.processors: dict[int, float] = {}
        """Time of each processor's last report."""
        self.observed_through: float | None = None
        self.advanced_at: float | None = None
        self.resumed_at = self.truly_resumed_at = 0.0
        self.guards: dict[Any, Any] = {}

    def write(self, rows: Rows) -> None:
        """The end of a transaction whose rows were this database's own."""
        self.history += rows.transitions

    def rows(self) -> Any:
        return Rows(
            workers=self.fleet.workers,
            instances=self.fleet.instances,
            instances_of=self.fleet.instances_of,
        )

    def resume(self, now: Any) -> None:
        self.resumed_at, self.truly_resumed_at = now, now - self.ahead

    @property
    def last_read(self) -> Any:
        times = [*self.processors.values()]
        times += [] if self.observed_through is None else [self.observed_through]
        return at(max(times)) if times else None

    def take_step(self, by: Any, now: Any) -> None:
        self.processors = {
            key: min(last_seen + by, now) for key, last_seen in self.processors.items()
        }
        for mark in self.marks.values():
            mark.observed_through = (
                None if mark.observed_through is None else min(mark.observed_through + by, now)
            )
        if self.observed_through is not None:
            self.observed_through = min(self.observed_through + by, now)
            self.advanced_at = now
            self.resume(now)
        self.clock_steps += 1
        self.clock_step, self.stepped_at = by, now

    def settle_step(self, now: Any) -> None:
        """Do what the leader does before it sweeps, and again while transactions of the old time
        may still commit."""
        is_new = self.clock_steps_settled != self.clock_steps
        if not is_new and now >= self.stepped_at + SETTLING_SECONDS:
            return
        self.clock_steps_settled = self.clock_steps
        by = timedelta(seconds=self.clock_step)

        def back(time: Any) -> Any:
            return time if time is None or time <= at(now) else min(time + by, at(now))

        def squeeze(order: Any) -> Any:
            latest, now_us = microseconds(at(now) - by), microseconds(at(now))
            return (
                order
                if order is None or order <= now_us
                else now_us - max(latest - order, 0) // 10_000
            )

        for worker in self.fleet.workers.values():
            worker.status_since = back(worker.status_since)
            if worker.last_heartbeat is not None:
                worker.last_heartbeat = min(worker.last_heartbeat, at(now))
            if is_new and not worker.incarnation and self.clock_step < 0:
                worker.seq, worker.begun_at, worker.ended_at = map(
                    squeeze, (worker.seq, worker.begun_at, worker.ended_at)
                )
        for instance in self.fleet.instances.values():
            instance.status_since, instance.missing_since = (
                back(instance.status_since),
                back(instance.missing_since),
            )

    def choose_queues(self, partitions: Any) -> None:
        """Register these queues, before any is bound. Whatever one was before, nothing is
        proven."""
        chosen = [LIFECYCLE, *(f"beats.{number}" for number in range(partitions))]
        for name, mark in self.marks.items():
            if name not in chosen and mark.state == ACTIVE_QUEUE:
                mark.state = LEAVING
        for name in chosen:
            if name not in self.marks or self.marks[name].state != ACTIVE_QUEUE:
                self.marks[name] = Mark()

    def counts(self, name: str) -> Any:
        return name in self.marks and self.marks[name].state != RETIRED

    def commit_canary(self, name: str, canary: Any, clock_steps: Any, now: Any) -> None:
        mark = self.marks.get(name)
        if mark and clock_steps == self.clock_steps and canary <= now:
            mark.observed_through = max(canary, mark.observed_through or canary)

    @property
    def proven(self) -> tuple[Any, Any]:
        """The least of the watermarks, None where one is missing; and of which time it is."""
        passed = [mark.observed_through for name, mark in self.marks.items() if self.counts(name)]
        known = [time for time in passed if time is not None]
        return min(known) if len(known) == len(passed) else None, self.clock_steps

    def advance(self, proven: Any, now: Any) -> None:
        through, clock_steps = proven
        if through is None or clock_steps != self.clock_steps:
            return
        if self.observed_through is not None and through <= self.observed_through:
            return
        self.observed_through = through
        stood_still = self.advanced_at is None or self.advanced_at < now - STANDSTILL
        if stood_still or through < now - 2 * STANDSTILL:
            self.resume(now)
        self.advanced_at = now


class Processor:
    """Reads the queues that it is given, each in batches. A batch is a transaction that may take
    its time."""

    def __init__(self, processor_id: Any, prefetch: Any) -> None:
        self.processor_id = processor_id
        self.prefetch = prefetch
        self.alive = True
        self.frozen_since: float | None = None
        self.messages_per_tick = 50
        self.transaction_seconds = 0.0
        self.turn = 0
        self.clock = DatabaseClock()
        self.queues: dict[str, str] = {}
        self.channels: dict[str, Channel] = {}
        self.buffers: dict[str, list[tuple[Message, bool, Channel]]] = {}
        self.begun: dict[str, tuple[float, float, int]] = {}
        self.proven: tuple[float | None, int] = None, 0
        self.was_cut_off = False

    @property
    def runs(self) -> Any:
        return self.alive and self.frozen_since is None

    @property
    def is_connected(self) -> Any:
        return all(channel.open for channel in self.channels.values())

    def work(self, broker: Broker, database: Database, now: Any) -> None:
        self.read(broker, database)
        for name in [*self.buffers]:
            self.store(name, database, now)
        if database.up:
            self.report(broker, database, now)
        if broker.up and now % HAND_OVER_EVERY == 0:
            self.hand_over(broker, database)

    def read(self, broker: Broker, database: Database) -> None:
        """Let go of what is not registered any more; bind and subscribe to what is. Neither without
        the database, which alone knows."""
        if database.up:
            self.queues = {name: mark.state for name, mark in database.marks.items()}
            self.channels = {
                name: channel for name, channel in self.channels.items() if name in self.queues
            }
        for name, state in self.queues.items() if broker.up and database.up else ():
            if name not in self.channels or not self.channels[name].open:
                if state == ACTIVE_QUEUE and name != LIFECYCLE:
                    broker.bind(name)
                self.was_cut_off |= name in self.channels
                self.channels[name] = broker.subscribe(name, self.prefetch)
        for name, channel in self.channels.items():
            while channel.inbox:
                self.buffers.setdefault(name, []).append((*channel.inbox.popleft(), channel))

    def given(self, broker: Broker) -> list[Any]:
        return [
            name
            for name, queue in broker.queues.items()
            if self.channels.get(name) in queue.line[:1]
        ]

    def hand_over(self, broker: Broker, database: Database) -> None:
        """Close the channel of one queue too many, settled or not."""
        given = self.given(broker)
        if len(given) > ceil(len(self.queues) / max(len(database.processors), 1)):
            broker.queues[given[0]].end(self.channels.pop(given[0]))

    def report(self, broker: Broker, database: Database, true_now: Any) -> None:
        """The observation follows what was proven at the report before, since the look at what the
        broker dropped comes after that."""
        now = true_now + database.ahead
        says_dropped = broker.says_dropped(true_now) if broker.up else None
        reading = ClockReading(at(now), true_now, true_now)
        if by := self.clock.step_to_take(
            reading, steps=database.clock_steps, last_read=database.last_read
        ):
            database.take_step(by, now)
        self.clock.keep(reading, database.clock_steps)
        database.read_ahead = database.ahead
        database.processors[self.processor_id] = now
        if self.was_cut_off or not self.is_connected or says_dropped:
            database.resume(now)
            self.was_cut_off = False
        if says_dropped is not None:
            database.advance(self.proven, now)
        self.proven = database.proven
        if self.turn % TICKS_PER_CANARY == 0 and broker.up and self.is_connected:
            for name in {LIFECYCLE, *broker.bound} & self.queues.keys():
                broker.put(name, true_now, canary=now, clock_steps=database.clock_steps)
        self.turn += 1

    def store(self, name: str, database: Database, true_now: Any) -> None:
        """Begin a batch, or commit the one that was begun: its time is the one at which it
        began."""
        now = true_now + database.ahead
        buffer = self.buffers.get(name)
        if not buffer:
            return
        if not database.up:
            self.begun.pop(name, None)
            return
        size = min(len(buffer), self.messages_per_tick)
        truly_began, began, size = self.begun.setdefault(name, (true_now, now, size))
        if true_now < truly_began + self.transaction_seconds:
            return
        del self.begun[name]
        batch, self.buffers[name] = buffer[:size], buffer[size:]
        rows = database.rows()
        for place, (message, came_again, _) in enumerate(batch):
            if message.event is not None:
                merge(rows, message.event, Receipt(at(began), microseconds(at(began)) + place))
            elif not came_again:
                database.commit_canary(name, message.canary, message.clock_steps, now)
        database.write(rows)
        for message, _, channel in batch:
            message.done = True
            if message in channel.unsettled:
                channel.unsettled.remove(message)


class Worker:
    """A worker process, and what it truly did: `beats` are the moments at which it was alive and
    reported it."""

    def __init__(
        self, worker_id: int, interval: Any, now: Any, *, counted: Any, clock_off_by: Any
    ) -> None:
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

    def start(
        self, now: Any, *, clock_off_by: Any = None, repeats_incarnation: bool = False
    ) -> None:
        """A new incarnation: the old one's servers are gone without a word. Its clock may have gone
        back, or its counter may begin again in the same one."""
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
        self.outbox = [
            WorkerStarted(
                worker_id=self.worker_id, interval_seconds=self.interval, **self.order(now)
            )
        ]

    def order(self, now: Any) -> Any:
        self.seq += 1
        sent_at = microseconds(at(now + self.clock_off_by)) + self.began_lives
        return (
            {"incarnation": self.began_at, "seq": self.seq, "sent_at": sent_at}
            if self.counted
            else {"sent_at": sent_at}
        )

    def heartbeat(self, now: Any) -> Any:
        """A heartbeat with everything it can say, or with nothing but the worker's id."""
        if not self.counted:
            return Heartbeat(worker_id=self.worker_id)
        servers = inventory(*self.servers)
        return Heartbeat(
            worker_id=self.worker_id,
            interval_seconds=self.interval,
            servers=servers,
            **self.order(now),
        )

    def start_server(self, instance_id: int, now: Any) -> None:
        self.servers.add(instance_id)
        self.outbox.append(
            ServerStarted(instance_id=instance_id, worker_id=self.worker_id, **self.order(now))
        )

    def stop_server(self, instance_id: int, now: Any) -> None:
        self.servers.remove(instance_id)
        self.outbox.append(
            ServerStopped(instance_id=instance_id, worker_id=self.worker_id, **self.order(now))
        )

    def work(self, broker: Broker, now: Any) -> None:
        """Alive it beats in time, whether or not a broker is there to take it."""
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
                broker.put_beat(self.worker_id, now, self.heartbeat(now))

    @property
    def speaks(self) -> Any:
        return self.alive and not self.muted


class World:
    def __init__(self, processors: int = 2, partitions: int = 1) -> None:
        self.now = 0.0
        self.broker = Broker()
        self.database = Database()
        self.workers: dict[int, Worker] = {}
        self.processors: list[Processor] = []
        self.instances = 0
        self.seen = 0
        self.swept_through: float | None = None
        self.swept_steps = 0
        self.status: dict[Any, Any] = {}
        self.passed: dict[str, float] = {}
        self.passed_steps = 0
        for _ in range(processors):
            self.start_processor(partitions)

    def start_processor(self, partitions: int = 1, prefetch: Any = PREFETCH) -> None:
        """Start a processor; the last one decides the number of partitions."""
        processor = Processor(len(self.processors) + 1, prefetch)
        self.processors.append(processor)
        self.database.processors[processor.processor_id] = self.database_now
        self.database.choose_queues(partitions)

    def start_worker(self, interval: Any, *, counted: bool = True, clock_off_by: int = 0) -> Any:
        worker_id = len(self.workers) + 1
        self.workers[worker_id] = Worker(
            worker_id, interval, self.now, counted=counted, clock_off_by=clock_off_by
        )
        return self.workers[worker_id]

    def start_server(self, worker: Worker) -> Any:
        self.instances += 1
        worker.start_server(self.instances, self.now)
        return self.instances

    def stop_worker(self, worker: Worker) -> None:
        worker.outbox.append(WorkerStopped(worker_id=worker.worker_id, **worker.order(self.now)))
        worker.work(self.broker, self.now)
        worker.alive = False

    def disconnect(self, processor: Processor) -> None:
        for name, channel in processor.channels.items():
            if name in self.broker.queues:
                self.broker.queues[name].end(channel)

    def kill(self, processor: Processor) -> None:
        processor.alive = False
        self.disconnect(processor)

    def stop_broker(self, *, keeps_beats: bool = False) -> None:
        connected = [p for p in self.processors if p.alive and p.channels and p.is_connected]
        for processor in self.processors:
            self.disconnect(processor)
        self.broker.up, self.broker.stopped_at = False, self.now
        if not keeps_beats:
            self.broker.lose_beats(self.now, connected)

    def is_ordered_by_receipt(self, worker: Worker) -> Any:
        """It does not count, and its clock is too far from the database's."""
        return not worker.counted and bool(worker.clock_off_by or self.database.clock_steps)

    @property
    def database_now(self) -> Any:
        return self.now + self.database.ahead

    def pass_time(self, duration: Any) -> None:
        until = self.now + duration
        while self.now < until:
            self.now += TICK
            self.tick()

    def tick(self) -> None:
        for worker in self.workers.values():
            worker.work(self.broker, self.now)
        for processor in self.processors:
            if processor.frozen_since is not None and self.now > processor.frozen_since + CUT_AFTER:
                self.disconnect(processor)
        self.broker.work(self.now)
        for processor in self.processors:
            if processor.runs:
                processor.work(self.broker, self.database, self.now)
        if (
            self.database.up
            and self.now % 1 == 0
            and any(processor.runs for processor in self.processors)
        ):
            self.lead()
        self.check_queues()
        self.check_watermarks()
        self.check_losses()
        self.check_transitions()

    def lead(self) -> None:
        reported = self.database.processors.items()
        self.database.processors = {
            key: at for key, at in reported if at >= self.database_now - STALE_AFTER
        }
        if self.broker.up:
            self.keep_queues()
        self.sweep()

    def keep_queues(self) -> None:
        """The leader unbinds what leaves, then retires it, and deletes it when it is empty."""
        for name, mark in [*self.database.marks.items()]:
            if mark.state == LEAVING and name in self.broker.bound:
                self.broker.bound.remove(name)
            elif mark.state == LEAVING:
                mark.state = RETIRED
                self.database.resume(self.database_now)
            elif mark.state == RETIRED and not self.broker.queues[name].waiting:
                for channel in [*self.broker.queues[name].line]:
                    self.broker.queues[name].end(channel)
                del self.database.marks[name], self.broker.queues[name]

    def sweep(self) -> None:
        database = self.database
        if database.observed_through is None:
            return
        database.settle_step(self.database_now)
        rows = database.rows()
        horizon = Horizon(at(database.observed_through), at(database.resumed_at))
        database.guards = sweep(
            rows, database.guards, horizon, at=at(self.database_now), rules=RULES
        )
        database.write(rows)
        self.swept_through, self.swept_steps = database.observed_through, database.clock_steps

    def check_queues(self) -> None:
        """Check what the argument rests on: no two processors hold messages of one queue, and what
        is gone was committed or dropped."""
        held = {
            id(m)
            for p in self.processors
            for c in p.channels.values()
            if c.open
            for m in c.unsettled
        }
        for name, queue in self.broker.queues.items():
            holders = [
                c for p in self.processors if (c := p.channels.get(name)) and c.open and c.unsettled
            ]
            assert len(holders) <= 1, f"{self.now}: {name}"
            held |= {id(message) for message in [*queue.returned, *queue.ready]}
        self.broker.events = [message for message in self.broker.events if not message.done]
        for message in self.broker.events:
            deleted = message.queue not in self.broker.queues
            assert deleted or message.lost_at is not None or id(message) in held, (
                f"{self.now}: {message} is gone"
            )

    def check_watermarks(self) -> None:
        """They never go back, and all that was put on a queue before its watermark is in the rows.
        After a step of the clock that nobody could measure a watermark may claim more, but not
        beyond the beginning of the grace."""
        database = self.database
        passed = {
            name: mark.observed_through
            for name, mark in database.marks.items()
            if mark.observed_through
        }
        if self.passed_steps == database.clock_steps:
            for name, through in passed.items():
                came_anew = database.marks[
                    name
                ].state == ACTIVE_QUEUE and through < self.passed.get(name, through)
                assert not came_anew or name not in self.passed, f"{self.now}: {name} went back"
        self.passed, self.passed_steps = passed, database.clock_steps
        for message in self.broker.events:
            mark = passed.get(message.queue)
            if message.lost_at is None and mark is not None and mark > database.stepped_at:
                sent = message.sent + database.read_ahead
                assert sent >= mark, f"{self.database_now}: passed {message} at {mark}"

    def check_losses(self) -> None:
        """Check losses: a message that the broker lost may have been a sign of life, and so may
        what lies in a queue that does not count: once its time is observed, a grace has begun
        since. Nobody can know of a loss when all who were connected died."""
        through = self.truly_observed_through
        for message in self.broker.events:
            if message.queue == LIFECYCLE or through is None or message.sent >= through:
                continue
            counts = self.database.counts(message.queue)
            if not counts or message.lost_at is not None:
                known = message.saw_loss is None or any(
                    processor.runs for processor in message.saw_loss
                )
                since = message.sent if message.lost_at is None or not counts else message.lost_at
                resumed = self.database.truly_resumed_at >= since
                assert resumed or not known, f"{self.now}: {message} was lost in silence"
                message.done |= message.lost_at is not None

    def check_transitions(self) -> None:
        """Each transition leaves from where the one before led, and says nothing that is not so."""
        for transition in self.database.history[self.seen :]:
            key = transition.entity, transition.entity_id
            assert transition.old_status == self.status.get(key), transition
            assert transition.old_status != transition.new_status, transition
            self.status[key] = transition.new_status
            if transition.new_status is StatusType.LOST:
                assert transition.old_status in ACTIVE, transition
            self.check_conclusion(transition)
        self.seen = len(self.database.history)

    @property
    def truly_observed_through(self) -> Any:
        through = self.database.observed_through
        return None if through is None else through - self.database.read_ahead

    def is_falsely_lost(self, worker: Worker) -> Any:
        """It said that it lived within the timeout that was observed. Of one who is dead by now,
        what the broker lost, or what it said while it was not connected again, is no proof; nor is
        the first beat of a life that counts lower than the one before, which may be a late copy.
        (The end asserts that such a life is not LOST for good.)"""
        if worker.went_back:
            return False
        through = self.truly_observed_through
        earliest = through - worker.timeout
        seen = worker.speaks or max(self.broker.stopped_at, worker.reconnects_at) < earliest
        return seen and any(earliest <= beat <= through for beat in worker.beats)

    def check_conclusion(self, transition: Any) -> None:
        through = self.truly_observed_through
        if transition.entity is Entity.WORKER:
            worker = self.workers[transition.entity_id]
            if transition.reason is Reason.HEARTBEAT_EXPIRED:
                assert not self.is_falsely_lost(worker), f"{self.now}: {transition}"
            return
        worker_id = self.database.fleet.instances[transition.entity_id].worker_id
        assert worker_id is not None
        worker = self.workers[worker_id]
        listed = transition.entity_id in worker.servers
        match transition.reason:
            case Reason.WORKER_LOST:
                assert not (listed and self.is_falsely_lost(worker)), transition
            case Reason.MISSING_FROM_INVENTORY | Reason.SUPERSEDED:
                # A life that counts lower and ended before it was taken for one may be listed by
                # nobody but itself.
                assert not listed or (worker.went_back and not worker.alive), transition
                assert worker.stopped_servers.get(transition.entity_id, through) >= through, (
                    transition
                )
            case _:
                pass
