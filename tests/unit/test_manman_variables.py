"""ManMan's variables name servers that ours do not, and nothing of others stops a role."""

from __future__ import annotations

import pytest

from manman_status.errors import SettingsError
from manman_status.settings import Reading, read_settings

OURS = "postgresql://ours@h/x"
NEEDS = ("database_url", "rabbitmq_url")
V1 = {
    "MANMAN_POSTGRES_URL": "postgresql+psycopg2://u:p@db:5433/manman",
    "MANMAN_RABBITMQ_HOST": "mq",
    "MANMAN_RABBITMQ_PORT": "5673",
    "MANMAN_RABBITMQ_USER": "rabbit",
    "MANMAN_RABBITMQ_PASSWORD": "pass/word@",
    "MANMAN_RABBITMQ_ENABLE_SSL": "false",
    "MANMAN_RABBITMQ_SSL_HOSTNAME": "<rabbitmq_ssl_hostname>",
    "APP_ENV": "dev",
}
LATER = {
    "POSTGRES_URL": "postgresql://later@db/manman",
    "RABBITMQ_HOST": "later",
    "RABBITMQ_VHOST": "games/eu",
}


def read(environ: dict[str, str], database_url: str | None = None) -> Reading:
    return read_settings(needs=NEEDS, environ=environ, database_url=database_url)


def problems(environ: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        read({"POSTGRES_URL": OURS, "RABBITMQ_HOST": "h"} | environ)
    return caught.value.problems


def test_the_variables_of_a_v1_worker_name_both_servers() -> None:
    """Its virtual host is `manman-<APP_ENV>`; a name for TLS counts with TLS alone."""
    reading = read(V1)
    assert reading.settings.database_url == V1["MANMAN_POSTGRES_URL"]
    assert reading.settings.rabbitmq_url == "amqp://rabbit:pass%2Fword%40@mq:5673/manman-dev"
    assert reading.sources["database_url"] == ("MANMAN_POSTGRES_URL",)
    assert {*reading.sources["rabbitmq_url"]} == {
        name for name in V1 if name != "MANMAN_POSTGRES_URL" and "SSL_HOSTNAME" not in name
    }


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({"RABBITMQ_HOST": "h"}, "amqp://guest:guest@h/%2F"),
        ({"RABBITMQ_HOST": "h", "APP_ENV": "dev"}, "amqp://guest:guest@h/%2F"),
        (LATER, "amqp://guest:guest@later/games%2Feu"),
        ({"MANMAN_RABBITMQ_HOST": "::1"}, "amqp://guest:guest@[::1]/%2F"),
        (
            {
                "RABBITMQ_HOST": "h",
                "RABBITMQ_ENABLE_SSL": "True",
                "RABBITMQ_SSL_HOSTNAME": "mq.example",
            },
            "amqps://guest:guest@h/%2F?server_hostname=mq.example",
        ),
        (
            {"RABBITMQ_HOST": "h", "RABBITMQ_PORT": "tcp://10.0.0.1:5672"},
            "amqp://guest:guest@h/%2F",
        ),
    ],
)
def test_the_broker_s_url_is_made_of_its_variables(environ: dict[str, str], url: str) -> None:
    assert read(environ, database_url=OURS).settings.rabbitmq_url == url


def test_v1_s_family_counts_before_the_later_one_and_they_do_not_mix() -> None:
    settings = read(V1 | LATER).settings
    assert settings.database_url == V1["MANMAN_POSTGRES_URL"]
    assert settings.rabbitmq_url.endswith("@mq:5673/manman-dev")
    without_host = {name: value for name, value in V1.items() if name != "MANMAN_RABBITMQ_HOST"}
    assert "rabbit:" not in read(without_host | LATER).settings.rabbitmq_url


def test_nothing_of_theirs_overrides_a_server_of_ours() -> None:
    """Not half of one either: no virtual host, and no database beside a replica of ours."""
    ours = {
        "MANMAN_STATUS_DATABASE_URL": OURS,
        "MANMAN_STATUS_RABBITMQ_URL": "amqp://ours/",
    }
    reading = read(V1 | LATER | ours)
    assert (reading.settings.database_url, reading.settings.broker_url) == (OURS, "amqp://ours/")
    assert reading.sources == {}
    replica = {"MANMAN_STATUS_DATABASE_READ_URL": OURS}
    api = read_settings(needs=(("database_url", "database_read_url"),), environ=V1 | replica)
    assert (api.settings.database_url, api.settings.read_url) == ("", OURS)


def test_the_bridge_reads_the_database_that_manman_s_variables_name() -> None:
    """The database is ManMan's own, whether ours is another or the same."""
    needs = ("database_url", "manman_database_url")
    theirs = {"MANMAN_POSTGRES_URL": V1["MANMAN_POSTGRES_URL"]}
    ours = read_settings(needs=needs, environ=theirs | {"MANMAN_STATUS_DATABASE_URL": OURS})
    assert ours.settings.database_url == OURS
    assert ours.settings.manman_database_url == V1["MANMAN_POSTGRES_URL"]
    shared = read_settings(needs=needs, environ=theirs).settings
    assert shared.database_url == shared.manman_database_url


def test_a_virtual_host_of_ours_takes_the_place_of_theirs() -> None:
    reading = read(V1 | {"MANMAN_STATUS_VIRTUAL_HOST": "mine"})
    assert reading.settings.broker_url == "amqp://rabbit:pass%2Fword%40@mq:5673/mine"


def test_servers_that_nobody_needs_are_not_read() -> None:
    """A command that queries the api starts beside another program's broken POSTGRES_URL."""
    reading = read_settings(environ={"POSTGRES_URL": "mysql://h", "RABBITMQ_HOST": "h"})
    assert (reading.settings.database_url, reading.settings.rabbitmq_url) == ("", "")


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("POSTGRES_URL", "mysql://h", "must begin with postgresql:// or postgres://"),
        ("RABBITMQ_HOST", "amqp://h", "must be the name of a host"),
        ("RABBITMQ_PORT", "amqp", "must be 1 to 65535, not 'amqp'"),
        ("RABBITMQ_ENABLE_SSL", "perhaps", "must be true or false, not 'perhaps'"),
    ],
)
def test_a_problem_with_theirs_names_their_variable(name: str, value: str, problem: str) -> None:
    assert problems({name: value}) == [f"{name} {problem}"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "tcp://10.0.0.1:8000"),
        ("SERVICE_HOST", "10.0.0.1"),
        ("SERVICE_PORT", "8000"),
        ("SERVICE_PORT_HTTP", "8000"),
        ("DEV_SERVICE_PORT", "8000"),
        ("API_PORT", "tcp://10.0.0.1:8000"),
        ("PORT_8000_TCP", "tcp://10.0.0.1:8000"),
        ("API_PORT_8000_TCP_ADDR", "10.0.0.1"),
        ("API_URL", "http://status"),
        ("BUILD", "7"),
    ],
)
def test_a_variable_of_kubernetes_or_others_is_ignored(name: str, value: str) -> None:
    variable = f"MANMAN_STATUS_{name}"
    reading = read(V1 | {variable: value})
    assert reading.ignored == [variable]
    assert reading.settings.port == 8000


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("PORTT", "PORT"),
        ("DATABSE_URL", "DATABASE_URL"),
        ("TOKENS", "API_TOKENS"),
        ("ROLES", "ROLE"),
        ("DEFAULT_INTERVAL", "DEFAULT_INTERVAL_SECONDS"),
    ],
)
def test_a_misspelled_setting_is_named_with_what_is_meant(name: str, meant: str) -> None:
    assert problems({f"MANMAN_STATUS_{name}": "x"}) == [
        f"MANMAN_STATUS_{name} is not a setting: do you mean MANMAN_STATUS_{meant}?"
    ]
