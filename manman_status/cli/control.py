"""Control messages of operators, sent to the processors."""

from __future__ import annotations

import getpass
from typing import Annotated, Any, TypeAlias

import msgspec
from cyclopts import Parameter

from manman_status.alerts.rules import RULE_NAMES
from manman_status.cli.broker import send_control
from manman_status.errors import SettingsError
from manman_status.settings import load_settings
from manman_status.wire.control import (
    AlertAcknowledged,
    ForgetRequested,
    SilenceEnded,
    SilenceRequested,
)

Why: TypeAlias = Annotated[str, Parameter(help="For whoever reads it later.")]
By: TypeAlias = Annotated[
    str | None, Parameter(help="Who says so; your login name when it is not given.")
]


def _known_rule(_: Any, rule: str | None) -> None:
    if rule is not None and rule not in RULE_NAMES:
        raise ValueError(f"there is no such rule; there are {', '.join(RULE_NAMES)}")


Rule: TypeAlias = Annotated[
    str | None,
    Parameter(validator=_known_rule, help=f"One of {', '.join(RULE_NAMES)}.", show_default=False),
]


def say(
    kind: type[SilenceRequested | SilenceEnded | AlertAcknowledged | ForgetRequested],
    *,
    rabbitmq_url: str | None,
    **fields: object,
) -> None:
    """Send a control message, and return once a queue has it. Raises SettingsError for what no
    processor would understand."""
    settings = load_settings(needs=("rabbitmq_url",), rabbitmq_url=rabbitmq_url)
    try:
        message = msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$.")
        raise SettingsError([f"--{place.rstrip('`')}: {problem}"]) from None
    send_control(settings, message)


def login_name() -> str:
    """The login name; empty when it is unknown: a container may run as a user without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
