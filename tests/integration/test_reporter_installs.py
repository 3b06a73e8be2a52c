"""The reporter is small, and can be installed beside any AMQP library that a worker has."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from manman_status.cli import EXTRAS

if TYPE_CHECKING:
    from tests.kinds import Eventually, FetchRows, Role

ROOT = Path(__file__).parents[2]
MOST_PACKAGES = 10
WORKER = """
import importlib.metadata, json, sys
from manman_status.reporter import ThreadedStatusReporter
from manman_status.reporter.carrier import choose_carrier

with ThreadedStatusReporter(sys.argv[1], worker_id=7, interval_seconds=1) as report:
    report.server_started(31)
packages = {each.metadata["Name"].lower() for each in importlib.metadata.distributions()}
print(json.dumps([choose_carrier().__name__.rpartition(".")[2], report.waiting, len(packages)]))
"""


def test_the_reporter_brings_at_most_ten_packages() -> None:
    """Counted in the lock file, itself included."""
    lock = tomllib.loads((ROOT / "uv.lock").read_text("utf-8"))
    needs = {
        package["name"]: [each["name"] for each in package.get("dependencies", ())]
        for package in lock["package"]
    }
    brought: set[str] = set()
    waiting = ["manman-status"]
    while waiting:
        name = waiting.pop()
        if name not in brought:
            brought.add(name)
            waiting += needs[name]
    assert len(brought) <= MOST_PACKAGES, sorted(brought)


def test_the_reporter_loads_nothing_of_any_extra() -> None:
    code = (
        "import json, sys, manman_status.reporter;"
        "print(json.dumps([*{name.partition('.')[0] for name in sys.modules}]))"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout
    assert not {*json.loads(out)} & {*EXTRAS}


@pytest.fixture(scope="session")
def uv() -> str:
    found = shutil.which("uv") or ROOT / ".manman/bootstrap/bin/uv"
    if not Path(found).exists():
        pytest.skip("there is no uv")
    return str(found)


@pytest.mark.slow  # downloads packages
@pytest.mark.parametrize(
    ("beside", "carrier"),
    [
        ([], "connection"),
        (["aio-pika<10"], "connection"),
        (["amqpstorm==2.11.0"], "storm"),
        (["amqpstorm>=3"], "connection"),
        (["aio-pika<7", "amqpstorm>=2.11,<3"], "storm"),
        (["pika"], "connection"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
async def test_it_reports_beside_a_worker_s_amqp_library(
    beside: list[str],
    carrier: str,
    uv: str,
    tmp_path: Path,
    processor: Role,
    broker: str,
    rows: FetchRows,
    eventually: Eventually,
) -> None:
    python = str(tmp_path / "venv/bin/python")

    def run(*command: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        finished = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=tmp_path
        )
        assert finished.returncode == code, finished.stderr
        return finished

    def install() -> subprocess.CompletedProcess[str]:
        run(uv, "venv", "--quiet", "--python", sys.executable, "venv")
        run(uv, "pip", "install", "--quiet", "--python", python, str(ROOT), *beside)
        return run(python, "-c", WORKER, broker)

    finished = await asyncio.to_thread(install)
    chosen, waiting, packages = json.loads(finished.stdout)
    assert (chosen, waiting) == (carrier, 0), finished.stderr
    assert packages <= MOST_PACKAGES + 1
    sql = (
        "SELECT 1 FROM workers WHERE worker_id = 7 AND status = 'COMPLETE' AND reason = 'graceful'"
    )
    await eventually(lambda: rows(sql))
    assert await rows("SELECT 1 FROM server_instances WHERE instance_id = 31")
    refused = await asyncio.to_thread(run, "venv/bin/manman-status", "workers", code=1)
    assert refused.stderr.endswith("the cli extra: pip install 'manman-status[cli]'\n")
