"""Flags that are settings too. The environment is read by `settings` alone, which lists every
problem at once."""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeAlias

from cyclopts import Parameter
from cyclopts.validators import Number

from manman_status.errors import SettingsError
from manman_status.settings import variable


def setting(name: str, meaning: str) -> Parameter:
    """The flag of a setting; its help names the variable and never shows the value."""
    return Parameter(help=f"{meaning} [{variable(name)}]")


Role: TypeAlias = Literal["api", "processor"]
DatabaseUrl: TypeAlias = Annotated[
    str | None, setting("database_url", "PostgreSQL: postgresql://user:password@host/name")
]
RabbitmqUrl: TypeAlias = Annotated[
    str | None, setting("rabbitmq_url", "RabbitMQ: amqp://user:password@host/virtual-host")
]

Id: TypeAlias = Annotated[int, Parameter(validator=Number(gte=1, lt=2**63))]
OptionalId: TypeAlias = Annotated[int | None, Parameter(validator=Number(gte=1, lt=2**63))]
Labels: TypeAlias = Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)]


def labels_of(texts: Labels) -> dict[str, str]:
    """Of KEY:VALUE, or KEY=VALUE, each."""
    pairs = [re.fullmatch(r"([^:=]+)[:=](.*)", text, re.DOTALL) for text in texts]
    if wrong := [text for text, pair in zip(texts, pairs, strict=True) if pair is None]:
        raise SettingsError([f"--label {text}: must be KEY:VALUE" for text in wrong])
    return {pair[1]: pair[2] for pair in pairs if pair}
