"""Settings come from variables, all problems are listed at once, and no secret shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from manman_status.dev.settings_files import files
from manman_status.errors import SettingsError
from manman_status.settings import (
    FIELDS,
    PREFIX,
    Settings,
    bounds_of,
    load_settings,
    meaning,
    redacted,
)
from tests.model.observed_fleet import STANDSTILL

EXAMPLE = Path(__file__).parents[2] / ".env.example"
LINE = re.compile(rf"^(?P<off>#?){PREFIX}(?P<name>[A-Z0-9_]+)=(?P<value>.*)$", re.MULTILINE)
SECRET = "open-sesame-4711"


def load(**variables: str) -> Settings:
    return load_settings(
        environ={f"{PREFIX}{name.upper()}": value for name, value in variables.items()}
    )


def problems(**variables: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(**variables)
    assert SECRET not in str(caught.value)
    return caught.value.problems


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_file_matches_the_settings_else_run_make_settings(path: Path) -> None:
    """The fields of `Settings` are the only source of these files: `make settings` writes them."""
    assert path.read_text("utf-8") == files()[path]


@pytest.mark.parametrize("name", FIELDS)
def test_each_setting_has_a_meaning_and_each_number_its_bounds(name: str) -> None:
    assert meaning(name)
    assert isinstance(FIELDS[name].default, bool | str | tuple) or bounds_of(FIELDS[name])


def test_the_example_works_as_it_is_and_shows_the_defaults() -> None:
    lines = list(LINE.finditer(EXAMPLE.read_text("utf-8")))
    given: dict[str, Any] = {
        match["name"].lower(): match["value"] for match in lines if not match["off"]
    }
    assert given.keys() == {"database_url", "rabbitmq_url"}
    plain = load(**given)
    assert load(**{match["name"].lower(): match["value"] for match in lines}) == plain
    assert plain == Settings(**given)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("port", "70000", "must be 0 to 65535, not 70000"),
        ("notify_remind_seconds", "-1", "must be 0 to 604800, not -1"),
        ("guard_release_percent", "nan", "must be 0.1 to 100, not nan"),
        ("heartbeat_queue", "ü" * 128, "must be 1 to 255 bytes long"),
        ("workers", "many", "'many': expected `int`, got `str`"),
        ("log_level", "loud", "'loud': invalid enum value 'loud'"),
        ("rabbitmq_url", "http://h", "must begin with amqp:// or amqps://"),
        ("api_tokens", "tökén", "holds a token that is not ASCII"),
        ("dialects", "manman, v3", "names 'v3'; known are manman, manman-v2"),
        ("dialects", ",", "names no dialect"),
        ("heartbeat_keys", "site.alive", "'site.alive' needs a word * for the id, and no #"),
        ("lifecycle_keys", "site.#", "'site.#' needs a word * for the id, and no #"),
    ],
)
def test_a_problem_names_variable_value_and_bound(name: str, value: str, problem: str) -> None:
    assert problems(**{name: value}) == [f"{PREFIX}{name.upper()} {problem}"]


def test_an_override_is_checked_like_a_variable() -> None:
    with pytest.raises(SettingsError, match="PORT must be 0 to 65535, not 70000"):
        load_settings(environ={}, port=70_000)


def test_every_variable_is_read_as_the_type_of_its_field() -> None:
    settings = load(port="9000", database_timeout_seconds=" 0.5 ", log_level="debug", host="::1")
    assert (settings.port, settings.database_timeout_seconds, settings.log_level) == (
        9000,
        0.5,
        "debug",
    )
    assert settings.host == "::1"


def test_an_empty_variable_counts_as_not_given() -> None:
    assert load(port="", rabbitmq_url=" ") == Settings()


def test_what_a_command_says_outranks_the_environment() -> None:
    environ = {f"{PREFIX}PORT": "9000", f"{PREFIX}WORKERS": "many"}
    settings = load_settings(environ=environ, port=9001, workers=2, host=None)
    assert (settings.port, settings.workers, settings.host) == (9001, 2, "")


def test_all_problems_are_listed_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(
            needs=("database_url", "rabbitmq_url"),
            environ={
                f"{PREFIX}PORT": "eighty",
                f"{PREFIX}WORKERS": "0",
                f"{PREFIX}LOG_LEVEL": "loud",
                f"{PREFIX}HEARTBEAT_QUEUE": "x" * 256,
                f"{PREFIX}RABBITMQ_URL": "http://broker",
                f"{PREFIX}DATABSE_URL": f"postgresql://u:{SECRET}@db/x",
            },
        )
    found = caught.value.problems
    for name in (
        "PORT",
        "WORKERS",
        "LOG_LEVEL",
        "HEARTBEAT_QUEUE",
        "RABBITMQ_URL",
        "DATABASE_URL",
        "DATABSE_URL",
    ):
        assert sum(problem.startswith(f"{PREFIX}{name} ") for problem in found) == 1, name
    assert len(found) == 7
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://u:{SECRET}@h/x",
        f"postgresql://u:{SECRET}@h:port/x",
        f"postgresql://u:12/{SECRET}@h/x",
        f"postgresql://u:12#{SECRET}@h/x",
        f"postgresql://u:{SECRET}@[h/x",
        f"postgresql://u:{SECRET}@a:1,b:two/x",
        f"postgresql://u:{SECRET}@a,b,c/x?port=1,2",
        f"postgresql://u:{SECRET}@h/x?password",
        f"postgresql://u:{SECRET}@h/x?sslmode={SECRET}",
        f"postgresql://u:{SECRET}@h/x?target_session_attrs=writable",
        f"postgresql://u:{SECRET}@h/x?prepared_statements=never",
        f"postgresql://u:{SECRET}@h/x?connect_timeout=soon",
        f"postgresql://u:{SECRET}\u2100@h/x",
        SECRET,
    ],
)
def test_a_wrong_url_is_named_by_its_variable_and_not_shown(url: str) -> None:
    [problem] = problems(database_url=url)
    assert problem.startswith("MANMAN_STATUS_DATABASE_URL ")


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0"])
def test_no_number_without_end_or_meaning_is_accepted(value: str) -> None:
    assert len(problems(database_timeout_seconds=value)) == 1


def test_tokens_come_from_the_variable_and_the_file(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("# of the dashboards\nthird\n\nfirst\n", encoding="utf-8")
    assert load(api_tokens="first, second", api_tokens_file=str(file)).api_tokens == (
        "first",
        "second",
        "third",
    )


@pytest.mark.parametrize("content", [None, b"", b"# only a comment\n", b"\xff\xfe"])
def test_a_token_file_that_gives_no_token_is_a_problem(
    tmp_path: Path, content: bytes | None
) -> None:
    """Else an api that was meant to be closed would stand open."""
    file = tmp_path / "tokens"
    if content is not None:
        file.write_bytes(content)
    [problem] = problems(api_tokens_file=str(file))
    assert problem.startswith("MANMAN_STATUS_API_TOKENS_FILE")


def test_urls_of_channels_are_separated_by_white_space_alone() -> None:
    """A comma belongs to the URL: it may name several recipients."""
    assert load(notify_urls=" mailto://h?to=a,b\n\tjson://h ").notify_urls == (
        "mailto://h?to=a,b",
        "json://h",
    )
    assert load(notify_urls=" ").notify_urls == ()


def test_no_secret_is_in_the_text_of_the_settings() -> None:
    settings = load(
        database_url=f"postgresql://u:{SECRET}@db/x?password={SECRET}",
        rabbitmq_url=f"amqps://u:{SECRET}@mq/x",
        api_tokens=SECRET,
        notify_urls=f"json://u:{SECRET}@h slack://{SECRET}/a/b",
        otlp_endpoint=f"https://u:{SECRET}@collector",
    )
    assert SECRET not in repr(settings) + str(settings)
    assert "postgresql://u:***@db/x" in repr(settings)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p@h:5/x?sslmode=require", "postgresql://u:***@h:5/x"),
        ("postgresql://u:p@a:1,b:2/x?sslmode=require", "postgresql://u:***@a:1,b:2/x"),
        (
            "postgresql+psycopg2://u:p@[::1]:5,[::2]/x",
            "postgresql+psycopg2://u:***@[::1]:5,[::2]/x",
        ),
        ("amqp://h", "amqp://h"),
        ("amqp://u:p@[::1]:5672/", "amqp://u:***@[::1]:5672/"),
        ("http://[broken", "<not a URL>"),
    ],
)
def test_a_url_is_shown_without_its_password_and_query(url: str, shown: str) -> None:
    assert redacted(url) == shown


@pytest.mark.parametrize(
    ("virtual_host", "url"),
    [
        ("", "amqp://u:p@h:5/x?heartbeat=9"),
        ("/", "amqp://u:p@h:5/%2F?heartbeat=9"),
        ("a/b", "amqp://u:p@h:5/a%2Fb?heartbeat=9"),
    ],
)
def test_the_virtual_host_takes_the_place_of_the_one_in_the_url(
    virtual_host: str, url: str
) -> None:
    assert (
        load(rabbitmq_url="amqp://u:p@h:5/x?heartbeat=9", virtual_host=virtual_host).broker_url
        == url
    )


@pytest.mark.parametrize(
    ("given", "listens"),
    [({}, "127.0.0.1"), ({"api_tokens": "t"}, "0.0.0.0"), ({"host": "10.0.0.1"}, "10.0.0.1")],
)
def test_without_tokens_the_api_listens_on_this_machine_only(
    given: dict[str, str], listens: str
) -> None:
    assert load(**given).bind_host == listens


def test_settings_do_not_change() -> None:
    with pytest.raises(AttributeError):
        Settings().port = 1  # type: ignore[misc]
    assert msgspec.structs.replace(Settings(), port=1).port == 1


@pytest.mark.parametrize(
    ("minimum", "canary", "seconds"),
    [(15, 1, 5), (60, 1, 5), (3, 0.2, 3), (1, 0.2, 1), (15, 10, 50)],
)
def test_an_outage_of_five_canaries_and_more_is_one(
    minimum: float, canary: float, seconds: float
) -> None:
    settings = Settings(minimum_timeout_seconds=minimum, canary_interval_seconds=canary)
    assert settings.standstill_seconds == seconds


def test_the_model_of_observers_has_the_shipped_standstill() -> None:
    assert Settings().standstill_seconds == STANDSTILL
