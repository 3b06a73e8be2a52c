"""What the documents name is there, and what they show is understood."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from manman_status.cli import app
from manman_status.domain.events import Heartbeat, InventoryEntry
from manman_status.domain.status import StatusType
from manman_status.settings import NON_FIELDS, PREFIX, Settings, variable
from manman_status.wire.inbound import decode

ROOT = Path(__file__).parents[2]
DOCUMENTS = {
    path.name: path.read_text("utf-8")
    for path in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))
}
README = DOCUMENTS["README.md"]
FOLDERS = {"README.md": ROOT, "CHANGELOG.md": ROOT}
COMMAND = re.compile(r"(?:^ {4}(?:\$ )?|`)(?:\.venv/bin/)?manman-status (.+?)(?=  |`|$)", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?://)([^)#]+)")


def blocks(text: str, language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found
    return found


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_variable_is_a_setting(name: str) -> None:
    named = set(re.findall(rf"{PREFIX}[A-Z_]*[A-Z]", DOCUMENTS[name]))
    assert named - {variable(setting) for setting in (*Settings.__struct_fields__, *NON_FIELDS)} == set()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_to_a_file(name: str) -> None:
    folder = FOLDERS.get(name, ROOT / "docs")
    assert [link for link in LINK.findall(DOCUMENTS[name]) if not (folder / link).is_file()] == []


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md"])
def test_every_command_could_be_given_as_it_stands(name: str) -> None:
    lines = COMMAND.findall(DOCUMENTS[name])
    assert lines
    for line in lines:
        command, _, _ = app.parse_args(line.split(), print_error=False, exit_on_error=False)
        assert command.__module__.startswith("manman_status.cli."), line


def test_the_readme_names_every_command() -> None:
    named = {line.split()[0] for line in COMMAND.findall(README)}
    assert named == {name for name in app if not name.startswith("-")}


@pytest.mark.parametrize("name", ["README.md", "contract.md"])
def test_every_json_message_is_understood(name: str) -> None:
    for body in blocks(DOCUMENTS[name], "json"):
        decoded = decode(body.encode())
        assert (len(decoded.events), decoded.poison) == (1, [])


def test_the_readme_s_worker_sends_heartbeats_that_are_understood() -> None:
    [program] = blocks(README, "python")
    [beat] = [
        node.value
        for node in ast.walk(ast.parse(program))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "beat"
    ]
    sent = eval(ast.unparse(beat), {"incarnation": 1_763_884_800_123_456, "seq": 5})
    [event] = decode(json.dumps(sent).encode()).events
    assert isinstance(event, Heartbeat)
    assert (event.worker_id, event.incarnation, event.seq) == (7, 1_763_884_800_123_456, 5)
    assert event.servers is not None
    assert event.servers.list_entries() == (InventoryEntry(31, StatusType.RUNNING, None),)
