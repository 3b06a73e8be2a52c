"""`manman-status alerts`: what is wrong, who has acknowledged it, and whether people can be
notified."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.cli.conftest import SECRET

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.integration.cli.conftest import Command
    from tests.kinds import Eventually, Role, StartRole

    Rows = Callable[..., Awaitable[list[dict[str, Any]]]]

EVIL = "eu 1; \x1b[31m"
ALERTS = """INSERT INTO alerts (key, rule, severity, summary, group_name, worker_id, labels,
    opened_at)
    SELECT 'worker_lost:' || n, 'worker_lost', CASE n WHEN 1 THEN 'critical' ELSE 'warning' END,
        'worker ' || n || ' of ' || $1 || ' is silent', $1, n, jsonb_build_object('group', $1),
            now()
    FROM generate_series(1, 3) n"""
# So that a processor finds the alerts true.
LOST = """INSERT INTO workers (worker_id, created_date, status, status_since, reason)
    SELECT n, now(), 'LOST', now(), 'heartbeat_expired' FROM generate_series(1, 3) n"""


@pytest.fixture
async def url(rows: Rows, start_api: StartRole) -> str:
    """Alerts 1 to 3; 3 is part of 2, and 1 is silenced and over since."""
    await rows(ALERTS, EVIL)
    await rows("UPDATE alerts SET part_of = 2 WHERE alert_id = 3")
    await rows(
        "UPDATE alerts SET state = 'resolved', resolved_at = now(), resolution = 'heard' WHERE"
        " alert_id = 1"
    )
    await rows("UPDATE alert_progress SET judged_at = now()")
    return (await start_api(answer_cache_ms=0)).url


async def test_unresolved_alerts_are_listed_the_newest_first(
    url: str, manman_status: Command
) -> None:
    shown = await manman_status("alerts", "list", url=url)
    assert (shown.code, shown.err) == (0, "")
    lines = shown.out.splitlines()
    assert [line.split()[:3] for line in lines[1:-1]] == [
        ["3", "warning", "open"],
        ["2", "warning", "open"],
    ]
    assert lines[-1] == "2 shown"
    assert "worker 2 of eu 1; \N{REPLACEMENT CHARACTER}[31m is silent" in shown.out
    assert "\x1b" not in shown.out


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        (("--state", "all"), [3, 2, 1]),
        (("--state", "resolved"), [1]),
        (("--severity", "critical"), []),
        (("--state", "all", "--severity", "critical"), [1]),
        (("--rule", "worker_lost", "--worker", "3"), [3]),
        (("--rule", "flapping"), []),
        (("--group", EVIL, "--limit", "1"), [3]),
        (("--group", ""), []),
        (("--part-of", "2"), [3]),
    ],
)
async def test_list_for_programs_has_the_selected_alerts(
    filters: tuple[str, ...], ids: list[int], url: str, manman_status: Command
) -> None:
    found = await manman_status("alerts", "list", *filters, "--json", url=url)
    assert (found.code, found.err) == (0, "")
    assert [alert["alert_id"] for alert in json.loads(found.out)] == ids


async def test_a_list_says_when_nobody_watches(
    url: str, rows: Rows, manman_status: Command
) -> None:
    await rows("UPDATE alert_progress SET judged_at = '2026-01-02T03:04:05Z'")
    old = await manman_status("alerts", "list", url=url)
    assert old.out.endswith("2 shown, but nobody watches since 2026-01-02 03:04:05Z\n")
    await rows("UPDATE alert_progress SET judged_at = NULL")
    never = await manman_status("alerts", "list", url=url)
    assert never.out.endswith("2 shown, but nobody watches: the rules were never asked\n")


async def test_alert_is_shown_with_its_notifications(
    url: str, rows: Rows, manman_status: Command
) -> None:
    await rows(
        "INSERT INTO deliveries (alert_id, channel, severity, told_at) VALUES (2, 'night-1',"
        " 'warning', now())"
    )
    shown = await manman_status("alerts", "show", "2", url=url)
    assert (shown.code, shown.err) == (0, "")
    fields = dict(
        line.strip().split("  ", 1) for line in shown.out.splitlines() if "  " in line.strip()
    )
    assert fields["rule"].strip() == "worker_lost"
    assert fields["parts"].strip() == "1"
    assert fields["night-1"].split()[0] == "warning"
    assert "\x1b" not in shown.out
    over = await manman_status("alerts", "show", "1", url=url)
    assert "heard" in over.out
    as_json = await manman_status("alerts", "show", "2", "--json", url=url)
    assert json.loads(as_json.out)["deliveries"][0]["channel"] == "night-1"
    unknown = await manman_status("alerts", "show", "99", url=url)
    assert (unknown.code, unknown.out) == (1, "")
    assert "There is no alert 99" in unknown.err


async def test_system_shows_the_number_of_alerts(
    url: str, rows: Rows, manman_status: Command
) -> None:
    output = await manman_status("system", url=url)
    assert "alerts: 1 warning, see `manman-status alerts list`\n" in output.out
    await rows("UPDATE alerts SET state = 'resolved', resolved_at = now() WHERE state = 'open'")
    assert "alerts: none\n" in (await manman_status("system", url=url)).out


async def test_a_person_takes_an_open_alert_on(
    processor: Role, broker: str, rows: Rows, manman_status: Command, eventually: Eventually
) -> None:
    await rows(LOST)
    await rows(ALERTS, "eu")
    said = await manman_status("alerts", "ack", "1", "--why", "I look at it", rabbitmq_url=broker)
    assert (said.code, said.err) == (0, "")
    assert "alerts show 1" in said.out
    assert (
        await manman_status(
            "alerts", "ack", "2", "--why", "known", "--by", "ann", rabbitmq_url=broker
        )
    ).code == 0

    async def acknowledged() -> list[dict[str, Any]]:
        return await rows(
            "SELECT * FROM alerts WHERE acknowledged_at IS NOT NULL ORDER BY alert_id"
        )

    async def both() -> bool:
        return len(await acknowledged()) == 2

    await eventually(both)
    first, second = await acknowledged()
    assert first["acknowledged_why"] == "I look at it"
    assert first["acknowledged_by"]
    assert (second["acknowledged_by"], second["acknowledged_why"]) == ("ann", "known")


async def test_a_test_message_arrives_where_the_url_leads(
    sink: Any, manman_status: Command
) -> None:
    sent = await manman_status("alerts", "test", sink.url)
    assert (sent.code, sent.err) == (0, "")
    assert [message["title"] for message in sink.messages] == ["manman-status: a test"]
    assert sent.out.splitlines()[1].split()[1:] == ["JSON", "told"]


async def test_alert_test_tries_every_channel_and_names_failures(
    start_sink: Callable[[], Any], tmp_path: Path, manman_status: Command
) -> None:
    first, second, refusing = start_sink(), start_sink(), start_sink()
    refusing.refuses = True
    routes = tmp_path / "routes.toml"
    secret = refusing.url.replace("//", f"//ann:{SECRET}@")
    routes.write_text(
        f'[channels.night]\nurls = ["{second.url}", "{secret}"]\nseverities = ["critical"]\n'
    )
    settings = {"notify_urls": first.url, "notify_routes_file": routes}
    sent = await manman_status("alerts", "test", **settings)
    assert (sent.code, sent.err) == (1, "manman-status: 1 of 3 channels did not take it\n")
    assert [len(sink.messages) for sink in (first, second, refusing)] == [1, 1, 0]
    lines = sent.out.splitlines()[1:]
    assert [line.split()[0].rpartition("-")[0] for line in lines] == ["all", "night", "night"]
    assert [line.split()[2] for line in lines] == ["told", "told", "not"]
    assert "503" in lines[2]
    looked = await manman_status("doctor", "--role", "processor", **settings)
    assert looked.out.count("ok       channel") == 3
    assert [len(sink.messages) for sink in (first, second, refusing)] == [1, 1, 0]


async def test_channels_of_the_file_add_to_the_variable(
    sink: Any, tmp_path: Path, manman_status: Command
) -> None:
    routes = tmp_path / "routes.toml"
    routes.write_text(f'[channels.all]\nurls = ["{sink.url}"]\nseverities = ["critical"]\n')
    refused = await manman_status("alerts", "test", notify_urls=sink.url, notify_routes_file=routes)
    assert (refused.code, sink.messages) == (2, [])
    assert (
        "channels.all: take another name, this is that of MANMAN_STATUS_NOTIFY_URLS" in refused.err
    )
    alone = await manman_status("alerts", "test", notify_routes_file=routes)
    assert (alone.code, len(sink.messages)) == (0, 1)


async def test_url_named_twice_is_notified_once(
    start_sink: Callable[[], Any], tmp_path: Path, manman_status: Command
) -> None:
    first, second = start_sink(), start_sink()
    routes = tmp_path / "routes.toml"
    routes.write_text(f'[channels.night]\nurls = ["{second.url}", "{second.url}"]\n')
    settings = {"notify_urls": f"{first.url} {first.url}", "notify_routes_file": routes}
    sent = await manman_status("alerts", "test", **settings)
    assert (sent.code, [len(sink.messages) for sink in (first, second)]) == (0, [1, 1])


async def test_doctor_names_channels_that_fail(tmp_path: Path, manman_status: Command) -> None:
    routes = tmp_path / "routes.toml"
    routes.write_text('[channels.night]\nurls = []\nrules = ["worker-lost"]\n')
    settings = {"notify_urls": f"json://127.0.0.1 nothing://{SECRET}", "notify_routes_file": routes}
    looked = await manman_status("doctor", **settings)
    problems = [line for line in looked.out.splitlines() if line.startswith("problem  channel")]
    assert len(problems) == 3
    assert "the 2nd is no URL that apprise knows" in problems[0]
    assert "channels.night: there is no rule 'worker-lost'" in problems[1]
    tried = await manman_status("alerts", "test", **settings)
    assert (tried.code, len(tried.err.splitlines())) == (2, 3)
    assert "channel" not in (await manman_status("doctor", "--role", "api", **settings)).out


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("list", "--url", "http://127.0.0.1:1"), 1, "http://127.0.0.1:1 does not answer"),
        (("list", "--rule", "worker-lost"), 2, "there is no such rule"),
        (("list", "--state", "unsolved"), 2, "--state"),
        (("show", "x"), 2, "ID"),
        (("ack", "1"), 2, "--why"),
        (("ack", "1", "--why", "x"), 2, "MANMAN_STATUS_RABBITMQ_URL is not set"),
        (("ack", "0", "--why", "x"), 2, "ID"),
        (
            ("ack", "1", "--why", "x" * 501, "--rabbitmq-url", "amqp://127.0.0.1:1/"),
            2,
            "--why: Expected",
        ),
        (
            ("ack", "1", "--why", "x", "--rabbitmq-url", "amqp://127.0.0.1:1/"),
            1,
            "RabbitMQ does not answer",
        ),
        (("test",), 2, "MANMAN_STATUS_NOTIFY_URLS"),
        (("test", f"nothing://{SECRET}"), 2, "URL"),
    ],
)
async def test_what_goes_wrong_is_one_line(
    arguments: tuple[str, ...], code: int, named: str, manman_status: Command
) -> None:
    finished = await manman_status("alerts", *arguments)
    assert (finished.code, finished.out) == (code, "")
    assert len(finished.err.splitlines()) == 1
    assert named in finished.err
