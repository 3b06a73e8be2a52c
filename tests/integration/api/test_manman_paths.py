"""Programs that query ManMan's own status api get the newest status in its shape."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from tests.integration.api.conftest import Rows
    from tests.kinds import Role, StartRole

FIELDS = [
    "class_name",
    "status_type",
    "as_of",
    "status_info_id",
    "worker_id",
    "game_server_instance_id",
]


async def status(api: Role, path: str) -> dict[str, object]:
    async with httpx.AsyncClient(base_url=api.url) as http:
        response = await http.get(path)
    assert response.status_code == 200, response.text
    info: dict[str, object] = response.json()
    assert list(info) == FIELDS
    return info


async def test_a_worker_s_newest_status(api: Role, rows: Rows) -> None:
    """Its time is the one that was published with it."""
    await rows.worker(7, status="RUNNING")
    await rows.transition("worker", 7, new_status="CREATED", at=rows.ago(60))
    revision = await rows.transition("worker", 7, at=rows.ago(30), as_of=rows.ago(50))
    await rows.transition("game_server_instance", 7)
    info = await status(api, "/status/worker/7")
    assert datetime.fromisoformat(str(info.pop("as_of"))) == rows.ago(50)
    assert info == {
        "class_name": "worker",
        "status_type": "RUNNING",
        "status_info_id": revision,
        "worker_id": 7,
        "game_server_instance_id": None,
    }


async def test_an_instance_that_was_concluded_lost(api: Role, rows: Rows) -> None:
    """Its transition is older than the retention: the row still knows since when."""
    await rows.server(31, status="LOST", reason="worker_lost", status_since=rows.ago(90))
    info = await status(api, "/status/instance/31")
    assert datetime.fromisoformat(str(info.pop("as_of"))) == rows.ago(90)
    assert info == {
        "class_name": "StatusEventProcessor",
        "status_type": "LOST",
        "status_info_id": -1,
        "worker_id": None,
        "game_server_instance_id": 31,
    }


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/status/worker/8", 404),
        ("/status/instance/8", 404),
        ("/status/worker/x", 400),
        ("/status/instance/0", 400),
    ],
)
async def test_an_unknown_or_impossible_id_is_a_problem(api: Role, path: str, code: int) -> None:
    async with httpx.AsyncClient(base_url=api.url) as http:
        response = await http.get(path)
    assert response.status_code == code
    assert response.headers["content-type"] == "application/problem+json"


async def test_health_needs_no_token_and_says_ok(start_api: StartRole) -> None:
    api = await start_api(api_tokens="a-token")
    async with httpx.AsyncClient(base_url=api.url) as http:
        assert (await http.get("/status/health")).json() == "OK"
        assert (await http.get("/status/worker/1")).status_code == 401


async def test_the_schema_marks_them_as_deprecated(api: Role) -> None:
    async with httpx.AsyncClient(base_url=api.url) as http:
        paths = (await http.get("/schema/openapi.json")).json()["paths"]
    deprecated = {path for path, each in paths.items() if each["get"].get("deprecated")}
    assert deprecated == {
        "/status/worker/{worker_id}",
        "/status/instance/{instance_id}",
        "/status/health",
    }
