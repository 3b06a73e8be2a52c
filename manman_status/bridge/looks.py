"""The difference between two looks at ManMan's database, as events.

A worker beats when its `last_heartbeat` has changed. The first look can only be remembered: no
clock says how old its times are. Each worker's events carry its whole inventory, so a report that
was lost is made good by the next beat; ends are reported from what is known to have been there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import groupby

import msgspec
from msgspec import UNSET

from manman_status.bridge.manman import Instance, Look
from manman_status.reporter.messages import Report
from manman_status.wire.messages import (
    AnyCommand,
    Heartbeat,
    RunningServer,
    ServerStopped,
    WorkerStarted,
    WorkerStopped,
)
from manman_status.wire.topology import (
    instance_lifecycle_key,
    worker_heartbeat_key,
    worker_lifecycle_key,
)

BEATS_EVERY_SECONDS = 2.0
"""The interval at which ManMan's workers beat."""
HOST_LABEL = "host"
WORKERS_IN_ARRAY = 100
"""Ids of so many workers share a message, and a routing key: so each of them keeps its queue."""


def heartbeats(before: Look, now: Look, *, host: str, at: datetime, arrays: bool) -> list[Report]:
    """Report the workers that have beaten between two looks. `at` is the time of the second."""
    servers: defaultdict[int, list[RunningServer]] = defaultdict(list)
    for instance in now.instances:
        servers[instance.worker_id].append(
            RunningServer(instance.instance_id, instance.game_server_config_id)
        )
    beats = [
        (worker_id, _beat(Heartbeat, worker_id, host, at, servers[worker_id]))
        for worker_id, beaten_at in sorted(now.workers.items())
        if beaten_at is not None
        and worker_id in before.workers
        and beaten_at != before.workers[worker_id]
    ]
    size = WORKERS_IN_ARRAY if arrays else 1
    return [
        Report(
            worker_heartbeat_key(place * size),
            msgspec.json.encode([beat for _, beat in of_key] if arrays else next(of_key)[1]),
            durable=False,
        )
        for place, of_key in groupby(beats, lambda beat: beat[0] // size)
    ]


def ends_and_beginnings(before: Look, now: Look, *, host: str, at: datetime) -> Iterator[Report]:
    """Report the lives that began and ended between two looks. Nothing that is in the first look
    and not in the second lives any more."""
    for worker_id in sorted(now.workers.keys() - before.workers.keys()):
        yield _worker(worker_id, _beat(WorkerStarted, worker_id, host, at, None))
    still = {instance.instance_id for instance in now.instances}
    for instance in before.instances:
        if instance.instance_id not in still and instance.worker_id in now.workers:
            yield _ended(instance, at)
    for worker_id in sorted(before.workers.keys() - now.workers.keys()):
        yield stopped(worker_id, at)


def stopped(worker_id: int, at: datetime) -> Report:
    """Report that ManMan has ended a worker."""
    return _worker(worker_id, WorkerStopped([str(worker_id)], sent_at=at))


def _ended(instance: Instance, at: datetime) -> Report:
    arguments = [str(instance.instance_id), str(instance.worker_id)]
    return Report(
        instance_lifecycle_key(instance.instance_id),
        msgspec.json.encode(ServerStopped(arguments, sent_at=at)),
        durable=True,
    )


def _worker(worker_id: int, command: AnyCommand) -> Report:
    return Report(worker_lifecycle_key(worker_id), msgspec.json.encode(command), durable=True)


def _beat(
    command: type[Heartbeat],
    worker_id: int,
    host: str,
    at: datetime,
    servers: Iterable[RunningServer] | None,
) -> Heartbeat:
    return command(
        [str(worker_id)],
        sent_at=at,
        interval_seconds=BEATS_EVERY_SECONDS,
        labels={HOST_LABEL: host},
        servers=UNSET if servers is None else msgspec.Raw(msgspec.json.encode([*servers])),
    )
