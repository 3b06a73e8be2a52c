"""Every setting with its default, its bounds and its meaning. The only reader of the environment.

The setting `batch_max_events` is the variable `MANMAN_STATUS_BATCH_MAX_EVENTS` and, where a command
takes it, the flag `--batch-max-events`. A field of `Settings` is all that a new setting needs:
`make settings` writes `.env.example`, docs/settings.md and the chart's schema from these fields.
Secrets never show: `repr` and error texts name the variable, not its value. Variables that begin
like ours and are not: those of Kubernetes and of other programs are ignored, a misspelling of a
setting is a problem.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, get_args, get_origin
from urllib.parse import quote, urlsplit, urlunsplit

import msgspec
from msgspec import Meta

from manman_status.database_url import parse_database_url
from manman_status.domain.guard import GuardRules
from manman_status.domain.liveness import Thresholds
from manman_status.domain.sweep import SweepRules
from manman_status.errors import SettingsError
from manman_status.manman_variables import Found, find_broker, find_database, is_service_link
from manman_status.wire.topology import (
    DIALECTS,
    HEARTBEAT_KEYS,
    LIFECYCLE_KEYS,
    MANMAN,
    MOST_PARTITIONS,
    Dialects,
    HeartbeatKeys,
    LifecycleKeys,
    Topology,
)

PREFIX = "MANMAN_STATUS_"

LONGEST_OUTAGE_WITHOUT_GRACE_SECONDS = 5.0
"""Longest outage of our own that does not trigger the recovery grace."""


def redacted(url: str) -> str:
    """The URL without its password and its query, either of which may be secret."""
    try:
        parts = urlsplit(url)
        if not parts.scheme.startswith("postgres"):  # its several hosts have a port each
            _ = parts.port
    except ValueError:
        return "<not a URL>"
    user = f"{parts.username}:***@" if parts.username else ""
    return urlunsplit((parts.scheme, user + parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _url_problem(*schemes: str) -> Callable[[str], str]:
    def problem(url: str) -> str:
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


def _database_url_problem(url: str) -> str:
    try:
        parse_database_url(url)
    except ValueError as error:
        return str(error)
    return ""


def _token_problem(token: str) -> str:
    return "" if token.isascii() and token.isprintable() else "holds what no HTTP header may"


def _tokens_problem(tokens: Sequence[str]) -> str:
    return "" if all(map(str.isascii, tokens)) else "holds a token that is not ASCII"


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about a setting beyond its type. `problem` returns "" for a valid value, `shown` is the
    value as `repr` may show it, and `in_chart` is False where other values of the chart set it."""

    problem: Callable[[Any], str] = lambda _: ""
    shown: Callable[[Any], object] = lambda value: value
    separator: str = ""
    in_chart: bool = True


def _dialects_problem(dialects: Sequence[str]) -> str:
    if unknown := [each for each in dialects if each not in DIALECTS]:
        return f"names {unknown[0][:40]!r}; known are {', '.join(DIALECTS)}"
    return "" if dialects else "names no dialect"


def _keys_problem(keys: Sequence[str]) -> str:
    if not keys:
        return "names no key"
    wrong = [key for key in keys if "*" not in key.split(".") or "#" in key or len(key) > 200]
    return f"{wrong[0][:40]!r} needs a word * for the id, and no #" if wrong else ""


def _count(values: tuple[str, ...]) -> str:
    return f"<{len(values)}>"


DatabaseUrl: TypeAlias = Annotated[
    str, Kind(problem=_database_url_problem, shown=redacted, in_chart=False)
]
BrokerUrl: TypeAlias = Annotated[
    str, Kind(problem=_url_problem("amqp", "amqps"), shown=redacted, in_chart=False)
]
ApiUrl: TypeAlias = Annotated[
    str, Kind(problem=_url_problem("http", "https"), shown=redacted, in_chart=False)
]
PublicUrl: TypeAlias = Annotated[
    str,
    # Everyone who may look at a pod sees a value of the chart, so it holds no password.
    Meta(extra_json_schema={"pattern": r"^(https?://[^@#\s]+)?$"}),
    Kind(problem=_url_problem("http", "https"), shown=redacted),
]
Token: TypeAlias = Annotated[
    str, Kind(problem=_token_problem, shown=lambda token: token and "***", in_chart=False)
]
Tokens: TypeAlias = Annotated[
    tuple[str, ...], Kind(problem=_tokens_problem, shown=_count, separator=",", in_chart=False)
]
# A comma belongs to a channel's URL: it may name several recipients.
ChannelUrls: TypeAlias = Annotated[tuple[str, ...], Kind(shown=_count, in_chart=False)]
OutsideChart: TypeAlias = Annotated[str, Kind(in_chart=False)]
SeparatedDialects: TypeAlias = Annotated[Dialects, Kind(problem=_dialects_problem, separator=",")]
SeparatedHeartbeatKeys: TypeAlias = Annotated[
    HeartbeatKeys, Kind(problem=_keys_problem, separator=",")
]
SeparatedLifecycleKeys: TypeAlias = Annotated[
    LifecycleKeys, Kind(problem=_keys_problem, separator=",")
]


class Settings(Topology, frozen=True, kw_only=True):
    """All settings of both roles, and of the commands that query the api. An empty string means
    "not given". The names on the broker are those of `Topology`."""

    dialects: SeparatedDialects = (MANMAN,)
    heartbeat_keys: SeparatedHeartbeatKeys = HEARTBEAT_KEYS
    lifecycle_keys: SeparatedLifecycleKeys = LIFECYCLE_KEYS

    database_url: Annotated[
        DatabaseUrl,
        Meta(
            description="PostgreSQL, by a URL as libpq takes it: `?sslmode=require`, several hosts"
            " (`host1,host2`), `target_session_attrs=read-write`. Behind pgbouncer it works as it"
            " is; `?prepared_statements=off` or `on` says what is otherwise found out.",
            examples=["postgresql://manman@127.0.0.1:5432/manman_status"],
        ),
    ] = ""
    database_read_url: Annotated[
        DatabaseUrl,
        Meta(
            description="api: PostgreSQL to read from instead, such as a replica. A replica that"
            " lags shows an older observation, not a wrong one."
        ),
    ] = ""
    rabbitmq_url: Annotated[
        BrokerUrl,
        Meta(
            description="RabbitMQ, for the processor and for commands that send; amqps:// works"
            " here. The path is the virtual host.",
            examples=["amqp://guest:guest@127.0.0.1:5672/"],
        ),
    ] = ""
    virtual_host: Annotated[
        str, Meta(description="Virtual host, in place of the one in the URL of RabbitMQ.")
    ] = ""

    host: Annotated[
        OutsideChart,
        Meta(
            description="api: address to listen on. Empty means 127.0.0.1 without tokens, 0.0.0.0"
            " with tokens."
        ),
    ] = ""
    port: Annotated[
        int,
        Kind(in_chart=False),
        Meta(ge=0, le=65_535, description="api: port to listen on."),
    ] = 8000
    workers: Annotated[int, Meta(ge=1, le=256, description="api: number of processes.")] = 1
    api_tokens: Annotated[
        Tokens,
        Meta(
            description="api: tokens that it accepts, separated by commas or spaces. Without any,"
            " everyone may ask."
        ),
    ] = ()
    api_tokens_file: Annotated[
        OutsideChart, Meta(description="api: a file with more such tokens, one a line.")
    ] = ""
    metrics_tokens: Annotated[
        Tokens,
        Meta(description="api: tokens that open /metrics and nothing else, for Prometheus."),
    ] = ()
    metrics_tokens_file: Annotated[
        OutsideChart, Meta(description="api: a file with more such tokens, one a line.")
    ] = ""
    connections: Annotated[
        int,
        Meta(
            ge=10,
            le=100_000,
            description="api: open connections of each of its processes, beside those of event"
            " streams. Those beyond are closed at once.",
        ),
    ] = 4_096
    idle_timeout_seconds: Annotated[
        float,
        Meta(
            ge=1,
            le=600,
            description="api: a connection that brings no whole request for this long is closed. A"
            " proxy in front that keeps idle connections must keep them for less.",
        ),
    ] = 20.0
    http2: Annotated[
        bool,
        Meta(
            description="api: true speaks HTTP/2 without TLS too. Its clients can cost much more"
            " memory and have no idle timeout: only behind a proxy."
        ),
    ] = False
    answer_cache_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=60_000,
            description="api: the same request within this many milliseconds gets the same answer."
            " 0 reads the database each time.",
        ),
    ] = 250
    event_streams: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000,
            description="api: clients of each of its processes that follow changes, by event stream"
            " and long poll together.",
        ),
    ] = 1_000
    public_badges: Annotated[
        bool,
        Meta(
            description="api: true shows badges of the fleet and of each worker to everyone,"
            " whatever tokens there are."
        ),
    ] = False
    worker_series: Annotated[
        bool, Meta(description="api: true adds series of each worker to /metrics.")
    ] = False

    url: Annotated[
        ApiUrl, Meta(description="The api that commands query (workers, worker, servers, system).")
    ] = "http://127.0.0.1:8000"
    api_token: Annotated[
        Token, Meta(description="The token that commands show to the api, where it wants one.")
    ] = ""

    notify_urls: Annotated[
        ChannelUrls,
        Meta(
            description="processor: where it sends alerts: URLs as apprise knows them, separated by"
            " spaces. `manman-status alerts test URL` tries one. Write '…' around them: they hold"
            " what a shell and compose would read as something else."
        ),
    ] = ()
    notify_routes_file: Annotated[
        OutsideChart,
        Meta(
            description="processor: a TOML file that names channels and which alerts each gets,"
            " beside the URLs above, which get all. In compose it must be mounted: a"
            " `compose.override.yaml` gives the service `processor` the volume"
            " `./routes.toml:/routes.toml:ro`."
        ),
    ] = ""
    notify_wait_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=600,
            description="processor: time after an alert in which others join the same message, in"
            " seconds.",
        ),
    ] = 5.0
    notify_remind_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=604_800,
            description="processor: an alert that stays open is sent again after this, in seconds."
            " 0 sends it once.",
        ),
    ] = 14_400.0
    notify_per_hour: Annotated[
        int,
        Meta(
            ge=1,
            le=3_600,
            description="processor: most messages to one channel in an hour. Alerts beyond that"
            " wait for the next message.",
        ),
    ] = 60

    otlp_endpoint: Annotated[
        PublicUrl,
        Meta(
            description="Where both roles send traces and metrics: an OpenTelemetry collector's"
            " HTTP address, such as http://127.0.0.1:4318. Empty sends none."
        ),
    ] = ""
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="debug, info, warning or error."),
    ] = "info"
    log_format: Annotated[
        Literal["auto", "json", "console"],
        Meta(description="json, console, or auto: console on a terminal, json elsewhere."),
    ] = "auto"

    partitions: Annotated[
        int,
        Meta(
            ge=1,
            le=MOST_PARTITIONS,
            description="Number of queues that share the heartbeats, each read by one processor at"
            " a time. More than 1 needs RabbitMQ's plugin rabbitmq_consistent_hash_exchange. The"
            " processor that starts last decides.",
        ),
    ] = 1
    body_must_match_key: Annotated[
        bool,
        Meta(
            description="processor: true refuses events about another worker or server instance"
            " than the routing key names. Of use once topic permissions confine each worker to its"
            " own keys: docs/trust.md."
        ),
    ] = False
    batch_max_events: Annotated[
        int, Meta(ge=1, le=10_000, description="processor: most events in one transaction.")
    ] = 1_000
    batch_max_wait_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000,
            description="processor: longest time until a batch is stored, in milliseconds.",
        ),
    ] = 50
    prefetch: Annotated[
        int,
        Meta(
            ge=1,
            le=65_535,
            description="processor: heartbeat messages that it may hold unacknowledged.",
        ),
    ] = 2_000
    lifecycle_prefetch: Annotated[
        int,
        Meta(
            ge=1,
            le=65_535,
            description="processor: lifecycle messages that it may hold unacknowledged. Each of its"
            " crashes counts as a delivery of all of them.",
        ),
    ] = 500

    default_interval_seconds: Annotated[
        float,
        Meta(
            ge=1,
            le=3_600,
            description="processor: heartbeat interval of a worker that announced none, in"
            " seconds. The leader's value counts for all, as of the other thresholds of silence.",
        ),
    ] = 10.0
    minimum_timeout_seconds: Annotated[
        float,
        Meta(
            ge=0.5,
            le=86_400,
            description="processor: no worker is marked LOST after less silence than this, in"
            " seconds.",
        ),
    ] = 15.0
    canary_interval_seconds: Annotated[
        float,
        Meta(
            ge=0.1,
            le=60,
            description="How often each processor sends a canary through each queue, in seconds.",
        ),
    ] = 1.0
    degraded_after_seconds: Annotated[
        float,
        Meta(
            ge=0.5,
            le=3_600,
            description="processor: monitoring is degraded when its watermark is older than this,"
            " in seconds.",
        ),
    ] = 5.0
    blind_after_seconds: Annotated[
        float,
        Meta(
            ge=1,
            le=86_400,
            description="processor: monitoring is blind, and shows no verdicts, when its watermark"
            " is older than this, in seconds.",
        ),
    ] = 30.0
    recovery_grace_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400,
            description="processor: after an outage of our own, no worker is marked LOST until"
            " monitoring has been back for at least this long, in seconds.",
        ),
    ] = 30.0
    sweep_interval_seconds: Annotated[
        float,
        Meta(
            ge=0.1,
            le=60,
            description="How often the leading processor looks for silent workers, in seconds.",
        ),
    ] = 1.0
    lease_seconds: Annotated[
        float,
        Meta(
            ge=0.5,
            le=60,
            description="How long the others wait for a leader that died or hangs, in seconds.",
        ),
    ] = 3.0
    guard_minimum_workers: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="The guard holds a group when at least this many of its workers go silent"
            " together, and they are more than the percentage below.",
        ),
    ] = 3
    guard_percent: Annotated[
        float,
        Meta(
            ge=0,
            le=100,
            description="The percentage of a group that must go silent together before the guard"
            " holds it.",
        ),
    ] = 30.0
    guard_hold_seconds: Annotated[
        float, Meta(ge=0, le=86_400, description="How long the guard holds, in seconds.")
    ] = 60.0
    guard_release_percent: Annotated[
        float,
        Meta(
            ge=0.1,
            le=100,
            description="The percentage of the group that each sweep then marks LOST.",
        ),
    ] = 10.0
    manman_database_url: Annotated[
        DatabaseUrl,
        Meta(
            description="bridge: the URL of ManMan's own database, with a user who may read"
            " `manman.workers` and `manman.game_server_instances`."
        ),
    ] = ""
    bridge_name: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=64,
            description="bridge: its name. Each ManMan needs one of its own; it is also the label"
            " `host` of the workers that the bridge reports, which ties the lives of one host"
            " together.",
        ),
    ] = "manman"
    write_status_info: Annotated[
        bool,
        Meta(
            description="bridge: true also writes every status into `manman.status_info`, where"
            " ManMan's readers look for it. For an installation in which this service stands"
            " instead of ManMan's own status processor."
        ),
    ] = False

    retention_days: Annotated[
        int, Meta(ge=1, le=3_650, description="Days that transitions are kept.")
    ] = 30

    database_pool_size: Annotated[
        int, Meta(ge=1, le=1_000, description="Connections of each process to the database.")
    ] = 10
    database_timeout_seconds: Annotated[
        float,
        Meta(
            ge=0.1,
            le=300,
            description="A query without an answer is cancelled after this, in seconds.",
        ),
    ] = 3.0
    shutdown_timeout_seconds: Annotated[
        float, Meta(ge=1, le=300, description="Time to finish after SIGTERM, in seconds.")
    ] = 10.0
    probe_folder: Annotated[
        OutsideChart,
        Meta(
            description="processor: a folder where it touches `alive` each second, and `ready`"
            " while database and broker bring its canaries back."
        ),
    ] = ""

    def __repr__(self) -> str:
        shown = (
            f"{name}={kind_of(field).shown(getattr(self, name))!r}"
            for name, field in FIELDS.items()
        )
        return f"Settings({', '.join(shown)})"

    @property
    def bind_host(self) -> str:
        """The api's address: `host`, else everywhere with tokens and only this machine without."""
        return self.host or ("0.0.0.0" if self.api_tokens or self.metrics_tokens else "127.0.0.1")  # noqa: S104

    @property
    def read_url(self) -> str:
        """The api's database: a replica when one is named."""
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
        """Monitoring stood still when its watermark did not move for this long: five canaries and
        more. It is not the smallest timeout, because a worker that was silent already, and has to
        reconnect after a shorter outage, would be lost for it."""
        return max(
            5 * self.canary_interval_seconds,
            min(self.minimum_timeout_seconds, LONGEST_OUTAGE_WITHOUT_GRACE_SECONDS),
        )

    @property
    def broker_url(self) -> str:
        """`rabbitmq_url`, its virtual host replaced by `virtual_host` when that is given."""
        if not self.virtual_host:
            return self.rabbitmq_url
        return urlunsplit(
            urlsplit(self.rabbitmq_url)._replace(path="/" + quote(self.virtual_host, safe=""))
        )


FIELDS = {field.name: field for field in msgspec.structs.fields(Settings)}

OTHER_VARIABLES = {
    "rabbitmq_server": "dev: the `rabbitmq-server` to start, or its folder. Empty finds this"
    " machine's.",
    "role": "What `serve` runs when no --role says it: api, processor or bridge.",
}
"""Variables that are no field, with their meaning."""

OF_MANMAN = {
    "database_url": ("database_url", "database_read_url"),
    "rabbitmq_url": ("rabbitmq_url",),
    "manman_database_url": ("manman_database_url",),
}
"""The settings that ManMan's own variables may give, where none of these is set."""
FINDERS: dict[str, Callable[[Mapping[str, str]], Found | None]] = {
    "database_url": find_database,
    "rabbitmq_url": find_broker,
    "manman_database_url": find_database,
}

LIKENESS = 0.75
"""The least ratio of difflib at which a name counts as a misspelling. API_URL, which other programs
have, is less like every setting; TOKENS, which would leave an api open, is so like API_TOKENS."""

Needs: TypeAlias = tuple[str | tuple[str, ...], ...]


def variable(name: str) -> str:
    return PREFIX + name.upper()


def meaning(name: str) -> str:
    """The description of a setting."""
    metas = [each for each in get_args(FIELDS[name].type) if isinstance(each, Meta)]
    return next(meta.description for meta in metas if meta.description)


def kind_of(field: msgspec.structs.FieldInfo) -> Kind:
    return next((each for each in get_args(field.type) if isinstance(each, Kind)), Kind())


def bounds_of(field: msgspec.structs.FieldInfo) -> tuple[float, float] | None:
    """The least and the most that a number may be, or the length of a name in bytes."""
    for meta in get_args(field.type)[1:]:
        if isinstance(meta, Meta):
            if meta.ge is not None and meta.le is not None:
                return meta.ge, meta.le
            if meta.min_length is not None and meta.max_length is not None:
                return meta.min_length, meta.max_length
    return None


class Reading(NamedTuple):
    """The settings, with where they come from. `sources` are ManMan's variables that were used, by
    the setting that they gave. `ignored` are variables of others that begin like ours."""

    settings: Settings
    sources: dict[str, tuple[str, ...]]
    ignored: list[str]

    def described_sources(self) -> list[str]:
        """Sentences that name the variables of ManMan's that were used, and no value."""
        return [
            f"{variable(name)} is made of {', '.join(names)}"
            for name, names in self.sources.items()
        ]


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
    return read_settings(needs=needs, environ=environ, **overrides).settings


def read_settings(
    *,
    needs: Needs = (),
    seeks: tuple[str, ...] = (),
    environ: Mapping[str, str] | None = None,
    **overrides: Any,
) -> Reading:
    """Like `load_settings`, with the sources. Of servers in `needs` and `seeks` that are not set,
    ManMan's own variables are read."""
    environ = os.environ if environ is None else environ
    unknown = overrides.keys() - FIELDS.keys()
    if unknown:
        raise TypeError(f"unknown settings: {sorted(unknown)}")
    found = _Found()
    _read_ours(environ, overrides, found)
    choices = [(need,) if isinstance(need, str) else need for need in needs]
    _read_manmans(environ, {name for names in (*choices, seeks) for name in names}, found)
    found.problems += [
        f"{' or '.join(map(variable, names))} is not set"
        for names in choices
        if not any(found.given.get(name) or name in found.wrong for name in names)
    ]
    for name in _unknown(environ):
        if is_service_link(name, environ[name]) or not (meant := _meant(name)):
            found.ignored.append(name)
        else:
            found.problems.append(f"{name} is not a setting: do you mean {meant}?")
    if found.problems:
        raise SettingsError(found.problems)
    return Reading(Settings(**found.given), found.sources, sorted(found.ignored))


class _Found:
    """The result so far. `wrong` are the settings with a problem."""

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}
        self.wrong: set[str] = set()
        self.problems: list[str] = []
        self.sources: dict[str, tuple[str, ...]] = {}
        self.ignored: list[str] = []


def _read_ours(environ: Mapping[str, str], overrides: Mapping[str, Any], found: _Found) -> None:
    for name, field in FIELDS.items():
        value = overrides.get(name)
        if value is None:
            value = environ.get(variable(name), "").strip()
            if is_service_link(variable(name), value):
                found.ignored.append(variable(name))
                continue
            if not value:
                continue
        try:
            found.given[name] = _checked(field, value)
        except ValueError as error:
            found.wrong.add(name)
            found.problems.append(f"{variable(name)} {error}")
    for name in ("api_tokens", "metrics_tokens"):
        _add_tokens_of_file(name, found.given, found.problems)


def _read_manmans(environ: Mapping[str, str], sought: set[str], found: _Found) -> None:
    """Read ManMan's variables for those of the servers in `sought` of which ours say nothing."""
    for name, ours in OF_MANMAN.items():
        if name not in sought or {*ours} & (found.given.keys() | found.wrong):
            continue
        try:
            if server := FINDERS[name](environ):
                found.sources[name] = server.names
                found.given[name] = _checked(FIELDS[name], server.url)
        except ValueError as error:
            found.wrong.add(name)
            names = " ".join(found.sources.get(name, ()))
            found.problems.append(f"{names} {error}".strip())


def _unknown(environ: Mapping[str, str]) -> list[str]:
    known = {variable(name) for name in (*FIELDS, *OTHER_VARIABLES)}
    return sorted(name for name in environ if name.startswith(PREFIX) and name not in known)


def _meant(name: str) -> str | None:
    """The setting that this variable misspells; None if it is like none of them."""
    ours = [each.upper() for each in (*FIELDS, *OTHER_VARIABLES)]
    like = difflib.get_close_matches(name.removeprefix(PREFIX), ours, n=1, cutoff=LIKENESS)
    return PREFIX + like[0] if like else None


def _checked(field: msgspec.structs.FieldInfo, value: Any) -> Any:
    """Convert `value` to the field's type. Raises ValueError with what is wrong, after which the
    name of the variable makes a sentence."""
    kind, plain = kind_of(field), get_args(field.type)[0]
    if isinstance(value, str) and get_origin(plain) is tuple:
        value = (value.replace(kind.separator, " ") if kind.separator else value).split()
    try:
        value = msgspec.convert(value, plain, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"{str(value)[:40]!r}: {str(error)[:1].lower()}{str(error)[1:]}") from None
    if bounds := bounds_of(field):
        least, most = bounds
        if isinstance(value, str):
            if not least <= len(value.encode()) <= most:
                raise ValueError(f"must be {least:g} to {most:g} bytes long")
        elif not least <= value <= most:
            raise ValueError(f"must be {least:.10g} to {most:.10g}, not {value:g}")
    if problem := kind.problem(value):
        raise ValueError(problem)
    return value


def _add_tokens_of_file(name: str, given: dict[str, Any], problems: list[str]) -> None:
    """Add the tokens of `<name>_file`: one a line, a line that begins with # is a comment."""
    tokens = list(given.get(name, ()))
    if file := given.get(f"{name}_file"):
        try:
            lines = Path(file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{variable(name)}_FILE: cannot read it: {error.__class__.__name__}")
            return
        added = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not added:
            problems.append(f"{variable(name)}_FILE names a file without a token")
        if problem := _tokens_problem(added):
            problems.append(f"{variable(name)}_FILE {problem}")
        tokens += added
    if tokens:
        given[name] = tuple(dict.fromkeys(tokens))
