"""What the processors count, from their rows: they have no port that could be asked.

Their counters begin at 0 with each start and vanish with their row, as those of a process that is
scraped: `rate` knows that. The number of all transitions ever is the fleet's, and never goes back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from prometheus_client import Metric

    from manman_status.api.responses import Histogram, Processor

PREFIX = "manman_status_processor"


def processor_families(processors: Sequence[Processor]) -> Iterator[Metric]:
    """`processors` are those that reported lately."""
    yield GaugeMetricFamily(
        "manman_status_processors", "Processors that report.", value=len(processors)
    )
    named = list(zip(_names(processors), processors, strict=True))
    yield from _lives(named)
    yield from _counters(named)
    yield _histogram(
        f"{PREFIX}_batch_events",
        "Events that were stored in one transaction; 0 when it was for a canary alone.",
        [(name, processor.batch_events) for name, processor in named],
    )
    yield _histogram(
        f"{PREFIX}_batch_duration_seconds",
        "What a batch took to be committed.",
        [(name, processor.batch_seconds) for name, processor in named],
    )
    yield from _shared(
        sorted(processors, key=lambda each: (each.relay_backlog is not None, each.last_seen))
    )


def _names(processors: Sequence[Processor]) -> list[str]:
    """The host, which a restart leaves as it is; of those that share one, the id, which is another
    at each start.

    Where a name goes over to another processor, that one began since the name was last seen: `rate`
    may take its count for a jump, but it is no more than what it has done meanwhile.
    """
    hosts = Counter(processor.host for processor in processors)
    return [
        processor.host if hosts[processor.host] == 1 else processor.processor_id
        for processor in processors
    ]


Named = Sequence[tuple[str, "Processor"]]


def _lives(named: Named) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        f"{PREFIX}_info", "Always 1, with the version.", labels=["processor", "version"]
    )
    started = GaugeMetricFamily(
        f"{PREFIX}_start_time_seconds", "When it started, since the epoch.", labels=["processor"]
    )
    reported = GaugeMetricFamily(
        f"{PREFIX}_last_report_time_seconds",
        "When it last reported, since the epoch.",
        labels=["processor"],
    )
    for name, processor in named:
        info.add_metric([name, processor.version], 1)
        started.add_metric([name], processor.started_at.timestamp())
        reported.add_metric([name], processor.last_seen.timestamp())
    yield from (info, started, reported)


def _counters(named: Named) -> Iterator[Metric]:
    events = CounterMetricFamily(
        f"{PREFIX}_events",
        "Events by kind and what became of them.",
        labels=["processor", "kind", "outcome"],
    )
    transitions = CounterMetricFamily(
        f"{PREFIX}_transitions",
        "Changes of a status that it wrote, by the new one and why.",
        labels=["processor", "entity", "status", "reason"],
    )
    new_ids = CounterMetricFamily(
        f"{PREFIX}_new_ids",
        "Workers and server instances that nothing was known of before.",
        labels=["processor", "entity"],
    )
    redeliveries = CounterMetricFamily(
        f"{PREFIX}_redeliveries", "Messages that the broker gave out again.", labels=["processor"]
    )
    miscounts = CounterMetricFamily(
        f"{PREFIX}_miscounts",
        "Counts of the fleet that differed from its rows, and were counted anew.",
        labels=["processor"],
    )
    notifications = CounterMetricFamily(
        f"{PREFIX}_notifications",
        "Messages about alerts, by where to.",
        labels=["processor", "channel", "outcome"],
    )
    for name, processor in named:
        for kind, outcomes in processor.events.items():
            for outcome, number in outcomes.items():
                events.add_metric([name, kind, outcome], number)
        for entity, statuses in processor.transitions_by.items():
            for status, reasons in statuses.items():
                for reason, number in reasons.items():
                    transitions.add_metric([name, entity, status, reason], number)
        for entity, number in processor.new_ids.items():
            new_ids.add_metric([name, entity], number)
        redeliveries.add_metric([name], processor.redelivered)
        miscounts.add_metric([name], processor.miscounts)
        for channel, outcomes in processor.notifications.items():
            for outcome, number in outcomes.items():
                notifications.add_metric([name, channel, outcome], number)
    yield from (events, transitions, new_ids, redeliveries, miscounts, notifications)


def _histogram(name: str, meaning: str, of_each: Sequence[tuple[str, Histogram | None]]) -> Metric:
    family = HistogramMetricFamily(name, meaning, labels=["processor"])
    for processor, histogram in of_each:
        if histogram is not None:
            bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
            buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
            family.add_metric([processor], buckets, histogram.sum)
    return family


def _shared(processors: Sequence[Processor]) -> Iterator[Metric]:
    """What any of them can tell of the broker, and the leader of its work. The last is believed,
    which is the leader: of what they counted at different moments now one and now another would be
    the newest."""
    queues = GaugeMetricFamily(
        "manman_status_queue_messages", "Messages that wait in a queue.", labels=["queue"]
    )
    depths: dict[str, int] = {}
    for processor in processors:
        depths |= processor.queue_depths
    for queue, depth in sorted(depths.items()):
        queues.add_metric([queue], depth)
    yield queues
    for name, meaning, values in (
        (
            "manman_status_dead_letter_messages",
            "Messages that nobody understood, and that wait in the dead-letter queue.",
            [processor.dead_letters_waiting for processor in processors],
        ),
        (
            "manman_status_dead_letters_unsent",
            (
                "Dead letters that are safe in the database and that the dead-letter queue has not"
                " taken yet."
            ),
            [processor.dead_letters_unsent for processor in processors],
        ),
        (
            "manman_status_relay_backlog_messages",
            "Changes of a status that are not yet published.",
            [processor.relay_backlog for processor in processors],
        ),
        (
            "manman_status_sweep_duration_seconds",
            "What the last look for silent workers took.",
            [
                None if processor.sweep_ms is None else processor.sweep_ms / 1000
                for processor in processors
            ],
        ),
    ):
        known = [value for value in values if value is not None]
        if known:
            yield GaugeMetricFamily(name, meaning, value=known[-1])
