"""One worker's life before anything is sent: its servers, and the events that are not confirmed
yet."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from itertools import count, islice

import msgspec

from manman_status.domain.events import ReportedEvent, ServerStarted, ServerStopped
from manman_status.domain.labels import DRAIN
from manman_status.domain.liveness import INTERVAL_BOUNDS_SECONDS
from manman_status.errors import ManManStatusError
from manman_status.reporter.messages import Incarnation, Report, microseconds_now
from manman_status.reporter.tracing import trace_headers
from manman_status.wire.inbound import LEFT_OUT, decode
from manman_status.wire.messages import RunningServer


class InvalidReport(ManManStatusError, ValueError):  # noqa: N818
    """worker {worker_id}: {what} cannot be reported: {reason}"""


class Outbox:
    """Reports that must arrive, oldest first, from when they are made until the broker has
    confirmed them.

    More than `size` push out the oldest. (That one may be on its way just then, and arrive all the
    same.)
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._numbers = count()
        self._reports: deque[tuple[int, Report]] = deque()
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._reports)

    def put(self, report: Report) -> None:
        self._reports.append((next(self._numbers), report))
        if len(self._reports) > self._size:
            self._reports.popleft()
            self.dropped += 1

    def oldest(self, most: int) -> list[tuple[int, Report]]:
        return list(islice(self._reports, most))

    def confirm(self, through: int) -> None:
        """Drop that number and all before it."""
        while self._reports and self._reports[0][0] <= through:
            self._reports.popleft()


class WorkerLife:
    """A life of a worker, safe to use from several threads: an event's number, its place in the
    outbox and the inventory change together.

    Whatever the processor would refuse is refused here, with InvalidReport: once sent it would only
    be a dead letter, and a worker whose heartbeats are dead letters is silent.
    """

    def __init__(
        self,
        worker_id: int,
        *,
        interval_seconds: float,
        labels: dict[str, str] | None,
        heartbeats: bool,
        inventory: bool,
        outbox_size: int,
    ) -> None:
        lowest, highest = INTERVAL_BOUNDS_SECONDS
        if not lowest <= interval_seconds <= highest:
            reason = f"an interval is {lowest:g} to {highest:g} seconds"
            raise InvalidReport(worker_id=worker_id, what="a heartbeat", reason=reason)
        self.worker_id = worker_id
        self.beats = heartbeats
        # Beside another reporter of the same worker the life is that one's: another supersedes it.
        self.incarnation = microseconds_now() if heartbeats else None
        self._events = Incarnation(
            worker_id,
            number=self.incarnation,
            interval_seconds=interval_seconds,
            labels=dict(labels or {}),
        )
        self._servers: dict[int, RunningServer] | None = {} if inventory else None
        self._outbox = Outbox(outbox_size)
        self._lock = threading.Lock()
        self._understood(self._events.heartbeat(), "a heartbeat")

    def forget_the_lock(self) -> None:
        """Make a new lock, in a forked child: the thread that held the old one may not exist
        there."""
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        return len(self._outbox)

    @property
    def dropped(self) -> int:
        return self._outbox.dropped

    def heartbeat(self) -> Report:
        with self._lock:
            return self._events.heartbeat(None if self._servers is None else self._servers.values())

    def drain(self) -> None:
        with self._lock:
            self._events.set_label(DRAIN, "true")

    def begin(self) -> None:
        if self.beats:
            self._put("its start", self._events.worker_started)

    def end(self) -> None:
        if self.beats:
            self._put("its end", self._events.worker_stopped)

    def start_server(self, instance_id: int, game_server_config_id: int | None) -> None:
        self._put(
            f"the start of server instance {instance_id!r}",
            lambda: self._events.server_started(
                instance_id, game_server_config_id=game_server_config_id
            ),
        )

    def stop_server(self, instance_id: int, exit_code: int | None) -> None:
        self._put(
            f"the end of server instance {instance_id!r}",
            lambda: self._events.server_stopped(instance_id, exit_code=exit_code),
        )

    def oldest(self, most: int) -> list[tuple[int, Report]]:
        """Return numbered reports that are not confirmed, at most so many."""
        with self._lock:
            return self._outbox.oldest(most)

    def confirm(self, through: int) -> None:
        with self._lock:
            self._outbox.confirm(through)

    def _put(self, what: str, build: Callable[[], Report]) -> None:
        with self._lock:
            report = build()
            event = self._understood(report, what)
            if self._servers is not None:
                if isinstance(event, ServerStarted):
                    server = RunningServer(event.instance_id, event.game_server_config_id)
                    self._servers[event.instance_id] = server
                elif isinstance(event, ServerStopped):
                    self._servers.pop(event.instance_id, None)
            # The headers of this moment: another task sends it, when the broker is available.
            self._outbox.put(msgspec.structs.replace(report, headers=trace_headers()))

    def _understood(self, report: Report, what: str) -> ReportedEvent:
        understood = decode(report.body)
        if understood.poison:
            reason = understood.poison[0].reason.removesuffix(
                LEFT_OUT
            )  # a reporter sends all or nothing
            raise InvalidReport(worker_id=self.worker_id, what=what, reason=reason)
        return understood.events[0]
