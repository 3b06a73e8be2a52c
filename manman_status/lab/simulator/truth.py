"""The true state of the workers, derived from what was sent and when. Times are seconds since the
fleet began.

A sign of life counts when a worker tried to send it: an unavailable broker makes nobody silent.
What the service must know of it counts from when the broker confirmed it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from manman_status.domain.status import StatusType
from manman_status.lab.simulator.messages import SIGNS_OF_LIFE, Message, Said

LONG_SILENCE_TIMEOUTS = 0.7
"""Silences from this share of the timeout on are kept. A shorter one cannot explain a LOST, and one
that is nearly long enough helps to explain a false one."""


class SilentSpan(msgspec.Struct):
    """The time between two signs of life of a worker, or since its last one."""

    begun: float
    ended: float = math.inf

    @property
    def seconds(self) -> float:
        return self.ended - self.begun


class WorkerTruth(msgspec.Struct):
    """The truth about a worker.

    `received_since` is when the broker confirmed the first sign of life of its current life, or
    the first after its last long silence. `listing_since` is the same for a heartbeat, which lists
    its servers.
    """

    worker_id: int
    group: str
    life: int = 0
    number: int = 0
    last_sign: float | None = None
    received_since: float | None = None
    listing_since: float | None = None
    silent_spans: list[SilentSpan] = []
    is_ending: bool = False
    ended_at: float | None = None
    fresh_from: int = 0
    """The number of the first message since the last long silence."""

    def silent_since(self) -> float:
        return -math.inf if self.last_sign is None else self.last_sign

    def all_silent_spans(self) -> list[SilentSpan]:
        """The long silences, and the one that may be going on."""
        return [*self.silent_spans, SilentSpan(self.silent_since())]


class ServerTruth(msgspec.Struct):
    """The last report about an instance. `since` is when the broker confirmed it, None while it is
    on its way. An instance whose worker is in a later life is an orphan: nobody reports it any
    more."""

    instance_id: int
    worker_id: int
    life: int
    status: StatusType
    since: float | None = None


class Truth:
    def __init__(self, workers: Iterable[tuple[int, str]], *, timeout_seconds: float) -> None:
        self.workers = {worker_id: WorkerTruth(worker_id, group) for worker_id, group in workers}
        self.servers: dict[int, ServerTruth] = {}
        self._long_seconds = LONG_SILENCE_TIMEOUTS * timeout_seconds

    def said(self, messages: Iterable[Message]) -> None:
        """Record that workers reported this, and that it is on its way."""
        for message in messages:
            match message.said:
                case Said.SERVER_BEGUN:
                    self.servers[message.instance_id] = ServerTruth(
                        message.instance_id, message.worker_id, message.life, StatusType.RUNNING
                    )
                case Said.SERVER_ENDED:
                    server = self.servers[message.instance_id]
                    server.status = StatusType.CRASHED if message.exit_code else StatusType.COMPLETE
                    server.since = None
                case Said.ENDED:
                    self.workers[message.worker_id].is_ending = True
                case Said.BEGUN | Said.BEAT:
                    pass

    def tried(self, message: Message, at: float) -> None:
        """Record that a message is being sent. A message that later ones have overtaken changes
        nothing."""
        worker = self.workers[message.worker_id]
        if message.said not in SIGNS_OF_LIFE or message.number <= worker.number:
            return
        silent = (
            at - worker.silent_since() >= self._long_seconds
        )  # also before its first sign: nobody knew it
        if silent:
            worker.silent_spans.append(SilentSpan(worker.silent_since(), at))
        if silent or message.life > worker.life:
            worker.received_since = worker.listing_since = None
            worker.fresh_from = message.number
        worker.life, worker.number, worker.last_sign = message.life, message.number, at

    def stored(self, message: Message, at: float) -> None:
        """Record that the broker confirmed a message."""
        match message.said:
            case Said.BEGUN | Said.BEAT:
                self._received(message, at)
            case Said.SERVER_BEGUN | Said.SERVER_ENDED:
                server = self.servers[message.instance_id]
                is_newest = (message.said is Said.SERVER_BEGUN) == (
                    server.status is StatusType.RUNNING
                )
                if is_newest and server.since is None:
                    server.since = at
            case Said.ENDED:
                worker = self.workers[message.worker_id]
                worker.ended_at = at if worker.ended_at is None else worker.ended_at

    def _received(self, message: Message, at: float) -> None:
        worker = self.workers[message.worker_id]
        if message.number < worker.fresh_from:
            return
        if worker.received_since is None:
            worker.received_since = at
        if worker.listing_since is None and message.said is Said.BEAT:
            worker.listing_since = at
