"""The difference between two looks at ManMan's database, as events.

A worker beats when its `last_heartbeat` has changed. The first look can only be remembered: no
clock says how old its times are. Each worker's events carry its whole inventory, so a report that
was lost is made good by the next beat; ends are reported from what is known to have been there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from itertools import groupby

from manman_status.bridge.manman import Look
from manman_status.reporter.messages import Incarnation, Report
from manman_status.wire.messages import RunningServer
from manman_status.wire.topology import worker_heartbeat_key

BEATS_EVERY_SECONDS = 2.0
"""The interval at which ManMan's workers beat."""
HOST_LABEL = "host"
WORKERS_IN_ARRAY = 100
"""Ids of so many workers share a message, and a routing key: so each of them keeps its queue."""


def life(worker_id: int, *, host: str, at: datetime) -> Incarnation:
    """Return the life of a worker, for reports of a look that began at this time: ManMan gives each
    life an id of its own, so it needs no number."""
    return Incarnation(
        worker_id,
        number=None,
        interval_seconds=BEATS_EVERY_SECONDS,
        labels={HOST_LABEL: host},
        clock=lambda: at,
    )


def heartbeats(before: Look, now: Look, *, host: str, at: datetime, arrays: bool) -> list[Report]:
    """Report the workers that have beaten between two looks. `at` is the time of the second."""
    servers: defaultdict[int, list[RunningServer]] = defaultdict(list)
    for instance in now.instances:
        servers[instance.worker_id].append(
            RunningServer(instance.instance_id, instance.game_server_config_id)
        )
    beats = [
        (worker_id, life(worker_id, host=host, at=at).heartbeat(servers[worker_id]))
        for worker_id, beaten_at in sorted(now.workers.items())
        if beaten_at is not None
        and worker_id in before.workers
        and beaten_at != before.workers[worker_id]
    ]
    if not arrays:
        return [beat for _, beat in beats]
    return [
        Report(
            worker_heartbeat_key(place * WORKERS_IN_ARRAY),
            b"[" + b",".join(beat.body for _, beat in of_key) + b"]",
            durable=False,
        )
        for place, of_key in groupby(beats, lambda beat: beat[0] // WORKERS_IN_ARRAY)
    ]


def ends_and_beginnings(before: Look, now: Look, *, host: str, at: datetime) -> Iterator[Report]:
    """Report the lives that began and ended between two looks. Nothing that is in the first look
    and not in the second lives any more."""
    for worker_id in sorted(now.workers.keys() - before.workers.keys()):
        yield life(worker_id, host=host, at=at).worker_started()
    still = {instance.instance_id for instance in now.instances}
    for instance in before.instances:
        if instance.instance_id not in still and instance.worker_id in now.workers:
            of_worker = life(instance.worker_id, host=host, at=at)
            yield of_worker.server_stopped(instance.instance_id)
    for worker_id in sorted(before.workers.keys() - now.workers.keys()):
        yield life(worker_id, host=host, at=at).worker_stopped()
