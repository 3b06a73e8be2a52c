"""The command that simulates a fleet of workers."""

from __future__ import annotations

import asyncio
import math
import time
from datetime import UTC, datetime, timedelta
from typing import Annotated, TypeAlias

from cyclopts import Parameter
from cyclopts.validators import Number

from manman_status.cli.flags import RabbitmqUrl
from manman_status.cli.ordered_faults import KillGroups, Kills, Pauses, Seconds
from manman_status.cli.simulation import live, live_verified
from manman_status.lab.simulator.delivery import Delivery
from manman_status.lab.simulator.fleet import Fleet, FleetPlan
from manman_status.settings import load_settings

Chance: TypeAlias = Annotated[float, Parameter(validator=Number(gte=0, lte=1))]
Switch: TypeAlias = Annotated[bool, Parameter(negative="", show_default=False)]


def simulate(
    *,
    workers: Annotated[int, Parameter(validator=Number(gte=1, lte=100_000))] = 10,
    first_worker: Annotated[int, Parameter(validator=Number(gte=1, lte=1_000_000))] = 1_001,
    servers: Annotated[int, Parameter(validator=Number(gte=0, lte=1_000))] = 3,
    interval: Annotated[float, Parameter(validator=Number(gte=1, lte=3_600))] = 10.0,
    churn: Chance = 0.01,
    crash: Chance = 0.001,
    kill: Kills = (),
    kill_group: KillGroups = (),
    pause: Pauses = (),
    duplicate: Switch = False,
    reorder: Switch = False,
    clock_skew: Seconds = 0.0,
    seed: int | None = None,
    duration: Annotated[timedelta | None, Parameter(name="--for")] = None,
    verify: Annotated[str | bool, Parameter(negative="", show_default=False)] = False,
    rabbitmq_url: RabbitmqUrl = None,
) -> None:
    """Send the events of a whole fleet until Ctrl-C or the end of its time, then stop every worker
    gracefully.

    Parameters
    ----------
    workers
        How many workers.
    first_worker
        The first one's id; the others' follow. A worker that is already there would be taken over,
        and stopped in the end: `dev` has its fleet from 1 on.
    servers
        Server instances of each worker.
    interval
        Seconds between two heartbeats of a worker.
    churn
        Chance at each beat, for each server instance, that it stops and another starts.
    crash
        Chance at each beat that the worker goes silent, to come back some beats later.
    kill
        COUNT@TIME: so many workers die for good, as 3@30s. May be repeated, like the next two.
    kill_group
        GROUP@SHARE@TIME: so much of a group dies, as eu-1@40%@60s.
    pause
        COUNT@TIME:DURATION: so many workers freeze and go on afterwards, as 5@30s:20s.
    duplicate
        Send each message twice, half of the copies up to 3 s later.
    reorder
        Hold messages back for up to a fifth of the interval, at most 2 s, so that they overtake
        each other.
    clock_skew
        Each worker's own clock is off by up to so much, either way: 90s, 5m, 1h.
    seed
        Makes the same things happen again.
    duration
        How long: 90s, 5m, 1h.
    verify
        Hold what the api says against what is true, and exit 1 when anything is wrong. With the
        api's URL, else that of MANMAN_STATUS_URL, which also says the thresholds.
    """
    url = verify if isinstance(verify, str) else None
    settings = load_settings(needs=("rabbitmq_url",), rabbitmq_url=rabbitmq_url, url=url)
    plan = FleetPlan(
        workers=workers,
        first_worker=first_worker,
        servers=servers,
        interval_seconds=interval,
        churn=churn,
        crash=crash,
        clock_skew_seconds=clock_skew,
        faults=(*kill, *kill_group, *pause),
        seed=time.time_ns() if seed is None else seed,
    )
    delivery = Delivery(
        duplicate=duplicate, reorder=reorder, interval_seconds=interval, seed=plan.seed
    )
    ids = f"{first_worker} to {first_worker + workers - 1}"
    print(
        f"workers {ids} with {servers} servers each, a beat every {interval:g} s; Ctrl-C stops"
        " them",
        flush=True,
    )
    seconds = duration.total_seconds() if duration else math.inf
    fleet = Fleet(plan, begun=datetime.now(UTC))
    asyncio.run((live_verified if verify else live)(fleet, delivery, settings, seconds=seconds))
