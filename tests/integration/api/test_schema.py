"""The api against its own description, asked by schemathesis in every way that this allows and forbids."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.conftest import Role
    from tests.integration.api.conftest import Rows

TOKEN = "a-token-5c1e"
# A cursor that nobody gave out is refused, and the schema cannot say which ones somebody did.
EXCLUDED = "positive_data_acceptance"
# A stream never ends by itself, and who asks for a wait waits.
ENDLESS = "streamEvents"
CONFIGURATION = """
[[operations]]
include-operation-id = "pollChanges"
parameters = { "query.wait" = "0" }
"""


@pytest.mark.parametrize("tokens", ["", TOKEN])
async def test_schemathesis_finds_no_server_error_and_no_undocumented_answer(
    tokens: str, rows: Rows, start_api: Callable[..., Awaitable[Role]], tmp_path: Path
) -> None:
    for number in range(1, 4):
        await rows.worker(number, labels={"group": "eu"})
        await rows.server(number, worker_id=number, game_server_config_id=number)
        await rows.transition("worker", number)
    api = await start_api(api_tokens=tokens)
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{api.url}/schema/openapi.json"),
        *("--checks", "all", "--exclude-checks", EXCLUDED, "--max-examples", "25", "--continue-on-failure"),
        *("--exclude-operation-id", ENDLESS),
        *("--seed", "4711", "--no-color", "--generation-database", "none"),
        *(("--header", f"Authorization: Bearer {tokens}") if tokens else ()),
    ]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(120):
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode() + api.log
    assert "request_failed" not in api.log
    assert TOKEN not in api.log
