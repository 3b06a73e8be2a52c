"""Commands for the guard: list the groups on hold, and release one."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from manman_status.cli.broker import send_control
from manman_status.cli.flags import RabbitmqUrl
from manman_status.cli.tables import print_table
from manman_status.cli.views import AsJson, Url, client, print_json, since
from manman_status.errors import SettingsError
from manman_status.settings import load_settings
from manman_status.wire.control import GuardReleased
from manman_status.wire.values import MAX_LABEL_VALUE

app = App(name="guard", help_format="plaintext")


@app.command(name="list")
def list_groups(*, as_json: AsJson = False, url: Url = None) -> None:
    """List the groups of which so much fell silent at once that their workers are held, not given
    up."""
    held = client(url).get("/status/system")["observation"]["guard"] or []
    if as_json:
        print_json(held)
        return
    print_table(
        ("group", "since", "held", "of", "releasing since"),
        (
            (
                guard["group"] or "(without a group)",
                since(guard["holding_since"]),
                guard["held"],
                guard["group_size"],
                since(guard["releasing_since"]),
            )
            for guard in held
        ),
    )
    print(f"{len(held)} held")


@app.command
def release(
    group: Annotated[
        str, Parameter(name="GROUP", help="The label `group`; '' is the workers without one.")
    ],
    /,
    *,
    rabbitmq_url: RabbitmqUrl = None,
) -> None:
    """Give up the silent workers of a held group at once."""
    if len(group) > MAX_LABEL_VALUE:
        raise SettingsError(
            [f"GROUP: no label's value is longer than {MAX_LABEL_VALUE} characters"]
        )
    settings = load_settings(needs=("rabbitmq_url",), rabbitmq_url=rabbitmq_url)
    send_control(settings, GuardReleased(group))
    print(
        f"sent: if {group!r} is held, the next sweep makes its silent workers LOST, and"
        " `manman-status guard list` shows it no more"
    )
