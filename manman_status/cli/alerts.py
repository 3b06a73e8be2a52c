"""Commands for alerts: list them, acknowledge one, and send a test to the channels."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from manman_status.alerts.notifying.message import Message, Tone
from manman_status.alerts.reading import AlertSelection
from manman_status.alerts.rules.no_processor import UNJUDGED_SECONDS
from manman_status.cli.control import By, Rule, Why, login_name, say
from manman_status.cli.flags import Id, OptionalId, RabbitmqUrl
from manman_status.cli.tables import numbered, print_table
from manman_status.cli.views import AsJson, Limit, Url, client, labels, print_json, since
from manman_status.domain.alert import Severity
from manman_status.errors import CommandFailed, SettingsError
from manman_status.settings import load_settings, variable
from manman_status.wire.control import AlertAcknowledged

if TYPE_CHECKING:
    from manman_status.alerts.channels import AppriseChannel

TEST = Message(
    "manman-status: a test", "`manman-status alerts test` sent this: alerts arrive here.", Tone.INFO
)

app = App(name="alerts", help_format="plaintext")


@app.command(name="list")
def list_alerts(
    *,
    state: Annotated[
        AlertSelection, Parameter(help="Unresolved are those that are open or acknowledged.")
    ] = (AlertSelection.UNRESOLVED),
    severity: Severity | None = None,
    rule: Rule = None,
    group: Annotated[
        str | None, Parameter(help="The group that it is about; '' is the workers without one.")
    ] = None,
    worker_id: Annotated[
        OptionalId, Parameter(name="--worker", help="Only those about this worker.")
    ] = None,
    part_of: Annotated[OptionalId, Parameter(help="Only the parts of this alert.")] = None,
    limit: Limit = None,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """List alerts, the newest first."""
    query = {
        "state": state,
        "severity": severity,
        "rule": rule,
        "group": group,
        "worker_id": worker_id,
        "part_of": part_of,
    }
    pages = list(client(url).pages("/status/alerts", query, limit=limit))
    found = [alert for page in pages for alert in page["items"]]
    if as_json:
        print_json(found)
        return
    print_table(
        ("alert", "severity", "state", "since", "group", "part of", "parts", "what"),
        (
            (
                alert["alert_id"],
                alert["severity"],
                shown_state(alert),
                since(alert["opened_at"]),
                alert["group"],
                alert["part_of"],
                alert["parts"] or None,
                alert["summary"],
            )
            for alert in found
        ),
    )
    print(f"{len(found)} shown{unwatched(pages[-1]['judged_at'])}")


@app.command
def show(
    alert_id: Annotated[Id, Parameter(name="ID")], /, *, as_json: AsJson = False, url: Url = None
) -> None:
    """Show one alert, and what each channel was told of it."""
    found = client(url).get(f"/status/alerts/{alert_id}")
    if as_json:
        print_json(found)
        return
    acknowledged = f"{since(found['acknowledged_at'])} by {found['acknowledged_by'] or 'somebody'}"
    print_table(
        ("alert", str(found["alert_id"])),
        (
            ("what", found["summary"]),
            ("rule", found["rule"]),
            ("severity", found["severity"]),
            ("state", shown_state(found)),
            ("since", since(found["opened_at"])),
            ("group", found["group"]),
            ("worker", found["worker_id"]),
            ("server instance", found["instance_id"]),
            ("config", found["game_server_config_id"]),
            ("labels", labels(found)),
            ("evidence", json.dumps(found["evidence"], ensure_ascii=False)),
            ("part of", found["part_of"]),
            ("parts", found["parts"]),
            ("silenced by", found["silenced_by"]),
            ("acknowledged", acknowledged if found["acknowledged_at"] else None),
            ("why", found["acknowledged_why"]),
            ("resolved", since(found["resolved_at"])),
            ("resolution", found["resolution"]),
        ),
    )
    print()
    print_table(
        ("channel", "told as", "at", "of its end"),
        (
            (
                each["channel"],
                each["severity"],
                since(each["told_at"]),
                "yes" if each["is_settled"] else None,
            )
            for each in found["deliveries"]
        ),
    )


def shown_state(alert: dict[str, Any]) -> str:
    return f"{alert['state']}, silenced" if alert["silenced_by"] else alert["state"]


def unwatched(judged_at: str | None) -> str:
    """Empty while alerts are judged: else a list without alerts would look as if all were well."""
    if judged_at is None:
        return ", but nobody watches: the rules were never asked"
    age = datetime.now(UTC) - datetime.fromisoformat(judged_at)
    return (
        f", but nobody watches since {since(judged_at)}"
        if age.total_seconds() > UNJUDGED_SECONDS
        else ""
    )


@app.command
def ack(
    alert_id: Annotated[Id, Parameter(name="ID")],
    /,
    *,
    why: Why,
    by: By = None,
    rabbitmq_url: RabbitmqUrl = None,
) -> None:
    """Say that somebody has taken an open alert on: people are told of it again only when it gets
    worse, or is over."""
    by = login_name() if by is None else by
    say(AlertAcknowledged, rabbitmq_url=rabbitmq_url, alert_id=alert_id, by=by, why=why)
    print(
        f"sent: once a processor has taken it, alert {alert_id} is acknowledged if it is open, and"
        f" `manman-status alerts show {alert_id}` shows it"
    )


@app.command(name="test")
def send_test(
    url: Annotated[
        str | None,
        Parameter(
            name="URL",
            help=(
                "As apprise has it; without one, all channels that the settings name, unseen by"
                " others."
            ),
        ),
    ] = None,
    /,
) -> None:
    """Send one message, and say what became of it. Exits 1 when a channel did not take it."""
    channels = chosen_channels(url)
    results = asyncio.run(send_to(channels))
    print_table(
        ("channel", "service", "result"),
        (
            (channel.name, channel.service, "told" if reason is None else f"not told: {reason}")
            for channel, reason in zip(channels, results, strict=True)
        ),
    )
    failed = sum(reason is not None for reason in results)
    if failed:
        raise CommandFailed(f"{failed} of {numbered(len(results), 'channel')} did not take it")


def chosen_channels(url: str | None) -> list[AppriseChannel]:
    """Raises SettingsError, with nothing that is secret."""
    from manman_status.alerts.channels import given_channel, open_channels

    settings = load_settings()
    if url is not None:
        return [given_channel(url, settings)]
    if not settings.notify_urls and not settings.notify_routes_file:
        names = f"{variable('notify_urls')} nor {variable('notify_routes_file')}"
        raise SettingsError([f"no URL is given, and neither {names} is set"])
    return open_channels(settings)


async def send_to(channels: list[AppriseChannel]) -> list[str | None]:
    """Send the test message; for each channel why it was not taken, None when it was."""
    from manman_status.alerts.notifying.notifier import NotTaken

    async def reason(channel: AppriseChannel) -> str | None:
        try:
            await channel.send(TEST)
        except NotTaken as error:
            return str(error)
        return None

    return await asyncio.gather(*map(reason, channels))
