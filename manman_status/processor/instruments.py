"""The processor's numbers as OpenTelemetry's instruments. They are read by its threads, whenever it
exports."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

from manman_status.processor.statistics import Statistics


class Numbers:
    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics

    def events(self) -> Iterator[Observation]:
        for kind, outcomes in self._statistics.as_row()["events"].items():
            for outcome, number in outcomes.items():
                yield Observation(number, {"kind": kind, "outcome": outcome})

    def transitions(self) -> Iterator[Observation]:
        for entity, statuses in self._statistics.as_row()["transitions_by"].items():
            for status, reasons in statuses.items():
                for reason, number in reasons.items():
                    yield Observation(
                        number, {"entity": entity, "status": status, "reason": reason}
                    )

    def batches(self) -> Iterator[Observation]:
        yield Observation(self._statistics.batches)

    def batch_seconds(self) -> Iterator[Observation]:
        yield Observation(self._statistics.as_row()["batch_seconds"]["sum"])

    def lag_seconds(self) -> Iterator[Observation]:
        for queue, observed_through in self._statistics.watermarks.items():
            if observed_through:
                age = datetime.now(UTC) - observed_through
                yield Observation(max(0.0, age.total_seconds()), {"queue": queue})

    def depths(self) -> Iterator[Observation]:
        for queue, depth in self._statistics.queue_depths.items():
            yield Observation(depth, {"queue": queue})

    def backlog(self) -> Iterator[Observation]:
        if self._statistics.relay_backlog is not None:
            yield Observation(self._statistics.relay_backlog)


Read = Callable[[Numbers], Iterable[Observation]]

COUNTERS: tuple[tuple[str, str, Read, str], ...] = (
    ("events", "{event}", Numbers.events, "Events, by what became of them."),
    ("transitions", "{transition}", Numbers.transitions, "Changes of a status."),
    ("batches", "{batch}", Numbers.batches, "Committed batches."),
    ("batch.duration", "s", Numbers.batch_seconds, "Time that committed batches took in all."),
)
GAUGES: tuple[tuple[str, str, Read, str], ...] = (
    ("lag", "s", Numbers.lag_seconds, "Age of a queue's watermark, by this host's clock."),
    ("queue.depth", "{message}", Numbers.depths, "Messages that wait in a queue."),
    (
        "relay.backlog",
        "{transition}",
        Numbers.backlog,
        "Of a leader: changes that are not published yet.",
    ),
)


def observe(meter_provider: MeterProvider, statistics: Statistics) -> None:
    meter = meter_provider.get_meter("manman_status")
    numbers = Numbers(statistics)
    for name, unit, read, description in COUNTERS:
        meter.create_observable_counter(
            f"manman_status.{name}", [_callback(read, numbers)], unit, description
        )
    for name, unit, read, description in GAUGES:
        meter.create_observable_gauge(
            f"manman_status.{name}", [_callback(read, numbers)], unit, description
        )


def _callback(read: Read, numbers: Numbers) -> Callable[[CallbackOptions], Iterable[Observation]]:
    return lambda _: read(numbers)
