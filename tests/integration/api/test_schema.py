"""The api against its own description, called by schemathesis in every way that this allows and
forbids."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.api.conftest import Rows
    from tests.kinds import StartRole

TOKEN = "a-token-5c1e"
ACCEPTANCE = "positive_data_acceptance"
NOTHING: dict[str, tuple[str, ...]] = {}
# A stream never ends by itself, and a request for a wait waits.
ENDLESS = "streamEvents"
ANYTHING = """
[[operations]]
include-operation-id = "pollChanges"
parameters = { "query.wait" = "0" }
"""
# The schema cannot say what is kept, and which revisions there are.
WHAT_THERE_IS = """
parameters = {{ "query.at" = "{past}", "query.window" = "24h" }}
[[operations]]
include-operation-id = "pollChanges"
parameters = {{ "query.wait" = "0", "query.since" = 0 }}
"""


async def call(
    rows: Rows,
    start_api: StartRole,
    folder: Path,
    *arguments: str,
    configuration: str = ANYTHING,
    tokens: str = "",
    without: dict[str, tuple[str, ...]] = NOTHING,
    within_seconds: float = 240,
) -> None:
    """Run all phases of schemathesis. `without`: parameters that are left out, by operation, and of
    all operations."""
    for number in range(1, 4):
        await rows.worker(number, labels={"group": "eu"})
        await rows.server(number, worker_id=number, game_server_config_id=number)
        await rows.transition("worker", number)
    api = await start_api(api_tokens=tokens)
    (folder / "schemathesis.toml").write_text(configuration)
    async with httpx.AsyncClient(
        base_url=api.url, headers={"authorization": f"Bearer {tokens or None}"}
    ) as http:
        schema = (await http.get("/schema/openapi.json")).json()
    for operation in (path["get"] for path in schema["paths"].values()):
        left_out = without.get(operation["operationId"], ()) + without.get("", ())
        operation["parameters"] = [
            each for each in operation.get("parameters", ()) if each["name"] not in left_out
        ]
    (folder / "schema.json").write_text(json.dumps(schema))
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", "schema.json", "--url", api.url),
        *arguments,
        *("--continue-on-failure", "--exclude-operation-id", ENDLESS),
        *("--seed", "4711", "--no-color", "--generation-database", "none"),
        *(("--header", f"Authorization: Bearer {tokens}") if tokens else ()),
    ]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(within_seconds):
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode() + api.log
    assert "request_failed" not in api.log
    assert TOKEN not in api.log


@pytest.mark.parametrize("tokens", ["", TOKEN])
async def test_schemathesis_finds_no_undocumented_answer(
    tokens: str, rows: Rows, start_api: StartRole, tmp_path: Path
) -> None:
    checks = ("--checks", "all", "--exclude-checks", ACCEPTANCE, "--max-examples", "25")
    await call(rows, start_api, tmp_path, *checks, tokens=tokens)


async def test_what_the_schema_allows_is_accepted(
    rows: Rows, start_api: StartRole, tmp_path: Path
) -> None:
    there_is = WHAT_THERE_IS.format(past=rows.ago(60).isoformat())
    # Nor can it say which cursors somebody was given, and that a past time knows no health.
    without: dict[str, tuple[str, ...]] = {"": ("cursor",), "listWorkers": ("at",)}
    checks = ("--checks", ACCEPTANCE, "--max-examples", "25")
    await call(rows, start_api, tmp_path, *checks, configuration=there_is, without=without)


@pytest.mark.slow
async def test_five_thousand_cases_find_nothing_either(
    rows: Rows, start_api: StartRole, tmp_path: Path
) -> None:
    checks = ("--checks", "all", "--exclude-checks", ACCEPTANCE, "--max-examples", "300")
    await call(rows, start_api, tmp_path, *checks, within_seconds=1200)
