from tests.faults.liveness import observed, start_quick
from tests.fleet import fleet
from tests.messaging import dead_letters, depth, publish, publisher_at, rows

__all__ = ["dead_letters", "depth", "fleet", "observed", "publish", "publisher_at", "rows", "start_quick"]
