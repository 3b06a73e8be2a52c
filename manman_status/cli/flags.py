"""Flags that are settings too. `settings` alone reads the environment, and lists every problem at
once."""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeAlias

from cyclopts import Parameter
from cyclopts.validators import Number

from manman_status.errors import SettingsError
from manman_status.settings import meaning, variable


def setting(name: str, help: str = "") -> Parameter:  # noqa: A002
    """The flag of a setting; its help names the variable and never shows the value."""
    first_sentence = re.split(r"\.(?: |$)", meaning(name))[0]
    return Parameter(help=f"{help or first_sentence} [{variable(name)}]")


Role: TypeAlias = Literal["api", "processor", "bridge"]
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
    """Labels by key. Each text is KEY:VALUE or KEY=VALUE."""
    pairs = [re.fullmatch(r"([^:=]+)[:=](.*)", text, re.DOTALL) for text in texts]
    if wrong := [text for text, pair in zip(texts, pairs, strict=True) if pair is None]:
        raise SettingsError([f"--label {text}: must be KEY:VALUE" for text in wrong])
    return {pair[1]: pair[2] for pair in pairs if pair}
