"""The reporter, which a worker embeds to be seen. It needs msgspec and an AMQP library, and nothing
of the service."""

from manman_status.reporter.life import InvalidReport
from manman_status.reporter.status_reporter import StatusReporter
from manman_status.reporter.threaded import ThreadedStatusReporter

__all__ = ["InvalidReport", "StatusReporter", "ThreadedStatusReporter"]
