from tests.messaging import dead_letters, depth, publish, publisher_at, rows

__all__ = ["dead_letters", "depth", "publish", "publisher_at", "rows"]
