"""A worker as people write one, on threads: `python -m tests.faults.worker_program URL WORKER_ID
INSTANCE_ID ...`.

Lines on its standard input: `fork` makes a child that tries to report too; anything else ends it in
order.
"""

from __future__ import annotations

import logging
import os
import sys
import time

from manman_status.reporter import ThreadedStatusReporter

CHILD_S_OWN = 999


def main() -> None:
    url, worker_id, *instances = sys.argv[1:]
    logging.basicConfig(format="%(process)d %(message)s", level=logging.INFO)
    with ThreadedStatusReporter(url, worker_id=int(worker_id), interval_seconds=1) as report:
        for instance_id in instances:
            report.server_started(int(instance_id))
        while sys.stdin.readline() == "fork\n":
            if os.fork() == 0:
                report.server_started(CHILD_S_OWN)
                report.close()
                time.sleep(60)
                os._exit(0)


if __name__ == "__main__":
    main()
