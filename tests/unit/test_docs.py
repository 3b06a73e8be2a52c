"""Names in the documents exist, and their examples are understood."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from manman_status.alerts.channels import open_channels
from manman_status.alerts.rules import RULE_NAMES
from manman_status.api.app import create_app
from manman_status.cli import app
from manman_status.reporter import StatusReporter
from manman_status.settings import FIELDS, OTHER_VARIABLES, PREFIX, Settings, variable
from manman_status.wire.control import CONTROL_COMMANDS
from manman_status.wire.inbound import decode
from manman_status.wire.messages import COMMANDS

ROOT = Path(__file__).parents[2]
DOCUMENTS = {
    path.name: path.read_text("utf-8")
    for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")))
}
PACKAGE = ROOT / "manman_status"
README = DOCUMENTS["README.md"]
FOLDERS = {path.name: ROOT for path in ROOT.glob("*.md")}
COMMAND = re.compile(
    r"(?:^ {4,7}(?:\$ )?|`)(?:\.venv/bin/)?manman-status (.+?)(?=  |`|$)", re.MULTILINE
)
LINK = re.compile(r"\]\((?!https?://)([^)#]+)")


def blocks(text: str, language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found
    return found


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_variable_is_a_setting(name: str) -> None:
    named = set(re.findall(rf"{PREFIX}[A-Z0-9_]*[A-Z0-9]", DOCUMENTS[name]))
    assert named - {variable(setting) for setting in (*FIELDS, *OTHER_VARIABLES)} == set()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_to_a_file(name: str) -> None:
    folder = FOLDERS.get(name, ROOT / "docs")
    assert [link for link in LINK.findall(DOCUMENTS[name]) if not (folder / link).is_file()] == []


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "CHANGELOG.md",
        "from-manman.md",
        "report-from-shell.md",
        "report-from-amqp.md",
    ],
)
def test_every_command_could_be_given_as_it_stands(name: str) -> None:
    lines = COMMAND.findall(DOCUMENTS[name])
    assert lines
    for line in lines:
        command, _, _ = app.parse_args(line.split(), print_error=False, exit_on_error=False)
        assert command.__module__.startswith("manman_status.cli."), line


def test_the_readme_names_every_command() -> None:
    named = {line.split()[0] for line in COMMAND.findall(README)}
    assert named == {name for name in app if not name.startswith("-")}


@pytest.mark.parametrize("name", ["README.md", "contract.md", "report-from-amqp.md"])
def test_every_json_message_is_understood(name: str) -> None:
    for body in blocks(DOCUMENTS[name], "json"):
        decoded = decode(body.encode())
        assert (len(decoded.events), decoded.poison) == (1, [])


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")
def test_the_routes_that_are_shown_are_understood(tmp_path: Path) -> None:
    file = tmp_path / "routes.toml"
    [text] = blocks(README, "toml")
    file.write_text(text, "utf-8")
    [urls] = re.findall(r"^ {4}MANMAN_STATUS_NOTIFY_URLS='(.*)'$", README, re.MULTILINE)
    channels = open_channels(
        Settings(notify_urls=tuple(urls.split()), notify_routes_file=str(file))
    )
    assert len(channels) == 4


def test_the_reporter_s_arguments_are_documented() -> None:
    rows = re.findall(r"^\| `(\w+)` \|(.*?)\|", DOCUMENTS["report-from-python.md"], re.MULTILINE)
    parameters = inspect.signature(StatusReporter).parameters
    expected = {
        name: shown(parameter.default)
        for name, parameter in parameters.items()
        if name != "rabbitmq_url"
    }
    assert {name: default.strip() for name, default in rows} == expected


def shown(default: object) -> str:
    if default in {inspect.Parameter.empty, None}:
        return "" if default else "none"
    return f"`{default}`" if isinstance(default, bool | str) else f"{default:,g}"


def test_the_pages_python_is_python() -> None:
    for program in blocks(DOCUMENTS["report-from-python.md"], "python"):
        compile(program, "report-from-python.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("rule", RULE_NAMES)
def test_operations_md_has_a_section_for_the_alert_rule(rule: str) -> None:
    assert f"\n### {rule}\n" in DOCUMENTS["operations.md"]


@pytest.mark.parametrize("rule", RULE_NAMES)
def test_contract_md_lists_the_alert_rule(rule: str) -> None:
    assert f"`{rule}`" in DOCUMENTS["contract.md"].partition(" Rules: ")[2].partition(";")[0]


@pytest.mark.parametrize("name", ["README.md", "contract.md"])
def test_each_endpoint_is_in_the_tables(name: str) -> None:
    """README.md and docs/contract.md have a row for each path of the OpenAPI document."""
    rows = "\n".join(re.findall(r"^\| `(?:GET )?/.*$", DOCUMENTS[name], re.MULTILINE))
    named = set(re.findall(r"`(?:GET )?(/[^`]+)`", rows))
    paths = create_app(Settings()).openapi_schema.paths or {}
    current = {path for path, item in paths.items() if item.get and not item.get.deprecated}
    assert current - named == set()


@pytest.mark.parametrize("command_type", [*COMMANDS, *CONTROL_COMMANDS])
def test_contract_md_describes_each_message(command_type: str) -> None:
    assert f"`{command_type}`" in DOCUMENTS["contract.md"]


def test_operations_have_sections_for_alerts_that_exist() -> None:
    page = DOCUMENTS["operations.md"]
    assert set(re.findall(r"^### (\w+)$", page, re.MULTILINE)) <= set(RULE_NAMES)
    of_prometheus = re.findall(
        r"- alert: (\w+)", (ROOT / "monitoring/rules.yaml").read_text("utf-8")
    )
    of_prometheus += re.findall(
        r"^    (ManManStatus\w+):",
        (ROOT / "helm/manman-status/values.yaml").read_text("utf-8"),
        re.MULTILINE,
    )
    assert {name for name in of_prometheus if f"**{name}**" not in page} == set()


DOOR = re.compile(r"^\| [^|`]+ \| `([^`]+)` \| (`.*`) \|$", re.MULTILINE)


@pytest.mark.parametrize(("path", "names"), DOOR.findall(DOCUMENTS["CONTRIBUTING.md"]))
def test_each_door_of_the_map_exists_and_holds_what_it_promises(path: str, names: str) -> None:
    defined = set()
    for node in ast.parse((ROOT / path).read_text("utf-8")).body:
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                defined.add(node.name)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                defined.add(name)
            case _:
                pass
    assert set(re.findall(r"`(\w+)`", names)) <= defined


def test_the_map_names_every_room() -> None:
    package = ROOT / "manman_status"
    rooms = {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(re.findall(r"^\| `(\w+/)` \|", DOCUMENTS["CONTRIBUTING.md"], re.MULTILINE))


def test_every_file_that_a_recipe_names_exists() -> None:
    text = DOCUMENTS["CONTRIBUTING.md"]
    recipes = text[text.index("## Recipes") : text.index("## Words")]
    named = re.findall(r"(?:`|\s)((?:\w+/)+(?:\w+\.\w+)?)", recipes)
    assert named
    assert [
        name for name in named if not (ROOT / name).exists() and not (PACKAGE / name).exists()
    ] == []
