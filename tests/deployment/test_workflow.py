"""The workflow of GitHub runs what a contributor runs, on every version that is claimed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


def jobs() -> dict[str, Any]:
    text = (ROOT / ".github/workflows/ci.yml").read_text("utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)["jobs"]
    return loaded


def test_every_python_that_is_claimed_is_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    tested = jobs()["test"]["strategy"]["matrix"]["python"]
    claimed = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert set(claimed) <= set(tested)
    assert project["requires-python"] == f">={tested[0]}"


def test_both_lines_of_rabbitmq_are_tested() -> None:
    versions = jobs()["test"]["strategy"]["matrix"]["rabbitmq"]
    assert [version.rpartition(".")[0] for version in versions] == ["3.13", "4.1"]


def test_it_runs_goals_of_the_makefile() -> None:
    commands = [step["run"] for job in jobs().values() for step in job["steps"] if "run" in step]
    goals = re.findall(r"^make (\S+)", "\n".join(commands), re.MULTILINE)
    assert goals == ["test", "test-containers"]
    assert all(re.search(rf"^{goal}:", MAKEFILE, re.MULTILINE) for goal in goals)
