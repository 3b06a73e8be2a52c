"""The command that prints changes of statuses as they happen."""

from __future__ import annotations

import json
import re
import sys
from http import HTTPStatus
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from manman_status.cli.client import Refused
from manman_status.cli.flags import Id
from manman_status.cli.following import Follower, ended_by_signal
from manman_status.cli.tables import STYLES
from manman_status.cli.views import AsJson, Url, client, since
from manman_status.domain.status import Entity, StatusType
from manman_status.errors import CommandFailed
from manman_status.wire.reasons import printable

POSITION = re.compile("([0-9a-z]{1,32}-)?[0-9]{1,18}")


def _is_position(_: Any, value: str | None) -> None:
    if value is not None and not POSITION.fullmatch(value):
        raise ValueError(f"{value!r} is neither a revision nor <epoch>-<revision>")


def events(
    *,
    begin: Annotated[str | None, Parameter(name="--from", validator=_is_position)] = None,
    worker_ids: Annotated[
        tuple[Id, ...], Parameter(name="--worker", negative=(), show_default=False)
    ] = (),
    groups: Annotated[
        tuple[str, ...], Parameter(name="--group", negative=(), show_default=False)
    ] = (),
    entity: Entity | None = None,
    statuses: Annotated[
        tuple[StatusType, ...], Parameter(name="--status", negative=(), show_default=False)
    ] = (),
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Print every change of a status as it happens, until Ctrl-C. What happens while the api is
    away comes later.

    Parameters
    ----------
    begin
        The revision after which to begin, or `<epoch>-<revision>`; 0 for the oldest. Else with what
        comes next.
    worker_ids
        Only of this worker and its server instances. May be repeated, like the next two.
    groups
        Only of workers with this label `group`.
    entity
        Only of workers, or only of server instances.
    statuses
        Only changes to this status.
    """
    query = {
        "from": begin,
        "worker_id": worker_ids,
        "group": groups,
        "entity": entity,
        "new_status": statuses,
    }
    console = Console(soft_wrap=True, highlight=False)
    follower = Follower(client(url), query, complain=complain)
    with ended_by_signal():
        try:
            for change in follower.follow():
                if as_json:
                    print(json.dumps(change), flush=True)
                else:
                    console.print(change_line(change))
        except Refused as error:
            if error.status != HTTPStatus.GONE:
                raise
            whence = error.problem.get("resume_from") or error.problem["oldest_revision"] - 1
            raise CommandFailed(
                f"{error} `--from {whence}` begins with the oldest that is kept."
            ) from error


def change_line(change: dict[str, Any]) -> Text:
    return Text.assemble(
        f"{change['revision']:>8}  {since(change['at'])}  {whom(change):<36}  ",
        status_text(change["old_status"] or "", width=12),
        " → ",
        status_text(change["new_status"], width=12),
        f"  {change['reason']:<22}  {printable(change['group'] or '')}".rstrip(),
    )


def status_text(status: str, *, width: int) -> tuple[str, str]:
    return status.ljust(width), STYLES.get(status, "")


def whom(change: dict[str, Any]) -> str:
    if change["entity"] == Entity.WORKER:
        return f"worker {change['entity_id']}"
    worker_id = change["worker_id"]
    return f"server {change['entity_id']}" + (f" of worker {worker_id}" if worker_id else "")


def complain(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)
