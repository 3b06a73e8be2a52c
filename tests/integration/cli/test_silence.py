"""`manman-status silence`: nobody is notified of what is expected, for a while."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.cli.test_alerts import ALERTS, LOST

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.integration.cli.conftest import Command
    from tests.kinds import Eventually, Role

    Rows = Callable[..., Awaitable[list[dict[str, Any]]]]

DEPLOY = ("--for", "2h", "--why", "a deploy \x1b[31m")


async def test_a_silence_is_added_listed_and_removed(
    processor: Role,
    api: Role,
    broker: str,
    rows: Rows,
    manman_status: Command,
    eventually: Eventually,
) -> None:
    await rows(LOST)
    await rows(ALERTS, "eu")
    added = await manman_status(
        "silence", "add", "--group", "eu", *DEPLOY, "--by", "ann", rabbitmq_url=broker
    )
    assert (added.code, added.err) == (0, "")
    silence_id, *_ = added.out.split()
    assert f"silence remove {silence_id}" in added.out

    async def listed(*flags: str) -> list[dict[str, Any]]:
        found = await manman_status("silence", "list", "--json", *flags, url=api.url)
        silences: list[dict[str, Any]] = json.loads(found.out)
        return silences

    [silence] = await eventually(listed)
    assert (silence["silence_id"], silence["created_by"], silence["why"]) == (
        silence_id,
        "ann",
        DEPLOY[-1],
    )
    assert (silence["group"], silence["worker_id"], silence["covers"]) == ("eu", None, 3)
    [row] = await rows("SELECT ends_at - created_at AS lasts FROM silences")
    assert row["lasts"] == timedelta(hours=2)
    shown = await manman_status("silence", "list", url=api.url)
    assert "group eu" in shown.out
    assert shown.out.endswith("1 shown\n")
    assert "\x1b" not in shown.out
    assert "open, silenced" in (await manman_status("alerts", "list", url=api.url)).out

    for given in ("0000", silence_id):
        removed = await manman_status("silence", "remove", given, rabbitmq_url=broker)
        assert (removed.code, removed.err) == (0, "")
        assert "if there is one that lasts" in removed.out

    async def has_ended() -> bool:
        return await listed() == []

    await eventually(has_ended)
    assert [each["is_active"] for each in await listed("--all")] == [False]
    assert "ended" in (await manman_status("silence", "list", "--all", url=api.url)).out


async def test_all_that_is_given_must_match(
    processor: Role, broker: str, rows: Rows, manman_status: Command, eventually: Eventually
) -> None:
    given = ("--worker", "7", "--label", "disk:old", "--label", "zone:a:b", "--rule", "worker_lost")
    added = await manman_status("silence", "add", *given, *DEPLOY, rabbitmq_url=broker)
    assert (added.code, added.err) == (0, "")
    [silence] = await eventually(lambda: rows("SELECT * FROM silences"))
    assert (silence["group_name"], silence["worker_id"], silence["rule"]) == (
        None,
        7,
        "worker_lost",
    )
    assert silence["labels"] == {"disk": "old", "zone": "a:b"}
    assert silence["created_by"]


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("add", *DEPLOY), 2, "--group, --worker, --label and --rule"),
        (("add", "--why", "x", "--group", "eu"), 2, "--for"),
        (("add", "--for", "1h", "--group", "eu"), 2, "--why"),
        (("add", "--for", "soon", "--why", "x", "--group", "eu"), 2, "--for"),
        (
            ("add", "--for", "0s", "--why", "x", "--group", "eu"),
            2,
            "--for: must be more than nothing",
        ),
        (("add", "--for", "91d", "--why", "x", "--group", "eu"), 2, "at most 90d"),
        (("add", *DEPLOY, "--rule", "worker-lost"), 2, "there is no such rule"),
        (("add", *DEPLOY, "--worker", "0"), 2, "--worker"),
        (("add", *DEPLOY, "--label", "disk"), 2, "--label disk: must be KEY:VALUE"),
        (("add", *DEPLOY, "--group", "eu"), 2, "MANMAN_STATUS_RABBITMQ_URL is not set"),
        (
            ("add", *DEPLOY, "--group", "e" * 256, "--rabbitmq-url", "amqp://127.0.0.1:1/"),
            2,
            "--group: Expected",
        ),
        (
            ("remove", "abcd", "--rabbitmq-url", "amqp://127.0.0.1:1/"),
            1,
            "RabbitMQ does not answer",
        ),
        (("remove",), 2, "ID"),
        (("list", "--url", "http://127.0.0.1:1"), 1, "http://127.0.0.1:1 does not answer"),
    ],
)
async def test_what_goes_wrong_is_one_line(
    arguments: tuple[str, ...], code: int, named: str, manman_status: Command
) -> None:
    finished = await manman_status("silence", *arguments)
    assert (finished.code, finished.out) == (code, "")
    assert len(finished.err.splitlines()) == 1
    assert named in finished.err
