"""The fleet as the api shows it, read again and again."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from manman_status.cli.client import LARGEST_PAGE, Client, Refused
from manman_status.domain.status import Health
from manman_status.errors import CommandFailed

SHOWN = 50
"""The most silent workers of each kind, and the most changes, that are shown."""
LOOK_BACK = 1_000
"""The number of past transitions that are read at first, to find those of one group."""
SILENT = (Health.UNHEALTHY, Health.LATE)


class FleetView:
    """The last answers of the api for one group, or for all. `problem` says why nothing newer was
    read, `news` what else to know."""

    def __init__(self, client: Client, group: str | None) -> None:
        self._client = client
        self._position: str | None = None
        self.group = group
        self.problem = ""
        self.news = ""
        self.read_at = datetime.now(UTC)
        self.system: dict[str, Any] = {}
        self.alerts: dict[str, Any] = {}
        self.silent: list[dict[str, Any]] = []
        self.has_more_silent = False
        self.changes: deque[dict[str, Any]] = deque(maxlen=SHOWN)
        """The newest first."""

    def look(self) -> None:
        """Read everything anew. Raises CommandFailed, and keeps the last answers then."""
        system = self._client.get("/status/system")
        # As many as there may be: those that are parts of others are among them, and the newest
        # come first.
        alerts = self._client.get("/status/alerts", {"group": self.group, "limit": LARGEST_PAGE})
        pages = [
            self._client.get(
                "/status/workers", {"group": self.group, "limit": SHOWN, "health": health}
            )
            for health in SILENT
        ]
        self._read_changes()
        self.system, self.alerts, self.read_at = system, alerts, datetime.now(UTC)
        self.silent = [
            {**worker, "as_of": page["as_of"]} for page in pages for worker in page["items"]
        ]
        self.has_more_silent = any(page["next_cursor"] is not None for page in pages)

    def look_again(self) -> None:
        try:
            self.look()
        except CommandFailed as error:
            self.problem = str(error)
        else:
            self.problem = ""

    def _read_changes(self) -> None:
        found = None
        while found is None or len(found["items"]) == LOOK_BACK:
            if self._position is None:
                newest = self._client.get("/status/changes")
                self._position = f"{newest['epoch']}-{max(newest['revision'] - LOOK_BACK, 0)}"
            query = {"since": self._position, "group": self.group, "limit": LOOK_BACK}
            try:
                found = self._client.get("/status/changes", query)
            except Refused as error:
                if error.status != HTTPStatus.GONE:
                    raise
                if "resume_from" in error.problem:
                    self.news = (
                        f"{datetime.now(UTC):%H:%M:%SZ} history was restored from a backup or by a"
                        " failover"
                    )
                    self.changes.clear()
                    self._position = None
                    continue
                self._position = str(error.problem["oldest_revision"] - 1)
            else:
                self._position = f"{found['epoch']}-{found['revision']}"
                self.changes.extendleft(found["items"])
