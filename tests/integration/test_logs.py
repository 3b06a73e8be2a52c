"""Logs of the roles: one JSON object a line, with its role and ids, at the level that is set, and
never a secret."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
import pytest

from manman_status.dev.postgres import EmbeddedPostgres
from tests.collector import OFTEN
from tests.conftest import SharedRabbitMQ, run_sql
from tests.kinds import Eventually, FetchRows, Role, StartRole
from tests.messaging import Publisher


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OFTEN.items():
        monkeypatch.setenv(name, value)


REQUEST_ID = {"X-Request-ID": "asked-by-a-test"}


def records(role: Any) -> list[Any]:
    return [json.loads(line) for line in role.log.splitlines()]


def of(role: Any, event: Any) -> list[Any]:
    return [record for record in records(role) if record["event"] == event]


async def test_each_request_is_one_line_with_its_route_and_id(
    start_api: StartRole, eventually: Eventually
) -> None:
    api = await start_api()
    async with httpx.AsyncClient(base_url=api.url) as client:
        await client.get("/status/workers/7", headers=REQUEST_ID)
        await client.get("/status/workers", params={"limit": "secret-by-mistake"})
        await client.post("/status/workers")
        await client.get("/no/such/path")
        await client.head("/status/system")
    requests = await eventually(lambda: len(found := of(api, "request")) == 5 and found)
    assert [(each["method"], each["route"], each["status"]) for each in requests] == [
        ("GET", "/status/workers/{worker_id}", 404),
        ("GET", "/status/workers", 400),
        ("POST", None, 405),
        ("GET", None, 404),
        ("HEAD", "/status/system", 200),
    ]
    assert requests[0]["request_id"] == "asked-by-a-test"
    assert {each["role"] for each in records(api)} == {"api"}
    assert all(each["duration_ms"] >= 0 and len(each["request_id"]) == 32 for each in requests[1:])
    assert "secret-by-mistake" not in api.log


async def test_requests_of_machines_are_logged_at_debug_only(
    start_api: StartRole, eventually: Eventually
) -> None:
    talks, is_quiet = await start_api(log_level="debug"), await start_api()
    for api in (talks, is_quiet):
        async with httpx.AsyncClient(base_url=api.url) as client:
            for path in ("/livez", "/readyz", "/health", "/metrics", "/status/system"):
                assert (await client.get(path)).status_code == httpx.codes.OK
    await eventually(lambda: of(is_quiet, "request"))
    assert {each["route"] for each in of(is_quiet, "request")} == {"/status/system"}
    assert {each["route"] for each in of(talks, "request")} >= {
        "/livez",
        "/readyz",
        "/health",
        "/metrics",
    }


async def test_debug_logs_more_of_ours_and_nothing_of_libraries(
    start_processor: StartRole, publish: Publisher, eventually: Eventually
) -> None:
    processor = await start_processor(log_level="debug")
    await publish({"command_type": "WORKER_STARTED", "command_args": [7]}, "worker.7.lifecycle")
    stored = await eventually(
        lambda: [each for each in of(processor, "batch_stored") if each["transitions"]]
    )
    assert (
        stored[0] | {"events": 1, "transitions": 1, "level": "debug", "role": "processor"}
        == stored[0]
    )
    processor.stop()
    assert {each["level"] for each in records(processor) if "logger" in each} <= {"info"}


async def test_level_warning_logs_only_warnings(
    start_role: Callable[..., Role],
    start_api: StartRole,
    database: str,
    broker: str,
    rows: FetchRows,
    eventually: Eventually,
) -> None:
    urls = {"database_url": database, "rabbitmq_url": broker}
    processor, api = (
        start_role("processor", **urls, log_level="warning"),
        await start_api(log_level="warning"),
    )
    await eventually(lambda: rows("SELECT 1 FROM observation WHERE observed_through IS NOT NULL"))
    async with httpx.AsyncClient(base_url=api.url) as client:
        await client.get("/status/system")
    for role in (processor, api):
        role.stop()
        assert role.log == ""


SECRETS = {
    name: f"secret-of-the-{name}"
    for name in ("database", "broker", "api", "asker", "collector", "notify", "body")
}


def with_password(url: str, password: Any, *, user: str = "manman") -> Any:
    given = urlsplit(url)
    return urlunsplit(given._replace(netloc=f"{user}:{password}@{given.hostname}:{given.port}"))


@pytest.fixture
def guarded_broker(rabbitmq: SharedRabbitMQ, broker: str) -> Any:
    """The broker's URL for a user who has a password of his own."""
    path = urlsplit(broker).path
    with httpx.Client(base_url=rabbitmq.management_url, timeout=30) as management:
        user = {"password": SECRETS["broker"], "tags": ""}
        management.put("/api/users/guarded", json=user).raise_for_status()
        every = {"configure": ".*", "write": ".*", "read": ".*"}
        management.put(f"/api/permissions{path}/guarded", json=every).raise_for_status()
    return with_password(broker, SECRETS["broker"], user="guarded")


@pytest.fixture
def guarded(database: str, guarded_broker: Any) -> dict[str, Any]:
    """Settings with a secret wherever there can be one. Notifications and telemetry go where nobody
    listens."""
    nowhere = "127.0.0.1:1"
    return {
        "database_url": with_password(database, SECRETS["database"]),
        "rabbitmq_url": guarded_broker,
        "otlp_endpoint": f"http://collector:{SECRETS['collector']}@{nowhere}",
        "notify_urls": f"json://notify:{SECRETS['notify']}@{nowhere}/{SECRETS['notify']}",
        "notify_wait_seconds": 0,
        "api_tokens": SECRETS["api"],
        "log_level": "debug",
    }


async def test_roles_whose_servers_stop_log_no_secret(
    guarded: Any,
    start_processor: StartRole,
    start_api: StartRole,
    publish: Publisher,
    postgres: EmbeddedPostgres,
    often: Any,
    eventually: Eventually,
) -> None:
    processor, api = await start_processor(**guarded), await start_api(**guarded)
    body = {
        "command_type": "HEARTBEAT",
        "command_args": ["7"],
        "labels": {"key": [SECRETS["body"]]},
    }
    await publish(body, "worker.7.lifecycle")
    await eventually(lambda: of(processor, "notification_failed"))
    await send_requests(api)
    name = urlsplit(guarded["database_url"]).path[1:]
    await run_sql(
        postgres.url,
        f"ALTER DATABASE {name} ALLOW_CONNECTIONS false",
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
    )
    await publish({"command_type": "WORKER_STARTED", "command_args": [7]}, "worker.7.lifecycle")
    await eventually(
        lambda: of(processor, "database_unavailable") or of(processor, "database_refuses_batch")
    )

    async def is_refused() -> list[Any]:
        await send_requests(api)
        return [
            each
            for each in of(api, "request")
            if each["status"] >= httpx.codes.INTERNAL_SERVER_ERROR
        ]

    await eventually(is_refused)
    for role in (processor, api):
        await eventually(lambda: "do not reach the collector" in role.log)
        role.stop(within_seconds=30)
        assert logged(role.log) == set()


async def send_requests(api: Role) -> None:
    """Rightly, wrongly, and with tokens where they do not belong."""
    async with httpx.AsyncClient(base_url=api.url) as client:
        for token in (SECRETS["api"], SECRETS["asker"]):
            headers = {"Authorization": f"Bearer {token}"}
            for path in (
                "/status/system",
                f"/status/workers?token={token}",
                f"/{token}",
                f"/status/workers/{token}",
            ):
                await client.get(path, headers=headers)


@pytest.mark.parametrize(
    ("role", "wrong", "code"),
    [
        ("processor", {"database_url": "postgresql://manman:{database}@127.0.0.1:1/none"}, None),
        ("processor", {"rabbitmq_url": "amqp://guarded:{broker}@127.0.0.1:1/none"}, None),
        ("processor", {"rabbitmq_url": "amqp://guarded:{broker}@127.0.0.1:port/none"}, 2),
        ("processor", {"database_url": "postgresql://manman:{database}/1@127.0.0.1/none"}, 2),
        ("processor", {"notify_urls": "nothing://{notify}@127.0.0.1"}, 2),
        ("processor", {"otlp_endpoint": "ftp://collector:{collector}@127.0.0.1"}, 2),
        ("api", {"database_url": "mysql://manman:{database}@127.0.0.1/none"}, 2),
        ("api", {"api_tokens_file": "/no/such/file", "answer_cache_ms": "no number"}, 2),
        ("api", {"api_token_": "{api}"}, 2),
    ],
)
async def test_role_that_cannot_start_logs_no_secret(
    role: Any,
    wrong: Any,
    code: Any,
    guarded: Any,
    start_role: Callable[..., Role],
    eventually: Eventually,
) -> None:
    given = {name: value.format(**SECRETS) for name, value in wrong.items()}
    started = start_role(role, **guarded | given)
    if code is None:
        await eventually(lambda: "_unavailable" in started.log or "not_publishing" in started.log)
        assert started.stop() == 0
    else:
        assert started.wait(within_seconds=30) == code
    assert logged(started.log) == set()


def logged(log: Any) -> set[Any]:
    return {name for name, secret in SECRETS.items() if secret in log}


CONSOLE = r"""
import structlog
from manman_status.logs import configure_logs
configure_logs(role="api", format="console")
log = structlog.get_logger()
log.info("request", group="\x1b[2J\x9b31m\u202egpj.exe\r\n2026 [info] forged", number=7)
def fail(token):
    raise ValueError("it failed")
try:
    fail("a-secret-in-a-frame")
except ValueError:
    log.exception("part_failed")
"""


async def test_console_log_shows_no_frame_values() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CONSOLE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"FORCE_COLOR": ""},
    )
    _, err = await process.communicate()
    said = err.decode()
    assert process.returncode == 0, said
    assert "gpj.exe" in said
    assert not re.search(r"\x1b\[2J|\x9b|\u202e|\r", said)
    assert not [line for line in said.splitlines() if line.startswith("2026 [info] forged")]
    assert "it failed" in said
    assert "a-secret-in-a-frame" not in said
