"""Every setting, its default and its meaning. The only reader of the environment.

A setting `batch_max_events` is the variable `MANMAN_STATUS_BATCH_MAX_EVENTS` and, where a command
takes it, the flag `--batch-max-events`. Secrets are never shown: `repr` and error texts name the
variable, not its value.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import quote, urlsplit, urlunsplit

import msgspec

from manman_status.database_url import parse_database_url
from manman_status.domain.guard import GuardRules
from manman_status.domain.liveness import Thresholds
from manman_status.domain.sweep import SweepRules
from manman_status.errors import SettingsError

PREFIX = "MANMAN_STATUS_"

LONGEST_UNTOLD_OUTAGE_SECONDS = 5.0
"""An outage of ours of this length may still pass without the recovery grace."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings of both roles, and of the commands that ask the api. Empty strings mean "not
    given"."""

    database_url: str = ""
    database_read_url: str = ""
    rabbitmq_url: str = ""
    virtual_host: str = ""

    host: str = ""
    port: int = 8000
    workers: int = 1
    api_tokens: tuple[str, ...] = ()
    metrics_tokens: tuple[str, ...] = ()
    connections: int = 4_096
    idle_timeout_seconds: float = 20.0
    http2: bool = False
    answer_cache_ms: int = 250
    event_streams: int = 1_000
    public_badges: bool = False

    url: str = "http://127.0.0.1:8000"
    api_token: str = ""

    otlp_endpoint: str = ""
    worker_series: bool = False

    notify_urls: tuple[str, ...] = ()
    notify_routes_file: str = ""
    notify_wait_seconds: float = 5.0
    notify_remind_seconds: float = 14_400.0
    notify_per_hour: int = 60

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"

    inbound_exchange: str = "internal_service_events"
    outbound_exchange: str = "external_service_events"
    control_exchange: str = "manman.status.control"
    dead_letter_exchange: str = "manman.status.dead"
    dead_letter_queue: str = "manman.status.dead"
    heartbeat_queue: str = "manman.status.heartbeats"
    lifecycle_queue: str = "manman.status.lifecycle"
    dropped_queue: str = "manman.status.dropped"
    hash_exchange: str = "manman.status.heartbeats"
    partitions: int = 1
    heartbeat_ttl_seconds: int = 60
    heartbeat_max_length: int = 200_000
    lifecycle_delivery_limit: int = 100
    body_must_match_key: bool = False

    batch_max_events: int = 1_000
    batch_max_wait_ms: int = 50
    prefetch: int = 2_000
    lifecycle_prefetch: int = 500

    default_interval_seconds: float = 10.0
    minimum_timeout_seconds: float = 15.0
    canary_interval_seconds: float = 1.0
    degraded_after_seconds: float = 5.0
    blind_after_seconds: float = 30.0
    recovery_grace_seconds: float = 30.0
    sweep_interval_seconds: float = 1.0
    lease_seconds: float = 3.0
    guard_minimum_workers: int = 3
    guard_percent: float = 30.0
    guard_hold_seconds: float = 60.0
    guard_release_percent: float = 10.0
    retention_days: int = 30

    database_pool_size: int = 10
    database_timeout_seconds: float = 3.0
    shutdown_timeout_seconds: float = 10.0
    probe_folder: str = ""

    def __repr__(self) -> str:
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        shown["database_url"] = redacted(self.database_url)
        shown["database_read_url"] = redacted(self.database_read_url)
        shown["rabbitmq_url"] = redacted(self.rabbitmq_url)
        shown["url"] = redacted(self.url)
        shown["api_token"] = "***" if self.api_token else ""
        shown["api_tokens"] = f"<{len(self.api_tokens)}>"
        shown["metrics_tokens"] = f"<{len(self.metrics_tokens)}>"
        shown["notify_urls"] = f"<{len(self.notify_urls)}>"
        shown["otlp_endpoint"] = redacted(self.otlp_endpoint)
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    @property
    def bind_host(self) -> str:
        """Where the api listens: as told, else everywhere with tokens and only on this machine
        without."""
        return self.host or ("0.0.0.0" if self.api_tokens or self.metrics_tokens else "127.0.0.1")  # noqa: S104

    @property
    def read_url(self) -> str:
        """Where the api reads: a replica when one is named."""
        return self.database_read_url or self.database_url

    @property
    def sweep_rules(self) -> SweepRules:
        return SweepRules(
            thresholds=Thresholds(
                default_interval_seconds=self.default_interval_seconds,
                minimum_timeout_seconds=self.minimum_timeout_seconds,
                recovery_grace_seconds=self.recovery_grace_seconds,
                degraded_after_seconds=self.degraded_after_seconds,
                blind_after_seconds=self.blind_after_seconds,
            ),
            guard=GuardRules(
                minimum_workers=self.guard_minimum_workers,
                percent=self.guard_percent,
                hold_seconds=self.guard_hold_seconds,
                release_percent=self.guard_release_percent,
            ),
        )

    @property
    def standstill_seconds(self) -> float:
        """The observation stood still when it did not move for five canaries and more. Not for the
        smallest timeout: a worker that was silent already, and has to reconnect after a shorter
        outage, would be lost for it."""
        return max(
            5 * self.canary_interval_seconds,
            min(self.minimum_timeout_seconds, LONGEST_UNTOLD_OUTAGE_SECONDS),
        )

    @property
    def broker_url(self) -> str:
        """Where to connect: `rabbitmq_url`, its virtual host replaced by `virtual_host` when that
        is given."""
        if not self.virtual_host:
            return self.rabbitmq_url
        return urlunsplit(
            urlsplit(self.rabbitmq_url)._replace(path="/" + quote(self.virtual_host, safe=""))
        )


Needs: TypeAlias = tuple[str | tuple[str, ...], ...]

NON_FIELDS = ("api_tokens_file", "metrics_tokens_file", "rabbitmq_server", "role")
"""Variables that are no field: `MANMAN_STATUS_API_TOKENS_FILE` and the one for metrics hold one
token a line, `MANMAN_STATUS_RABBITMQ_SERVER` names the server's script that `dev` starts,
`MANMAN_STATUS_ROLE` is what `serve --role` says."""


def redacted(url: str) -> str:
    """The URL without its user's password and without its query, either of which may be secret."""
    try:
        parts = urlsplit(url)
        if not parts.scheme.startswith(
            "postgres"
        ):  # which may name several hosts, each with its port
            _ = parts.port
    except ValueError:
        return "<not a URL>"
    user = f"{parts.username}:***@" if parts.username else ""
    return urlunsplit((parts.scheme, user + parts.netloc.rpartition("@")[2], parts.path, "", ""))


def variable(name: str) -> str:
    return PREFIX + name.upper()


def load_settings(
    *,
    needs: Needs = (),
    environ: Mapping[str, str] | None = None,
    **overrides: Any,
) -> Settings:
    """Settings from the environment; `overrides` that are not None win. Names in `needs` must be
    given, of a tuple of names any one.

    Raises SettingsError with every problem at once, one a line, naming variables and never showing
    secrets.
    """
    environ = os.environ if environ is None else environ
    problems: list[str] = []
    given: dict[str, Any] = {}
    for field in msgspec.structs.fields(Settings):
        override = overrides.pop(field.name, None)
        text = environ.get(variable(field.name), "")
        if override is not None:
            given[field.name] = override
        elif field.name in {"api_tokens", "metrics_tokens"}:
            file = environ.get(variable(f"{field.name}_file"), "")
            given[field.name] = _tokens(field.name, text, file, problems)
        elif field.name == "notify_urls":
            given["notify_urls"] = tuple(text.split())
        elif text.strip():
            _read(field, text.strip(), given, problems)
    if overrides:
        raise TypeError(f"unknown settings: {sorted(overrides)}")
    for name, value in given.items():
        problem = PROBLEMS[name](value) if name in PROBLEMS else ""
        if problem:
            problems.append(f"{variable(name)} {problem}")
    choices = [(need,) if isinstance(need, str) else need for need in needs]
    problems += [
        f"{' or '.join(map(variable, names))} is not set"
        for names in choices
        if not any(map(given.get, names))
    ]
    known = {variable(name) for name in (*Settings.__struct_fields__, *NON_FIELDS)}
    problems += [
        f"{name} is not a setting"
        for name in sorted(environ)
        if name.startswith(PREFIX) and name not in known
    ]
    if problems:
        raise SettingsError(problems)
    return Settings(**given)


def _read(
    field: msgspec.structs.FieldInfo, text: str, given: dict[str, Any], problems: list[str]
) -> None:
    try:
        given[field.name] = msgspec.convert(text, field.type, strict=False)
    except msgspec.ValidationError as error:
        shown = "" if field.name.endswith("_url") else f" {text[:40]!r}"
        problems.append(f"{variable(field.name)}{shown}: {str(error)[0].lower()}{str(error)[1:]}")


def _tokens(name: str, text: str, file: str, problems: list[str]) -> tuple[str, ...]:
    """Tokens from the variable (separated by commas or white space) and the file (one a line, #
    comments)."""
    tokens = text.replace(",", " ").split()
    if file:
        try:
            lines = Path(file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{variable(name)}_FILE: cannot read it: {error.__class__.__name__}")
            return ()
        tokens += [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not tokens:
            problems.append(f"{variable(name)}_FILE names a file without a token")
    if any(not token.isascii() for token in tokens):
        problems.append(f"{variable(name)} holds a token that is not ASCII")
    return tuple(dict.fromkeys(tokens))


def _url(*schemes: str) -> Callable[[Any], str]:
    def problem(url: Any) -> str:
        wanted = " or ".join(f"{scheme}://" for scheme in schemes)
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError:
            return "is not a URL"
        if parts.scheme not in schemes:
            return f"must begin with {wanted}"
        if "@" in parts.path or parts.fragment:
            # Else a part of the password would count, and be shown, as port or path.
            return "is not a URL: a / or # in a password is written %2F or %23"
        return ""

    return problem


def _database_url(url: Any) -> str:
    try:
        parse_database_url(url)
    except ValueError as error:
        return str(error)
    return ""


def _within(lowest: float, highest: float) -> Callable[[Any], str]:
    def problem(value: Any) -> str:
        return (
            ""
            if lowest <= value <= highest
            else f"must be {lowest:g} to {highest:g}, not {value:g}"
        )

    return problem


def _header(value: Any) -> str:
    return "" if value.isascii() and value.isprintable() else "holds what no HTTP header may"


def _name(value: Any) -> str:
    return "" if 1 <= len(value.encode()) <= 255 else "must be 1 to 255 bytes long"


PROBLEMS: dict[str, Callable[[Any], str]] = {
    "database_url": _database_url,
    "database_read_url": _database_url,
    "rabbitmq_url": _url("amqp", "amqps"),
    "url": _url("http", "https"),
    "api_token": _header,
    "otlp_endpoint": _url("http", "https"),
    "notify_wait_seconds": _within(0, 600),
    "notify_remind_seconds": _within(0, 604_800),
    "notify_per_hour": _within(1, 3_600),
    "port": _within(0, 65535),
    "workers": _within(1, 256),
    "answer_cache_ms": _within(0, 60_000),
    "event_streams": _within(0, 100_000),
    "connections": _within(10, 100_000),
    "idle_timeout_seconds": _within(1, 600),
    "inbound_exchange": _name,
    "outbound_exchange": _name,
    "control_exchange": _name,
    "dead_letter_exchange": _name,
    "dead_letter_queue": _name,
    "heartbeat_queue": _name,
    "lifecycle_queue": _name,
    "dropped_queue": _name,
    "hash_exchange": _name,
    "partitions": _within(1, 64),
    "heartbeat_ttl_seconds": _within(1, 86_400),
    "heartbeat_max_length": _within(1_000, 100_000_000),
    "lifecycle_delivery_limit": _within(5, 1_000_000),
    "batch_max_events": _within(1, 10_000),
    "batch_max_wait_ms": _within(0, 10_000),
    "prefetch": _within(1, 65_535),
    "lifecycle_prefetch": _within(1, 65_535),
    "default_interval_seconds": _within(1, 3_600),
    "minimum_timeout_seconds": _within(0.5, 86_400),
    "canary_interval_seconds": _within(0.1, 60),
    "degraded_after_seconds": _within(0.5, 3_600),
    "blind_after_seconds": _within(1, 86_400),
    "recovery_grace_seconds": _within(0, 86_400),
    "sweep_interval_seconds": _within(0.1, 60),
    "lease_seconds": _within(0.5, 60),
    "guard_minimum_workers": _within(1, 1_000_000),
    "guard_percent": _within(0, 100),
    "guard_hold_seconds": _within(0, 86_400),
    "guard_release_percent": _within(0.1, 100),
    "retention_days": _within(1, 3_650),
    "database_pool_size": _within(1, 1_000),
    "database_timeout_seconds": _within(0.1, 300),
    "shutdown_timeout_seconds": _within(1, 300),
}
