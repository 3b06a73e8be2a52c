"""The exceptions. An exception's docstring is its message; its fields fill it in."""

from __future__ import annotations

import re


def describe(error: BaseException) -> str:
    """The kind of error and its text on one line; the kind alone when it has no text."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class ManManStatusError(Exception):
    """Something in manman-status failed."""

    def __init__(self, **fields: object) -> None:
        self.fields = fields
        # The lines of a docstring are joined, those within a field are not.
        template = " ".join((type(self).__doc__ or "").split())
        super().__init__(template.format(**fields))


class SettingsError(ManManStatusError):
    """{summary}"""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__(summary="\n".join(problems))


class PoisonMessage(ManManStatusError):  # noqa: N818 - the field's word for it
    """{reason}"""

    def __init__(self, problem: str, *, at: str = "", found: str = "") -> None:
        """`found` is the wrong value, `at` its place in the message."""
        self._problem = f"{problem} - at `{at}`" if at else problem
        self.reason = f"{found} {self._problem}" if found else self._problem
        super().__init__(reason=self.reason)

    @property
    def cause(self) -> str:
        """The problem without its value and array index, so that like messages share one cause."""
        return re.sub(r"\[[0-9]+\]", "[]", self._problem)


class SchemaBehind(ManManStatusError):  # noqa: N818
    """The database schema is {found}, this program needs {needed}: run `manman-status migrate`."""


class DatabaseUnavailable(ManManStatusError):  # noqa: N818
    """The database does not answer: {cause}"""


class DatabaseRefuses(ManManStatusError):  # noqa: N818
    """The database refuses: {cause}"""


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


class UnknownHost(ManManStatusError):  # noqa: N818
    """No worker has ever been labelled with host {host}."""


class UnknownServerInstance(ManManStatusError):  # noqa: N818
    """No event has ever named game server instance {instance_id}."""


class UnknownAlert(ManManStatusError):  # noqa: N818
    """There is no alert {alert_id}, or it was resolved longer ago than alerts are kept."""


class PluginMissing(ManManStatusError):  # noqa: N818
    """RabbitMQ lacks the plugin rabbitmq_consistent_hash_exchange, which more than one partition
    needs: `rabbitmq-plugins enable rabbitmq_consistent_hash_exchange`, or set
    MANMAN_STATUS_PARTITIONS=1"""
