"""Both roles, `doctor` and `migrate` say in one plain line what is wrong with the database."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from manman_status.dev.postgres import EmbeddedPostgres
from manman_status.store.migrate import migrate
from tests.conftest import run_command, run_sql
from tests.kinds import Eventually, Role

SECRET = "open-sesame-4711"


@pytest.fixture(scope="module")
async def guarded_postgres(server_folder: Path) -> AsyncIterator[EmbeddedPostgres]:
    """A server that wants a password of `guarded`, and offers no TLS."""
    server = EmbeddedPostgres(server_folder / "guarded-postgres", options={"fsync": "off"}).start()
    await run_sql(
        server.url,
        f"CREATE ROLE guarded LOGIN PASSWORD '{SECRET}'",
        "GRANT ALL ON SCHEMA public TO guarded",
        "CREATE DATABASE old ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
        "GRANT ALL ON DATABASE old TO guarded",
    )
    access = server.folder / "data" / "pg_hba.conf"
    access.write_text("host all guarded 127.0.0.1/32 scram-sha-256\n" + access.read_text())
    await run_sql(server.url, "SELECT pg_reload_conf()")
    yield server
    server.kill()


def url_of(server: Any, *, password: Any = SECRET, name: str = "postgres", query: str = "") -> str:
    return f"postgresql://guarded:{password}@127.0.0.1:{server.port}/{name}{query}"


async def run(*arguments: str, **settings: object) -> tuple[int, list[str]]:
    code, output = await run_command(*arguments, **settings)
    assert SECRET not in output
    assert "Traceback" not in output
    return code, output.splitlines()


CASES = {
    "password": (
        {"password": "wrong"},
        'login refused: password authentication failed for user "guarded"',
    ),
    "database": ({"name": "nowhere"}, 'no such database: database "nowhere" does not exist'),
    "tls": (
        {"query": "?sslmode=require"},
        "TLS refused: the server offers none, but sslmode asks for it",
    ),
    "parameter": ({"query": "?slmode=require"}, 'unrecognized configuration parameter "slmode"'),
    "attribute": (
        {"query": "?target_session_attrs=standby"},
        "not what target_session_attrs asks for",
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_refusal_is_one_plain_line_of_everybody(
    case: Any,
    guarded_postgres: EmbeddedPostgres,
    start_role: Callable[..., Role],
    broker: str,
    eventually: Eventually,
) -> None:
    given, line = CASES[case]
    url = url_of(guarded_postgres, **given)
    (doctor_code, doctor), (migrate_code, [migrated]) = await asyncio.gather(
        run("doctor", "--role", "api", database_url=url), run("migrate", database_url=url)
    )
    assert (doctor_code, migrate_code) == (1, 1)
    assert [line in each for each in doctor if each.startswith("problem")] == [True], doctor
    assert line in migrated
    roles = [
        start_role("api", database_url=url, port=0),
        start_role("processor", database_url=url, rabbitmq_url=broker),
    ]
    for role in roles:
        await eventually(lambda: line in role.log.replace('\\"', '"'))
        assert sum(line in each.replace('\\"', '"') for each in role.log.splitlines()) == 1, (
            role.log
        )
        assert "Traceback" not in role.log
        assert SECRET not in role.log


async def test_of_several_hosts_each_says_why_not(guarded_postgres: EmbeddedPostgres) -> None:
    url = f"postgresql://manman@127.0.0.1:1,127.0.0.1:{guarded_postgres.port}/postgres?target_session_attrs=standby"
    code, lines = await run("doctor", "--role", "api", database_url=url)
    assert code == 1
    [problem] = [line for line in lines if line.startswith("problem")]
    assert "127.0.0.1:1: " in problem
    assert f"127.0.0.1:{guarded_postgres.port}: not what target_session_attrs asks for" in problem


async def test_what_a_provider_puts_into_the_url_does_no_harm(
    guarded_postgres: EmbeddedPostgres,
) -> None:
    parameters = (
        "?sslmode=prefer&channel_binding=prefer&connect_timeout=10&keepalives=1&keepalives_idle=30&gssencmode=disable"
        "&application_name=theirs&options=-c%20search_path%3Dpublic&target_session_attrs=read-write"
    )
    url = url_of(guarded_postgres, query=parameters).replace("postgresql:", "postgresql+psycopg2:")
    await asyncio.to_thread(migrate, url)
    code, lines = await run("doctor", "--role", "api", database_url=url)
    assert (code, Counter(line.split()[0] for line in lines)) == (0, {"ok": 6}), lines


async def test_a_new_database_that_cannot_hold_every_name_is_refused(
    guarded_postgres: EmbeddedPostgres,
) -> None:
    url = url_of(guarded_postgres, name="old")
    code, [line] = await run("migrate", database_url=url)
    assert code == 1
    assert "the database's encoding is LATIN1, and names need UTF8" in line
    code, lines = await run("doctor", "--role", "api", database_url=url)
    assert code == 1
    assert any("has the encoding LATIN1" in each for each in lines if each.startswith("problem"))
