"""The fleet on a terminal: what the api answers, as tables or as JSON."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeAlias

from cyclopts import Parameter
from cyclopts.validators import Number

from manman_status.cli.client import Client
from manman_status.cli.flags import setting
from manman_status.cli.tables import print_table
from manman_status.domain.fleet import ObservationState, unwatched_text
from manman_status.domain.status import Health, StatusType
from manman_status.errors import SettingsError
from manman_status.settings import load_settings
from manman_status.wire.reasons import printable

LARGEST_ID = 2**63 - 1
AGO = re.compile(r"([1-9][0-9]*)([mhd])")
AGO_UNITS = {"m": "minutes", "h": "hours", "d": "days"}

Id: TypeAlias = Annotated[int, Parameter(validator=Number(gte=1, lte=LARGEST_ID))]
Limit: TypeAlias = Annotated[
    int | None,
    Parameter(validator=Number(gte=1), help="How many at most; all of them when not given."),
]
AsJson: TypeAlias = Annotated[bool, Parameter(name="--json", negative="", help="As JSON.")]
Time: TypeAlias = Annotated[
    str | None, Parameter(help="A time, as 2026-11-23T08:00:00Z, or how long ago: 90m, 24h or 30d.")
]
Url: TypeAlias = Annotated[str | None, setting("url", "the api to ask")]


def workers(
    *,
    health: Health | None = None,
    status: StatusType | None = None,
    group: Annotated[str | None, Parameter(help="The label `group`.")] = None,
    label: Annotated[
        list[str] | None, Parameter(negative="", help="key:value; all that are given must hold.")
    ] = None,
    at: Time = None,
    limit: Limit = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """List workers and their health, by id."""
    query = {
        "health": health,
        "status": status,
        "group": group,
        "label": label,
        "at": time_given(at),
    }
    found = list(client(url).items("/status/workers", query, limit=limit))
    if as_json:
        print_json(found)
        return
    print_table(
        (
            "worker",
            "health",
            "status",
            "reason",
            "since" if at else "last beat",
            "servers",
            "labels",
        ),
        (
            (
                worker["worker_id"],
                worker["health"],
                worker["status"],
                worker["reason"],
                (
                    since(worker["status_since"])
                    if at
                    else ago(worker["last_heartbeat"], worker["as_of"])
                ),
                worker["active_servers"],
                labels(worker),
            )
            for worker in found
        ),
    )
    print(f"{len(found)} shown")


def worker(
    worker_id: Annotated[Id, Parameter(name="ID")],
    /,
    *,
    at: Time = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Show one worker, its server instances and its last transitions."""
    found = client(url).get(f"/status/workers/{worker_id}", {"at": time_given(at)})
    if as_json:
        print_json(found)
        return
    print_table(
        ("worker", str(found["worker_id"])),
        (
            ("health", found["health"]),
            ("status", found["status"]),
            ("reason", found["reason"]),
            ("since", since(found["status_since"])),
            *(() if at else beats(found)),
            ("labels", labels(found)),
        ),
    )
    print()
    print_servers(found["server_instances"])
    print()
    print_transitions(found["transitions"])


def servers(
    *,
    status: StatusType | None = None,
    active: Annotated[bool, Parameter(negative="", help="Only those that run now.")] = False,
    worker_id: Annotated[
        Id | None, Parameter(name="--worker", help="Only those of this worker.")
    ] = None,
    game_server_config_id: Annotated[
        Id | None, Parameter(name="--config", help="Only those of this config.")
    ] = None,
    at: Time = None,
    limit: Limit = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """List game server instances, by id."""
    if active and at:
        raise SettingsError(
            ["--at: not with --active; --status RUNNING can be asked of a past time"]
        )
    query = {
        "status": status,
        "worker_id": worker_id,
        "game_server_config_id": game_server_config_id,
        "at": time_given(at),
    }
    path = "/status/servers/active" if active else "/status/servers"
    found = list(client(url).items(path, query, limit=limit))
    if as_json:
        print_json(found)
        return
    print_servers(found)
    print(f"{len(found)} shown")


def system(*, at: Time = None, as_json: AsJson = False, url: Url = None) -> None:
    """Show the fleet in numbers."""
    found = client(url).get("/status/system", {"at": time_given(at)})
    if as_json:
        print_json(found)
        return
    print(found["overall_status"])
    if at:
        print(f"{'BLIND' if found['is_blind'] else 'as it was'} at {since(found['timestamp'])}")
    else:
        print_observation(found)
    print()
    print_table(("workers", ""), found["workers"].items())
    print()
    active = found["servers"]["total_active"]
    print_table(
        ("server instances", ""), (("total_active", active), *found["servers"]["by_status"].items())
    )


def print_observation(found: dict[str, Any]) -> None:
    print(observation_line(found["observation"]))
    for guard in found["observation"]["guard"] or ():
        print(guard_line(guard))
    print(alerts_line(found["alerts"]))
    if unwatched := found.get("unwatched_workers"):
        print(f"{unwatched_text(unwatched)}: `manman-status doctor` says what to do")


def guard_line(guard: dict[str, Any]) -> str:
    group = printable(guard["group"]) or "without a group"
    return (
        f"guard: {guard['held']} of {guard['group_size']} workers {group} held since"
        f" {since(guard['holding_since'])}"
    )


def alerts_line(numbers: dict[str, int]) -> str:
    there_are = ", ".join(f"{number} {name}" for name, number in numbers.items() if number)
    return f"alerts: {there_are}, see `manman-status alerts list`" if there_are else "alerts: none"


def observation_line(observation: dict[str, Any]) -> str:
    """Render the state of monitoring, on which the rest of an answer depends."""
    state, through = observation["state"], observation["observed_through"]
    if state == ObservationState.BLIND:
        return (
            f"BLIND since {since(through)}: no verdicts"
            if through
            else "BLIND, nothing observed yet: no verdicts"
        )
    running = len(observation["processors"])
    quality = "observing well" if state == ObservationState.OK else "degraded"
    if observation.get("reason") == "clock_stepped":
        step = observation["clock_step"]
        quality = (
            f"degraded since the database's clock stepped by {step['seconds']:+.0f} s at"
            f" {step['at']}"
        )
    elif observation.get("reason") == "heartbeats_dropped":
        quality = "degraded since RabbitMQ dropped heartbeats"
    elif state != ObservationState.OK and observation.get("queues"):
        quality = f"degraded, {printable(slowest(observation))} is furthest behind"
    return (
        f"{quality}: everything until {datetime.fromisoformat(through):%H:%M:%SZ}"
        f" ({observation['lag_seconds']:.1f} s ago), {running}"
        f" processor{'' if running == 1 else 's'}"
    )


def slowest(observation: dict[str, Any]) -> str:
    """Name the queue or the bridge that is furthest behind."""
    sources = [(queue["observed_through"] or "", queue["queue"]) for queue in observation["queues"]]
    sources += [
        (bridge["observed_through"] or "", f"bridge {bridge['name']}")
        for bridge in observation.get("bridges", ())
    ]
    return str(min(sources)[1])


def beats(worker: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    beat = ago(worker["last_heartbeat"], worker["as_of"])
    return ("last beat", beat), ("deadline", since(worker["deadline"]))


def time_given(text: str | None) -> str | None:
    """A time as the api takes it."""
    if text is None or not (ago := AGO.fullmatch(text)):
        return text
    try:
        time = datetime.now(UTC) - timedelta(**{AGO_UNITS[ago[2]]: int(ago[1])})
    except OverflowError as error:
        raise SettingsError([f"{text}: longer ago than there are times"]) from error
    return time.isoformat()


def client(url: str | None) -> Client:
    return Client(load_settings(url=url))


def print_json(found: Any) -> None:
    print(json.dumps(found, indent=2))


def print_transitions(found: list[dict[str, Any]]) -> None:
    print_table(
        ("revision", "at", "from", "to", "reason"),
        (
            (
                change["revision"],
                since(change["at"]),
                change["old_status"],
                change["new_status"],
                change["reason"],
            )
            for change in found
        ),
    )


def print_servers(found: list[dict[str, Any]]) -> None:
    print_table(
        ("instance", "worker", "config", "status", "reason", "since", "ended"),
        (
            (
                server["instance_id"],
                server["worker_id"],
                server["game_server_config_id"],
                server["status"],
                server["reason"],
                since(server["status_since"]),
                since(server["end_date"]),
            )
            for server in found
        ),
    )


def labels(worker: dict[str, Any]) -> str:
    return " ".join(f"{key}:{value}" for key, value in sorted(worker["labels"].items()))


def since(time: str | None) -> str:
    return datetime.fromisoformat(time).strftime("%Y-%m-%d %H:%M:%SZ") if time else ""


def ago(time: str | None, as_of: str) -> str:
    if time is None:
        return "never"
    seconds = (datetime.fromisoformat(as_of) - datetime.fromisoformat(time)).total_seconds()
    # a beat may be newer than what all of the fleet was observed through
    return f"{max(seconds, 0.0):.1f} s ago"
