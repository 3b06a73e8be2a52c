"""Commands for silences: mute notifications of expected or known alerts for a while."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from cyclopts import App, Parameter

from manman_status.alerts.reading import SilenceSelection
from manman_status.cli.control import By, Rule, Why, login_name, say
from manman_status.cli.flags import Labels, OptionalId, RabbitmqUrl, labels_of
from manman_status.cli.tables import print_table
from manman_status.cli.views import AsJson, Url, client, labels, print_json, since
from manman_status.errors import SettingsError
from manman_status.wire.control import LONGEST_SILENCE_SECONDS, SilenceEnded, SilenceRequested

app = App(name="silence", help_format="plaintext")


@app.command
def add(
    *,
    duration: Annotated[timedelta, Parameter(name="--for", help="How long: 90s, 30m, 2h, 3d.")],
    why: Why,
    group: Annotated[
        str | None, Parameter(help="Of this group; '' is the workers without one.")
    ] = None,
    worker_id: Annotated[
        OptionalId, Parameter(name="--worker", help="Of this worker and its servers.")
    ] = None,
    label: Annotated[
        Labels, Parameter(help="Of workers with this label, KEY:VALUE; may be repeated.")
    ] = (),
    rule: Rule = None,
    by: By = None,
    rabbitmq_url: RabbitmqUrl = None,
) -> None:
    """Tell nobody, for a while, of alerts that match all that is given. They are still listed."""
    labels_given = labels_of(label)
    if group is None and worker_id is None and rule is None and not labels_given:
        raise SettingsError(
            ["silence add wants one of --group, --worker, --label and --rule at least"]
        )
    if not 0 < duration.total_seconds() <= LONGEST_SILENCE_SECONDS:
        raise SettingsError(
            [f"--for: must be more than nothing, and at most {LONGEST_SILENCE_SECONDS // 86_400}d"]
        )
    silence_id = secrets.token_hex(4)
    say(
        SilenceRequested,
        rabbitmq_url=rabbitmq_url,
        silence_id=silence_id,
        seconds=duration.total_seconds(),
        why=why,
        by=login_name() if by is None else by,
        group=group,
        worker_id=worker_id,
        rule=rule,
        labels=labels_given,
    )
    print(
        f"{silence_id} sent: it lasts until {datetime.now(UTC) + duration:%Y-%m-%d %H:%M:%SZ};"
        f" `manman-status silence remove {silence_id}` ends it before"
    )


@app.command(name="list")
def list_silences(
    *,
    everything: Annotated[
        bool, Parameter(name="--all", negative="", help="Those that have ended too.")
    ] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """List silences, the newest first."""
    state = SilenceSelection.ALL if everything else SilenceSelection.LASTING
    pages = client(url).pages("/status/silences", {"state": state}, limit=None)
    found = [silence for page in pages for silence in page["items"]]
    if as_json:
        print_json(found)
        return
    print_table(
        ("silence", "until", "of", "alerts now", "by", "why"),
        (
            (
                silence["silence_id"],
                since(silence["ends_at"]) if silence["is_active"] else "ended",
                matched(silence),
                silence["covers"],
                silence["created_by"],
                silence["why"],
            )
            for silence in found
        ),
    )
    print(f"{len(found)} shown")


def matched(silence: dict[str, Any]) -> str:
    """List the properties that an alert must have to be covered."""
    group = silence["group"]
    given = (
        ("group", "(without a group)" if group == "" else group),
        ("worker", silence["worker_id"]),
        ("rule", silence["rule"]),
        ("labels", labels(silence) or None),
    )
    return ", ".join(f"{name} {value}" for name, value in given if value is not None)


@app.command
def remove(
    silence_id: Annotated[str, Parameter(name="ID")], /, *, rabbitmq_url: RabbitmqUrl = None
) -> None:
    """End a silence now: what it covered and still lasts is told."""
    say(SilenceEnded, rabbitmq_url=rabbitmq_url, silence_id=silence_id)
    print(
        f"sent: once a processor has taken it, silence {silence_id} ends, if there is one that"
        " lasts, and `manman-status silence list` shows it no more"
    )
