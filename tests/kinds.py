"""The types that tests name: of fixtures that are functions, and of running roles."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from manman_status.dev.processes import Child


class Eventually(Protocol):
    async def __call__(
        self, condition: Callable[[], Any | Awaitable[Any]], *, within_seconds: float = 120.0
    ) -> Any: ...


class ProcessTree(Protocol):
    def __call__(self, root: int = 1) -> dict[int, str]: ...


class Role(Child):
    """A running `manman-status serve`. `pid`, `log` (what it wrote so far), `kill()`; of an api
    also its `url`."""

    url: str = ""

    def stop(self, *, within_seconds: float = 30.0) -> int:
        """SIGTERM; it must end by itself, in order."""
        code = super().stop(within_seconds=within_seconds)
        assert code == 0, self.ended(code)
        return code


class FetchRows(Protocol):
    """Fetch rows of the test's database as dictionaries."""

    async def __call__(self, sql: str, *arguments: Any) -> list[dict[str, Any]]: ...


StartRole = Callable[..., Awaitable[Role]]
"""Start a role with settings, and wait until it works."""
