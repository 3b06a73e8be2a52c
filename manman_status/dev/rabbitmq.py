"""A private RabbitMQ node as our own child, from the `rabbitmq-server` of this machine."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from manman_status.dev.ports import free_port, is_open
from manman_status.dev.processes import Child, ChildFailed
from manman_status.errors import CommandFailed
from manman_status.settings import variable

NODE_NAME = "manman@localhost"
PACKAGES = Path("/usr/lib/rabbitmq")

BANNER = re.compile(r"##\s+RabbitMQ (\d+\.\d+\.\d+)")
FAULT = re.compile(
    r"\[error\] <[\d.]+> +(?!\x1b|=|BOOT FAILED)(?:ERROR: |Feature flags: )?([^\x1b\n]+)"
)

PLUGINS = ("rabbitmq_management", "rabbitmq_consistent_hash_exchange")

CONFIGURATION = """\
listeners.tcp.1 = 127.0.0.1:{port}
management.tcp.ip = 127.0.0.1
management.tcp.port = {management_port}
collect_statistics_interval = 1000
log.console = true
log.console.level = warning
log.file = false
"""


class EmbeddedRabbitMQ:
    """One node on ports of 127.0.0.1, with the management plugin; its data stays in `folder` for
    the next start.

    It takes some 8 s to start: `launch` returns at once, `wait_until_ready` waits.
    """

    def __init__(
        self, folder: Path, *, port: int | None = None, plugins: Sequence[str] = PLUGINS
    ) -> None:
        self.folder = folder.resolve()
        self._plugins = plugins
        self.port = port or free_port()
        self.management_port = free_port()
        self.log_file = self.folder / "rabbitmq.log"
        self._epmd_port = free_port()
        self._distribution_port = free_port()
        self._version_file = self.folder / "version"
        self._server = Path()
        self._epmd: Child | None = None
        self._node: Child | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def child(self) -> Child:
        assert self._node is not None, "not started"
        return self._node

    def start(self) -> Self:
        self.launch()
        self.wait_until_ready()
        return self

    def launch(self) -> None:
        self._server = rabbitmq_server()
        self._write_files()
        environment = self._environment()
        # Without an epmd the node starts one that outlives it. This one is our child.
        epmd = ["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"]
        self._epmd = Child("epmd", epmd, log_file=self.log_file, env=environment)
        self._epmd.wait_until_ready(lambda: is_open(self._epmd_port), within_seconds=10)
        # Erlang writes crash dumps into the current folder.
        self._node = Child(
            "RabbitMQ",
            [self._server],
            log_file=self.log_file,
            env=environment,
            folder=self.folder,
            fault=FAULT,
        )

    def wait_until_ready(self) -> None:
        """Raises CommandFailed when the node fails and another version of RabbitMQ wrote its
        data."""
        try:
            try:
                self.child.wait_until_ready(self._is_ready, within_seconds=60)
            except ChildFailed as error:
                self._blame_other_version(error)
                raise
        except BaseException:
            self.kill()
            raise
        if banners := BANNER.findall(self.child.log):
            self._version_file.write_text(f"{banners[-1]}\n", encoding="ascii")

    def _blame_other_version(self, error: ChildFailed) -> None:
        wrote, runs = self._data_version(), self._server_version()
        if wrote and runs and wrote != runs:
            raise CommandFailed(
                f"RabbitMQ {runs} does not start on the data of RabbitMQ {wrote}: delete"
                f" {self.folder} and start again, or name RabbitMQ {wrote} in"
                f" {variable('rabbitmq_server')}. {error}"
            ) from error

    def _data_version(self) -> str | None:
        """The version that last ran on this folder's data; the log knows it where no start has
        recorded it yet."""
        if self._version_file.exists():
            return self._version_file.read_text(encoding="ascii").strip()
        banners = BANNER.findall(self.log_file.read_text(encoding="utf-8", errors="replace"))
        return banners[-1] if banners else None

    def _server_version(self) -> str | None:
        """The version that this node runs: its log says so, unless the node failed before its
        banner.

        Call this while our epmd runs: rabbitmqctl starts a daemon of its own where there is none.
        """
        if banners := BANNER.findall(self.child.log):
            return str(banners[-1])
        command = [str(self._server.with_name("rabbitmqctl")), "version"]
        try:
            answer = subprocess.run(  # noqa: S603
                command,
                env=self._environment(),
                cwd=self.folder,
                capture_output=True,
                text=True,
                check=True,
                timeout=30,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return answer.stdout.strip()

    def stop(self, *, within_seconds: float = 15.0) -> None:
        """Shut down and keep the data; no-op unless it runs.

        Connections and message stores close at once. Then the management plugin takes 5 s.
        """
        for child in (self._node, self._epmd):
            if child:
                child.stop(within_seconds=within_seconds)

    def kill(self) -> None:
        for child in (self._node, self._epmd):
            if child:
                child.kill()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _is_ready(self) -> bool:
        """True when it answers AMQP's greeting: the port alone opens a little earlier."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return connection.recv(1) == b"\x01" and is_open(self.management_port)
        except OSError:
            return False

    def _write_files(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        ports = {"port": self.port, "management_port": self.management_port}
        (self.folder / "rabbitmq.conf").write_text(CONFIGURATION.format(**ports), encoding="ascii")
        (self.folder / "advanced.config").write_text("[].\n", encoding="ascii")
        (self.folder / "enabled_plugins").write_text(
            f"[{','.join(self._plugins)}].\n", encoding="ascii"
        )
        cookie = self.folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.touch(mode=0o600)
            cookie.write_text(secrets.token_hex(20), encoding="ascii")
            cookie.chmod(0o400)

    def _environment(self) -> dict[str, str]:
        folder = self.folder
        # Files that it would otherwise read below /etc/rabbitmq or write below /var.
        files = {
            "CONF_ENV_FILE": "/dev/null",
            "CONFIG_FILE": folder / "rabbitmq.conf",
            "CONFIG_FILES": folder / "conf.d/*.conf",
            "ADVANCED_CONFIG_FILE": folder / "advanced.config",
            "ENABLED_PLUGINS_FILE": folder / "enabled_plugins",
            "MNESIA_BASE": folder / "mnesia",
            "LOG_BASE": folder / "log",
            "GENERATED_CONFIG_DIR": folder / "generated",
            "PID_FILE": folder / "rabbitmq.pid",
        }
        return {
            # A server that was named may have an epmd of its own beside it.
            "PATH": f"{self._server.parent}:{os.environ.get('PATH', os.defpath)}",
            "LANG": "C.UTF-8",
            "HOME": str(folder),  # where Erlang looks for its cookie
            # so that the script becomes the node: its pid is the node's
            "RUNNING_UNDER_SYSTEMD": "1",
            "RABBITMQ_NODENAME": NODE_NAME,
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (  # no spinning, no outside
                "+sbwt none -kernel inet_dist_use_interface {127,0,0,1}"
            ),
            **{f"RABBITMQ_{name}": str(path) for name, path in files.items()},
        }


def rabbitmq_server() -> Path:
    """Find the server's script: the one that MANMAN_STATUS_RABBITMQ_SERVER names, itself or by its
    folder, else this machine's. Debian's /usr/sbin/rabbitmq-server does not count: it is a wrapper
    that changes the user."""
    if named := os.environ.get(variable("rabbitmq_server")):
        script = Path(named).absolute()
        script = script / "rabbitmq-server" if script.is_dir() else script
        if not os.access(script, os.X_OK) or not script.is_file():
            raise CommandFailed(f"{variable('rabbitmq_server')}: there is no program {script}")
        return script
    found = shutil.which(
        "rabbitmq-server", path=f"{os.environ.get('PATH', os.defpath)}:/opt/homebrew/sbin"
    )
    candidates = [
        PACKAGES / "bin/rabbitmq-server",
        *sorted(PACKAGES.glob("lib/rabbitmq_server-*/sbin/rabbitmq-server"), reverse=True),
        *([Path(found).resolve()] if found else []),
    ]
    for candidate in candidates:
        if candidate.is_file() and candidate.name == "rabbitmq-server":
            return candidate
    raise CommandFailed(
        "there is no rabbitmq-server on this machine: `apt-get install rabbitmq-server`, "
        "`brew install rabbitmq` or https://www.rabbitmq.com/docs/download, "
        "or name a broker of yours in MANMAN_STATUS_RABBITMQ_URL"
    )
