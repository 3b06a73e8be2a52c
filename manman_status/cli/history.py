"""Commands about the past: transitions of one worker or server instance, and uptime."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, TypeAlias
from urllib.parse import quote

from cyclopts import Parameter

from manman_status.cli.tables import print_table
from manman_status.cli.views import (
    AsJson,
    Id,
    Limit,
    Time,
    Url,
    client,
    print_json,
    print_transitions,
    since,
    time_given,
)
from manman_status.domain.status import StatusType
from manman_status.errors import SettingsError

Window: TypeAlias = Annotated[
    str, Parameter(help="How long back: 90m, 24h or 30d; as long as transitions are kept.")
]


def history(
    entity_id: Annotated[Id, Parameter(name="ID")],
    /,
    *,
    server: Annotated[
        bool, Parameter(negative="", help="ID is that of a server instance.")
    ] = False,
    new_status: Annotated[
        StatusType | None, Parameter(name="--status", help="Only those to this status.")
    ] = None,
    since: Annotated[
        Time, Parameter(help="Only those since then: 2026-11-23T08:00:00Z, or 90m, 24h, 30d ago.")
    ] = None,
    limit: Limit = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """List the transitions of a worker or a server instance, the newest first."""
    path = f"/status/{'servers' if server else 'workers'}/{entity_id}/transitions"
    query = {"new_status": new_status, "since": time_given(since)}
    found = list(client(url).items(path, query, limit=limit))
    if as_json:
        print_json(found)
        return
    print_transitions(found)
    print(f"{len(found)} shown")


def uptime(
    worker_id: Annotated[
        Id | None, Parameter(name="ID", help="One worker; all of them when not given.")
    ] = None,
    /,
    *,
    group: Annotated[
        str | None, Parameter(help="The label `group`; '' is the workers without one.")
    ] = None,
    host: Annotated[
        str | None, Parameter(help="The label `host` that the lives of one host share.")
    ] = None,
    window: Window | None = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Show how long workers were active, and how long lost."""
    for flag, given in (("--group", group), ("--host", host)):
        if worker_id is not None and given is not None:
            raise SettingsError([f"{flag}: not with the ID of one worker"])
    if host is not None and group is not None:
        raise SettingsError(["--host: not with --group"])
    path = "/status/uptime"
    if worker_id is not None:
        path = f"/status/workers/{worker_id}/uptime"
    elif host is not None:
        path = f"/status/hosts/{quote(host, safe='')}/uptime"
    found = client(url).get(path, {"group": group, "window": window})
    if as_json:
        print_json(found)
        return
    fraction = found["fraction_active"]
    print(
        "nothing was to be active"
        if fraction is None
        else f"active {fraction:.4%} of the time it should have been"
    )
    print(f"from {since(found['begins_at'])} until {since(found['ends_at'])}")
    print()
    print_table(("", ""), _figures(found))


def _figures(found: dict[str, Any]) -> list[tuple[str, object]]:
    losses = found["losses"]
    return [
        *((name, found[name]) for name in ("workers", "lives") if name in found),
        ("active", _lasting(found["active_seconds"])),
        ("lost", _lasting(found["lost_seconds"])),
        ("ended", _lasting(found["ended_seconds"])),
        ("not known yet", _lasting(found["not_known_seconds"])),
        ("blind", _lasting(found["blind_seconds"])),
        ("losses", losses["number"]),
        ("longest loss", _lasting(losses["longest_seconds"])),
        ("between losses (MTBF)", _lasting(found["mtbf_seconds"])),
        ("until it is back (MTTR)", _lasting(found["mttr_seconds"])),
    ]


def _lasting(seconds: float | None) -> str | None:
    return None if seconds is None else str(timedelta(seconds=round(seconds)))
