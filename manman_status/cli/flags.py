"""Flags that are settings too. The environment is read by `settings` alone, which lists every problem at once."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from cyclopts import Parameter

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
