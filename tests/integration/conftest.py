from tests.messaging import dead_letters, depth, publish, publisher_at, rows
from tests.sink import sink, start_sink

__all__ = ["dead_letters", "depth", "publish", "publisher_at", "rows", "sink", "start_sink"]
