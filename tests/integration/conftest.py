from tests.messaging import channel, dead_letters, depth, publish, publisher_at, rows
from tests.sink import sink, start_sink

__all__ = [
    "channel",
    "dead_letters",
    "depth",
    "publish",
    "publisher_at",
    "rows",
    "sink",
    "start_sink",
]
