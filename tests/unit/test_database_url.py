"""URLs of PostgreSQL as providers give them."""

from __future__ import annotations

import pytest

from manman_status.database_url import Place, parse_database_url


@pytest.mark.parametrize(
    ("url", "places"),
    [
        ("postgresql://u:p@a:1,b,[::1]:3/x", [("a", 1), ("b", 5432), ("::1", 3)]),
        ("postgresql:///x?host=a,b&port=1,2", [("a", 1), ("b", 2)]),
        ("postgresql:///x?host=a,b&port=7", [("a", 7), ("b", 7)]),
        ("postgresql:///x?host=/run/pg,::1", [("/run/pg", 5432), ("::1", 5432)]),
        ("postgresql://%2Frun%2Fpg,b/x", [("/run/pg", 5432), ("b", 5432)]),
        ("postgresql://a:1/x", []),
        ("postgresql://[::1]:1/x", []),
        ("postgresql:///x", []),
    ],
)
def test_several_hosts_are_places_to_try(
    url: str, places: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPORT", raising=False)
    assert parse_database_url(url).places == [Place(*place) for place in places]


@pytest.mark.parametrize(
    "parameters",
    [
        "channel_binding=require",
        "gssencmode=disable",
        "keepalives=1&keepalives_idle=30&keepalives_interval=10&keepalives_count=3&tcp_user_timeout=5",
        "connect_timeout=10",
        "application_name=theirs",
        "target_session_attrs=read-write",
        "prepared_statements=off",
        "client_encoding=utf8",
        "sslcompression=0&sslsni=1&fallback_application_name=x",
    ],
)
def test_parameters_of_libpq_are_kept_from_the_server(
    parameters: str,
) -> None:
    assert (
        parse_database_url(f"postgresql://h/x?sslmode=require&{parameters}").dsn
        == "postgresql://h/x?sslmode=require"
    )


def test_what_asyncpg_and_the_server_understand_is_passed_on() -> None:
    url = "postgresql://u:p%40@h:1/x?sslmode=verify-full&sslrootcert=%2Fca.pem&options=-c+search_path%3Dfleet"
    assert parse_database_url(url).dsn == url


@pytest.mark.parametrize(
    "scheme", ["postgres", "postgresql", "postgresql+psycopg2", "postgresql+asyncpg"]
)
def test_a_drivers_name_in_the_scheme_does_no_harm(scheme: str) -> None:
    assert parse_database_url(f"{scheme}://u:p@h/x").dsn == "postgresql://u:p@h/x"


def test_the_systems_certificates_may_be_named() -> None:
    found = parse_database_url("postgresql://h/x?sslmode=verify-full&sslrootcert=system")
    assert (found.dsn, found.trusts_system) == ("postgresql://h/x", True)
