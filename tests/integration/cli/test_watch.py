"""`manman-status watch`, as it is seen: on a terminal of some size, and without one."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import httpx
import pytest

from manman_status.cli.client import Client
from manman_status.cli.watched import FleetView
from manman_status.dev.ports import free_port, is_open
from manman_status.settings import load_settings
from tests.conftest import role_environment, write_thresholds
from tests.kinds import Eventually, Role, StartRole

TOKEN = "open-sesame-4711"
ROWS, COLUMNS = 24, 60
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
FILL = (
    """INSERT INTO workers (worker_id, created_date, last_heartbeat, status, status_since, reason,
       labels)
       SELECT n, now(), now() - interval '20 seconds' * (n % 2), CASE WHEN n = 1 THEN 'LOST' ELSE
           'RUNNING' END, now(),
           'reported', jsonb_build_object('group', CASE WHEN n <= 2 THEN E'a\\x1b[31m' ELSE 'g' || n
               % 15 END)
       FROM generate_series(1, 40) n""",
    """INSERT INTO transitions (revision, at, entity, entity_id, new_status, reason)
       SELECT n, now(), 'worker', 1 + n % 40, CASE WHEN n = 1200 THEN 'LOST' ELSE 'RUNNING' END,
           'reported'
       FROM generate_series(1, 1200) n""",
    "UPDATE revision_counter SET revision = 1200",
    """INSERT INTO alerts (key, rule, severity, summary, opened_at, group_name)
       SELECT 'worker_lost:' || n, 'worker_lost',
           CASE WHEN n = 1 THEN 'critical' ELSE 'info' END, 'silence', now(), 'g1'
       FROM generate_series(1, 60) n""",
    "UPDATE observation SET observed_through = now(), resumed_at = now() - interval '1 day'",
)


@pytest.fixture
async def fleet(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    for statement in FILL:
        await connection.execute(statement)
    yield connection
    await connection.close()


PATIENT = {"degraded_after_seconds": 1800, "blind_after_seconds": 3600}


class Terminal:
    """A process with a terminal of its own. `lines` are those of the last whole frame."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        environment = role_environment(**settings) | {"TERM": "xterm-256color"}
        for size in ("COLUMNS", "LINES"):  # these would outweigh the terminal's own
            environment.pop(size, None)
        self.drawn = ""
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
            os.execve(
                sys.executable, [sys.executable, "-m", "manman_status", *arguments], environment
            )
        asyncio.get_running_loop().add_reader(self._terminal, self._read)

    def _read(self) -> None:
        try:
            self.drawn += os.read(self._terminal, 65_536).decode(errors="replace")
        except OSError:  # nobody has it open any more
            asyncio.get_running_loop().remove_reader(self._terminal)

    @property
    def lines(self) -> Any:
        *_, frame, _ = ["", *self.drawn.split("\x1b[H")]
        return ESCAPES.sub("", frame).replace("\r", "").split("\n")

    @property
    def text(self) -> Any:
        return " ".join(" ".join(self.lines).split())

    async def end(self, number: int) -> Any:
        os.kill(self.pid, number)
        _, status = await asyncio.to_thread(os.waitpid, self.pid, 0)
        return os.waitstatus_to_exitcode(status)


async def test_without_a_terminal_the_fleet_is_printed_once(
    fleet: asyncpg.Connection, start_api: StartRole, manman_status: Any
) -> None:
    api = await start_api(**PATIENT)
    finished = await manman_status("watch", url=api.url)
    assert (finished.code, finished.err) == (0, "")
    assert "\x1b" not in finished.out
    head, groups, alerts, silent, changes = finished.out.split("\n\n")
    observation, numbers = head.splitlines()
    assert observation.startswith("observing well: everything until ")
    assert numbers == "degraded: 0 servers run; workers: 20 healthy, 19 late, 1 unhealthy"
    assert [line.split()[0] for line in groups.splitlines()[:3]] == [
        "groups:",
        "group",
        "a\N{REPLACEMENT CHARACTER}[31m",
    ]
    assert alerts.startswith("alerts, but nobody watches: the rules were never asked: 60\n")
    assert [line.split()[0] for line in alerts.splitlines()[2:4]] == ["critical", "info"]
    assert silent.splitlines()[2].split()[:2] == ["1", "unhealthy"]
    assert len(changes.splitlines()) == 52
    assert changes.splitlines()[2].split()[2:6] == ["worker", "1", "LOST", "reported"]


async def test_a_group_is_shown_alone(
    fleet: asyncpg.Connection, start_api: StartRole, manman_status: Any
) -> None:
    api = await start_api(**PATIENT)
    finished = await manman_status("watch", "--group", "g3", url=api.url)
    _, groups, alerts, silent, changes = finished.out.split("\n\n")
    assert [line.split()[0] for line in groups.splitlines()] == ["groups:", "group", "g3"]
    assert alerts.endswith("none")
    assert {line.split()[-2] for line in silent.splitlines()[2:]} == {"g3"}
    assert {line.split()[-1] for line in changes.splitlines()[2:]} == {"g3"}


async def test_a_refusal_for_a_while_shows_no_change_twice(
    fleet: asyncpg.Connection, start_api: StartRole, eventually: Eventually
) -> None:
    """The fleet is so quiet that all its changes are shown."""
    api = await start_api(**PATIENT, event_streams=1)
    await fleet.execute("DELETE FROM transitions WHERE revision < 1198")
    async with httpx.AsyncClient(base_url=api.url) as http:
        client = Client(load_settings(url=api.url))
        looking = FleetView(client, None)
        await asyncio.to_thread(looking.look)
        async with http.stream("GET", "/status/events"):
            await asyncio.to_thread(looking.look_again)
            assert "and there may be no more" in looking.problem

        async def looks_well() -> bool:
            await asyncio.to_thread(looking.look_again)
            return not looking.problem

        await eventually(looks_well)
    client._http.close()
    assert [change["revision"] for change in looking.changes] == [1200, 1199, 1198]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_small_terminal_is_filled_and_given_back(
    number: int, fleet: asyncpg.Connection, start_api: StartRole, eventually: Eventually
) -> None:
    """Every section has its share of the lines, and says how much of it is seen."""
    api = await start_api(**PATIENT)
    terminal = Terminal("watch", "--interval", "0.2", url=api.url)
    await eventually(lambda: len(terminal.lines) == ROWS)
    assert {len(line) for line in terminal.lines} == {COLUMNS}
    assert all(
        re.search(rf"{section}.*: \d+ of \d+", terminal.text)
        for section in ("groups", "alerts", "last changes")
    )
    assert await terminal.end(number) == 0
    assert "\x1b[?1049h" in terminal.drawn, "a screen of its own"
    await eventually(lambda: "\x1b[?1049l" in terminal.drawn)


async def test_that_nobody_listens_or_answers_cannot_be_overlooked(
    fleet: asyncpg.Connection,
    database: str,
    start_role: Callable[..., Role],
    eventually: Eventually,
) -> None:
    """And both end when they are over."""
    port = free_port()

    def start() -> Any:
        return start_role(
            "api", database_url=database, host="127.0.0.1", port=port, answer_cache_ms=0
        )

    await write_thresholds(database, {"degraded_after_seconds": 60, "blind_after_seconds": 120})
    api = start()
    await eventually(lambda: is_open(port))
    terminal = Terminal("watch", "--interval", "0.2", url=f"http://127.0.0.1:{port}")
    await eventually(lambda: terminal.text.startswith("observing well"))
    await fleet.execute("UPDATE observation SET observed_through = now() - interval '90 seconds'")
    await eventually(lambda: terminal.text.startswith("degraded: everything until"))
    await fleet.execute("UPDATE observation SET observed_through = now() - interval '10 minutes'")
    await eventually(
        lambda: terminal.text.startswith("BLIND since") and "unknown: " in terminal.text
    )
    assert terminal.lines[0].strip() == "", "a bar of several lines"
    api.kill()
    await eventually(lambda: f":{port} does not answer" in terminal.text)
    assert "What stands below is what it said until" in terminal.text
    assert "groups: " in terminal.text
    await eventually(lambda: not is_open(port))
    start()
    await fleet.execute("UPDATE observation SET observed_through = now()")
    await eventually(lambda: terminal.text.startswith("observing well"))
    assert await terminal.end(signal.SIGINT) == 0


async def test_an_api_that_is_not_there_is_1_and_one_line(manman_status: Any) -> None:
    finished = await manman_status("watch", url="http://127.0.0.1:1")
    assert (finished.code, finished.out) == (1, "")
    assert (
        finished.err
        == "manman-status: http://127.0.0.1:1 does not answer: [Errno 111] Connection refused\n"
    )
