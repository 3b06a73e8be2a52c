"""What can go wrong, by name. An exception's docstring is its message; its fields fill it in."""

from __future__ import annotations


class ManManStatusError(Exception):
    """Something in manman-status failed."""

    def __init__(self, **fields: object) -> None:
        self.fields = fields
        super().__init__((type(self).__doc__ or "").format(**fields))


class SettingsError(ManManStatusError):
    """{summary}"""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__(summary="\n".join(problems))


class PoisonMessage(ManManStatusError):  # noqa: N818 - the field's word for it
    """{reason}"""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason=reason)


class SchemaBehind(ManManStatusError):  # noqa: N818
    """The database schema is {found}, this program needs {needed}: run `manman-status migrate`."""


class DatabaseUnavailable(ManManStatusError):  # noqa: N818
    """The database does not answer: {cause}"""


class BrokerUnavailable(ManManStatusError):  # noqa: N818
    """RabbitMQ does not answer: {cause}"""


class BrokerRefuses(BrokerUnavailable):
    """{cause}"""


class CommandFailed(ManManStatusError):  # noqa: N818
    """{reason}"""

    def __init__(self, reason: str) -> None:
        super().__init__(reason=reason)


class UnknownWorker(ManManStatusError):  # noqa: N818
    """No event has ever named worker {worker_id}."""


class UnknownServerInstance(ManManStatusError):  # noqa: N818
    """No event has ever named game server instance {instance_id}."""


class UnknownAlert(ManManStatusError):  # noqa: N818
    """There is no alert {alert_id}, or it was resolved longer ago than alerts are kept."""
