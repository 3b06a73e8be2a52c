from tests.faults.liveness import observed, start_quick
from tests.faults.proxy import proxy
from tests.faults.stepping import clock, stepping_database, stepping_postgres
from tests.fleet import fleet
from tests.manman import manman, start_bridge
from tests.messaging import channel, dead_letters, depth, publish, publisher_at, rows
from tests.sink import sink, start_sink

__all__ = [
    "channel",
    "clock",
    "dead_letters",
    "depth",
    "fleet",
    "manman",
    "observed",
    "proxy",
    "publish",
    "publisher_at",
    "rows",
    "sink",
    "start_bridge",
    "start_quick",
    "start_sink",
    "stepping_database",
    "stepping_postgres",
]
