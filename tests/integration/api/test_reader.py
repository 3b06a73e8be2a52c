"""The api as a database user that may only read, made as docs/operations.md says."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from manman_status.api.app import create_app
from manman_status.settings import Settings
from manman_status.store.checkup import READ_BY_THE_API

if TYPE_CHECKING:
    from tests.integration.api.conftest import Rows
    from tests.kinds import StartRole

OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"
STREAM = "/status/events"


def paths(alert_id: int) -> list[str]:
    """Every path about existing rows. Files of the page and of the schema need no database."""
    ids = {"worker_id": 1, "instance_id": 10, "alert_id": alert_id, "host": "h1"}
    app = create_app(Settings(database_url="postgresql://nobody@127.0.0.1:1/"))
    found = {
        re.sub(r"\{(\w+):str\}", lambda match: str(ids.get(match[1], "")), route.path)
        for route in app.routes
    }
    return sorted(path for path in found if not re.match(r"/(page/files|schema/|sign-)", path))


@pytest.fixture
def statements() -> str:
    [block] = re.findall(
        r"^```sql\n(.*?)^```$", OPERATIONS.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    return str(block)


@pytest.fixture
async def reader_url(database: str, rows: Rows, statements: str) -> AsyncIterator[str]:
    """Users are the server's and not the database's: one with a name of its own."""
    name = f"reader_{uuid.uuid4().hex[:8]}"
    await rows.connection.execute(statements.replace("manman_status_api", name))
    yield database.replace("manman@", f"{name}@")
    await rows.connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_the_document_grants_what_the_api_reads_and_no_more(statements: str) -> None:
    granted = re.search(r"GRANT SELECT ON (.*?)\s+TO", statements, re.DOTALL)
    assert granted
    assert sorted(re.split(r",\s+", granted[1])) == sorted(READ_BY_THE_API)


async def test_a_user_that_may_only_read_is_enough_for_every_answer(
    rows: Rows, reader_url: str, start_api: StartRole
) -> None:
    await rows.worker(1, labels={"group": "eu", "host": "h1"})
    await rows.server(10)
    await rows.transition("worker", 1)
    await rows.transition("game_server_instance", 10)
    await rows.processor("p1")
    await rows.silence("a1b2c3")
    alert_id = await rows.alert("worker_lost:1", worker_id=1)
    api = await start_api(database_url="", database_read_url=reader_url)
    every = paths(alert_id)
    assert {
        "/",
        "/status/system",
        f"/status/alerts/{alert_id}",
        STREAM,
        "/metrics",
        "/readyz",
    } <= set(every)
    async with httpx.AsyncClient(base_url=api.url, timeout=60) as http:
        answers = {path: (await http.get(path)).status_code for path in every if path != STREAM}
        async with http.stream("GET", STREAM) as stream:
            answers[STREAM] = stream.status_code
    assert {path: status for path, status in answers.items() if status != httpx.codes.OK} == {}
