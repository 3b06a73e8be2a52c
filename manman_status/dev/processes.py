"""Child processes that end with this one, even when it is killed."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from manman_status.errors import ManManStatusError

if TYPE_CHECKING:
    import pwd
    from collections.abc import Callable, Mapping, Sequence

# The guard leads the process group that all children join. Its standard input is a pipe whose other
# end only we hold: when we are gone, even by SIGKILL, it reads the end and takes its whole group
# along. Unlike PR_SET_PDEATHSIG this works on every Unix, for a child with another user, for
# grandchildren, and whichever thread started them.
GUARD: Final = """
import os, signal, sys, time
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
sys.stdin.buffer.read()
os.killpg(0, signal.SIGINT)
time.sleep(1)
os.killpg(0, signal.SIGKILL)
"""


LONGEST_FAULT = 200
"""Characters of one line of a server's log that are worth showing, half of them from each end."""


class ChildFailed(ManManStatusError):  # noqa: N818
    """{name} {problem}; the end of {log}:{tail}"""


class ServerFailed(ChildFailed):
    """{name} {problem}: {fault}. Log: {log}"""


@functools.cache
def guard() -> int:
    """The process group for children, with its guard started. When we exit normally, the remaining
    children are killed too."""
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-I", "-S", "-c", GUARD], stdin=subprocess.PIPE, process_group=0
    )

    def end() -> None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    atexit.register(end)
    return process.pid


def wait_until(condition: Callable[[], bool], *, within_seconds: float) -> bool:
    """Poll the condition. True when it became true in time."""
    deadline = time.monotonic() + within_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class Child:
    """One running command. Its output goes to the end of `log_file`.

    `fault`: matches the line of a server's log that says why it failed, as group 1.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log_file: Path,
        env: Mapping[str, str] | None = None,
        folder: Path | None = None,
        user: pwd.struct_passwd | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        fault: re.Pattern[str] | None = None,
    ) -> None:
        self.name = name
        self._fault = fault
        self.log_file = log_file
        self._stop_signal = stop_signal
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("ab") as log:
            self._log_begins = log.tell()
            self._process = subprocess.Popen(  # noqa: S603
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                cwd=folder,
                user=user.pw_uid if user else None,
                group=user.pw_gid if user else None,
                extra_groups=[] if user else None,
                process_group=guard(),
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; minus the signal's number when a signal ended it."""
        return self._process.poll()

    @property
    def log(self) -> str:
        """Output in `log_file` since this command began."""
        with self.log_file.open("rb") as log:
            log.seek(self._log_begins)
            return log.read().decode("utf-8", errors="replace")

    def wait(self, *, within_seconds: float) -> int:
        """Wait for the exit code. Raises ChildFailed when it still runs after `within_seconds`."""
        try:
            return self._process.wait(within_seconds)
        except subprocess.TimeoutExpired:
            raise self.failed(f"still runs after {within_seconds:g} s") from None

    def wait_until_ready(self, ready: Callable[[], bool], *, within_seconds: float) -> None:
        """Wait for `ready()`. Raises ChildFailed, and leaves no process, when the command ends or
        the time passes before."""
        wait_until(lambda: self.returncode is not None or ready(), within_seconds=within_seconds)
        if self.returncode is not None:
            raise self.ended(self.returncode)
        if not ready():
            self.kill()
            raise self.failed(f"was not ready within {within_seconds:g} s")

    def stop(self, *, within_seconds: float = 15.0) -> int:
        """Send its stop signal, then kill it. Returns the exit code; no-op when it has ended."""
        if self.returncode is None:
            self._process.send_signal(self._stop_signal)
            self._process.send_signal(signal.SIGCONT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(within_seconds)
            self._process.kill()
        return self._process.wait()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def ended(self, code: int) -> ChildFailed:
        return self.failed(
            f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        )

    def failed(self, problem: str) -> ChildFailed:
        if self._fault and (found := self._fault.search(self.log)):
            fault = shortened(found[1].strip(" ."))
            return ServerFailed(name=self.name, problem=problem, fault=fault, log=self.log_file)
        tail = "".join(f"\n    {line}" for line in self.log.splitlines()[-15:])
        return ChildFailed(name=self.name, problem=problem, log=self.log_file, tail=tail)


def shortened(text: str) -> str:
    half = LONGEST_FAULT // 2
    return text if len(text) <= LONGEST_FAULT else f"{text[:half]} … {text[-half:]}"
