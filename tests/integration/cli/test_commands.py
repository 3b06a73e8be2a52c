"""All commands have help, exit codes and one line for each error."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from manman_status.cli import COMMANDS, EXTRAS

if TYPE_CHECKING:
    from tests.integration.cli.conftest import Command

BROUGHT_BY = {
    extra: [name for name in EXTRAS if EXTRAS[name] == extra] for extra in EXTRAS.values()
}
NAMES = [name for _, name, _, _ in COMMANDS]
NOWHERE = {"database_url": "postgresql://127.0.0.1:1/x", "rabbitmq_url": "amqp://127.0.0.1:1/"}
WITHOUT_EXTRAS = (
    "import sys; sys.modules.update(dict.fromkeys({names!r}));"
    " from manman_status.__main__ import main; main()"
)
LOADED_BY_HELP = """
import json, sys
from manman_status.__main__ import main
try:
    main()
finally:
    print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
"""


async def test_help_names_every_command_in_its_group(manman_status: Command) -> None:
    finished = await manman_status("--help")
    assert finished.code == 0
    places = [finished.out.index(f"─ {group} ─") for group in ("Run", "Look", "Send", "Repair")]
    assert places == sorted(places)
    for _, name, _, summary in COMMANDS:
        assert any(
            line.split()[1:2] == [name] and summary in line for line in finished.out.splitlines()
        ), name


def test_help_loads_no_server_and_no_client() -> None:
    """It has to answer at once."""
    finished = subprocess.run(
        [sys.executable, "-c", LOADED_BY_HELP, "--help"], capture_output=True, check=True
    )
    loaded = set(json.loads(finished.stderr))
    assert "cyclopts" in loaded
    assert not loaded & ({*EXTRAS, "aio_pika"} - {"cyclopts", "rich"})


@pytest.mark.parametrize("name", NAMES)
async def test_the_help_of_no_command_shows_a_value_of_the_environment(
    name: str, manman_status: Command, secret_database: str, secret_broker: str
) -> None:
    """The fixture looks for the password."""
    finished = await manman_status(
        name, "--help", database_url=secret_database, rabbitmq_url=secret_broker
    )
    assert finished.code == 0, finished.err
    assert finished.out.startswith(f"Usage: manman-status {name}")


async def test_version(manman_status: Command) -> None:
    finished = await manman_status("--version")
    assert (finished.code, finished.err) == (0, "")
    assert finished.out.count(".") == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("dnace",), "dnace"),
        (("serve",), "--role is missing"),
        (("serve", "--role", "apu"), "apu"),
        (("serve", "--role", "api", "--port", "eighty"), "--port"),
        (("migrate", "--fast"), "--fast"),
        (("dead", "show"), "ID"),
        (("dead", "list", "--limit", "0"), "--limit"),
    ],
)
async def test_wrong_usage_is_2_and_one_line_that_names_it(
    arguments: tuple[str, ...], named: str, manman_status: Command
) -> None:
    finished = await manman_status(*arguments)
    assert (finished.code, finished.out) == (2, "")
    assert len(finished.err.splitlines()) == 1
    assert named in finished.err


@pytest.mark.parametrize(
    ("role", "missing"),
    [("api", ("DATABASE_URL",)), ("processor", ("DATABASE_URL", "RABBITMQ_URL"))],
)
async def test_wrong_settings_are_2_and_all_are_named(
    role: str, missing: tuple[str, ...], manman_status: Command
) -> None:
    finished = await manman_status("serve", role=role, workers="none", log_level="loud", portt=1)
    assert finished.code == 2
    variables = {line.split()[1] for line in finished.err.splitlines()}
    assert variables == {
        f"MANMAN_STATUS_{name}" for name in (*missing, "WORKERS", "LOG_LEVEL", "PORTT")
    }


@pytest.mark.parametrize("arguments", [("migrate",), ("dead", "list"), ("dead", "replay", "--all")])
async def test_a_server_that_is_not_there_is_1_and_one_line(
    arguments: tuple[str, ...], manman_status: Command
) -> None:
    finished = await manman_status(*arguments, **NOWHERE)
    assert (finished.code, finished.out) == (1, "")
    assert len(finished.err.splitlines()) == 1
    assert "does not answer" in finished.err


@pytest.mark.parametrize(
    "arguments", [("migrate",), ("serve", "--role", "api"), ("serve", "--role", "processor")]
)
def test_a_command_without_its_extra_says_which(arguments: tuple[str, ...]) -> None:
    code = WITHOUT_EXTRAS.format(names=BROUGHT_BY["server"])
    urls = {f"MANMAN_STATUS_{name.upper()}": url for name, url in NOWHERE.items()}
    finished = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=urls,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 1
    assert (
        finished.stderr == f"manman-status: {arguments[0]} needs the server extra: pip install"
        " 'manman-status[server]'\n"
    )


@pytest.mark.parametrize("name", ["cyclopts", "httpx", "rich"])
def test_a_command_without_the_cli_extra_says_so(name: str) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS.format(names=[name]), "workers"],
        env={"MANMAN_STATUS_URL": "http://127.0.0.1:1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 1
    assert finished.stderr.endswith("the cli extra: pip install 'manman-status[cli]'\n")
    assert len(finished.stderr.splitlines()) == 1


def test_every_command_explains_itself_without_the_server_s_extra() -> None:
    code = WITHOUT_EXTRAS.format(names=[*BROUGHT_BY["server"], *BROUGHT_BY["dev-stack"]])
    for name in NAMES:
        finished = subprocess.run(
            [sys.executable, "-c", code, name, "--help"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (finished.returncode, finished.stderr) == (0, ""), name


async def test_an_interrupted_command_is_130_without_a_word() -> None:
    """It waits for a broker that accepts and then says nothing."""
    connected = asyncio.Event()

    async def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await _reader.read()
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-m",
                "manman_status",
                "dead",
                "list",
                "--rabbitmq-url",
                f"amqp://127.0.0.1:{port}/",
            ),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(20):
            await connected.wait()
            process.send_signal(signal.SIGINT)
            out, err = await process.communicate()
    assert (process.returncode, out, err) == (130, b"", b"")


THEIR_FLAGS = ("--no-should-run-migration-check", "--log-otlp", "--create-vhost", "--preload-app")


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (("start-status-api", *THEIR_FLAGS, "--workers", "2"), ["DATABASE"]),
        (("host", "start-status-processor", *THEIR_FLAGS), ["DATABASE", "RABBITMQ"]),
        (("host", "run-migration"), ["DATABASE"]),
    ],
)
async def test_manman_s_command_line_is_understood(
    arguments: tuple[str, ...], missing: list[str], manman_status: Command
) -> None:
    """The command stops where ours does without servers. One line names what means nothing here."""
    finished = await manman_status(*arguments)
    assert finished.code == 2
    assert [line.split()[1] for line in finished.err.splitlines() if "is not set" in line] == [
        f"MANMAN_STATUS_{name}_URL" for name in missing
    ]
    ignored = [flag for flag in arguments if flag in THEIR_FLAGS]
    warnings = [line for line in finished.err.splitlines() if "means nothing here" in line]
    assert len(warnings) == bool(ignored)
    assert all(" ".join(ignored) in line for line in warnings)


async def test_a_flag_that_manman_does_not_have_is_refused(manman_status: Command) -> None:
    finished = await manman_status("start-status-api", "--fast", "--log-otlp")
    assert finished.code == 2
    assert "--fast" in finished.err.splitlines()[-1]
    assert (await manman_status("serve", "--log-otlp")).code == 2
