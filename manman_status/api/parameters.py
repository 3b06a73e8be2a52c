"""Parameters of requests: how they are documented, parsed and refused."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar

import msgspec
from litestar.params import PathParameter, QueryParameter

from manman_status.alerts.reading import AlertSelection, SilenceSelection
from manman_status.alerts.rules import RULE_NAMES
from manman_status.api.errors import InvalidParameter
from manman_status.domain.alert import Severity
from manman_status.domain.status import Carried, Entity, Health, StatusType
from manman_status.store.feed import Position

if TYPE_CHECKING:
    from litestar import Request

Name = TypeVar("Name", bound=str)

LARGEST_ID = 2**63 - 1
EXACTLY = {"maximum": LARGEST_ID}
"""A bound for the schema, where Litestar would write a rounded float."""
LONGEST_WAIT_SECONDS = 60
LONGEST_WINDOW = timedelta(days=30)
"""The default window; a longer retention allows for longer ones."""
EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9998, 12, 31, tzinfo=UTC)
ZONED: Any = Annotated[datetime, msgspec.Meta(tz=True)]
WINDOW = re.compile(r"([1-9][0-9]{0,4})([mhd])")
BADGE_WINDOWS = ("24h", "7d", "30d")
"""Few: badges may be public, and the uptime of a large fleet is much to reckon."""
WINDOW_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
POSITION_PATTERN = "([0-9a-z]{1,32}-)?[0-9]{1,18}"
POSITION = re.compile(r"(?:([0-9a-z]{1,32})-)?([0-9]{1,18})")
SECONDS = re.compile(r"[0-9]{1,2}s?")

PathId: TypeAlias = Annotated[int, PathParameter(ge=1, le=LARGEST_ID, schema_extra=EXACTLY)]
QueryId: TypeAlias = Annotated[
    int | None, QueryParameter(ge=1, le=LARGEST_ID, schema_extra=EXACTLY)
]
QueryHealth: TypeAlias = Annotated[Health | None, QueryParameter()]
QueryStatus: TypeAlias = Annotated[StatusType | None, QueryParameter()]
Limit: TypeAlias = Annotated[
    int, QueryParameter(ge=1, le=1000, description="How many items at most.")
]
Cursor: TypeAlias = Annotated[
    str | None,
    QueryParameter(
        description="`next_cursor` of the page before, asked for with the same filters."
    ),
]
Group: TypeAlias = Annotated[
    str | None, QueryParameter(description="The label `group`; empty: the workers without one.")
]
# What stands in a list is for the schema, where Litestar leaves its bounds out.
Labels: TypeAlias = Annotated[
    tuple[str, ...],
    QueryParameter(
        schema_extra={"items": {"type": "string", "pattern": r"^[^:\x00]+:[^\x00]*$"}},
        description="`key:value`; may be repeated, and then all of them must hold.",
    ),
]
QuerySeverity: TypeAlias = Annotated[Severity | None, QueryParameter()]
QueryRule: TypeAlias = Annotated[
    str | None, QueryParameter(schema_extra={"enum": [*RULE_NAMES, None]})
]
AlertGroup: TypeAlias = Annotated[
    str | None,
    QueryParameter(description="The group that it is about; empty: the workers without a group."),
]
PartOf: TypeAlias = Annotated[
    int | None,
    QueryParameter(
        ge=1,
        le=LARGEST_ID,
        schema_extra=EXACTLY,
        description="The id of the alert that is the cause.",
    ),
]
AlertsSelected: TypeAlias = Annotated[
    str,
    QueryParameter(
        name="state",
        schema_extra={"enum": [*AlertSelection]},
        description="`unresolved` are those that are open or acknowledged.",
    ),
]
SilencesSelected: TypeAlias = Annotated[
    str, QueryParameter(name="state", schema_extra={"enum": [*SilenceSelection]})
]
QueryWorkerIds: TypeAlias = Annotated[
    tuple[Annotated[int, msgspec.Meta(ge=1, le=LARGEST_ID)], ...],
    QueryParameter(
        schema_extra={"items": {"type": "integer", "minimum": 1, **EXACTLY}},
        description="That worker and its server instances; may be repeated, and then any of them.",
    ),
]
QueryGroups: TypeAlias = Annotated[
    tuple[str, ...],
    QueryParameter(
        description=(
            "The worker's label `group`, empty: without one; may be repeated, and then any of them."
        )
    ),
]
QueryEntity: TypeAlias = Annotated[Entity | None, QueryParameter()]
QueryStatuses: TypeAlias = Annotated[
    tuple[StatusType, ...], QueryParameter(description="May be repeated, and then any of them.")
]
At: TypeAlias = Annotated[
    str | None,
    QueryParameter(
        schema_extra={"format": "date-time"},
        description=(
            "A past time: what is known of how it was then. As far back as transitions are kept."
        ),
    ),
]
Since: TypeAlias = Annotated[
    str | None,
    QueryParameter(
        schema_extra={"format": "date-time"}, description="Only those at this time or later."
    ),
]
Until: TypeAlias = Annotated[
    str | None,
    QueryParameter(
        schema_extra={"format": "date-time"}, description="Only those before this time."
    ),
]
GroupOfWorkers: TypeAlias = Annotated[
    str | None,
    QueryParameter(
        description="Only those with this label `group`; empty: the workers without one."
    ),
]
Host: TypeAlias = Annotated[str, PathParameter(description="The label `host` of its workers.")]
# The patterns are for the schema; a value that does not match is refused in words of our own.
UptimeWindow: TypeAlias = Annotated[
    str | None,
    QueryParameter(
        name="window",
        schema_extra={"pattern": "^[1-9][0-9]{0,4}[mhd]$"},
        description=(
            "How long back: minutes, hours or days, as 90m, 24h or 30d; up to as long as"
            " transitions are kept."
        ),
    ),
]
BadgeWindow: TypeAlias = Annotated[
    str | None,
    QueryParameter(
        name="window",
        schema_extra={"enum": [*BADGE_WINDOWS, None]},
        description="Shows the uptime of so long a time instead.",
    ),
]
From: TypeAlias = Annotated[
    str,
    QueryParameter(
        name="from",
        schema_extra={"pattern": f"^(now|{POSITION_PATTERN})$"},
        description=(
            "`now`, or the `<epoch>-<revision>` after which to begin. A revision alone is of the"
            " epoch of now, and 0 is before the first."
        ),
    ),
]
Wait: TypeAlias = Annotated[
    str,
    QueryParameter(
        schema_extra={"pattern": "^([0-5]?[0-9]|60)s?$"},
        description="How long to wait when there is nothing: whole seconds, 0 to 60.",
    ),
]


async def refuse_unknown_parameters(request: Request[Any, Any, Any]) -> None:
    """A filter that is misspelt, or given twice, must not look as if it had been applied."""
    parameters = {
        parameter.kwarg_definition.name or name: parameter
        for name, parameter in request.route_handler.parsed_fn_signature.parameters.items()
        if isinstance(parameter.kwarg_definition, QueryParameter)
    }
    for name in request.query_params:
        if name not in parameters:
            known = ", ".join(sorted(parameters)) or "none"
            raise InvalidParameter(name, f"not a parameter here; known are {known}")
        given = request.query_params.getall(name)
        if not parameters[name].is_non_string_sequence and len(given) > 1:
            raise InvalidParameter(name, "given more than once")
        # Such a type takes what only a newer version knows, for it reads rows too.
        for type_ in (parameters[name], *parameters[name].inner_types):
            if type_.is_subclass_of(Carried):
                for value in given:
                    one_of(name, type_.annotation, value)


def parse_labels(group: str | None, given: Iterable[str]) -> dict[str, str] | None:
    """Merge the labels that a worker must have; an empty `group` also matches workers without one.
    Raises InvalidParameter for impossible labels."""
    pairs = [] if group is None else [("group", "group", group)]
    for label in given:
        key, colon, value = label.partition(":")
        if not (key and colon):
            raise InvalidParameter("label", f"{label[:80]!r} is not key:value")
        pairs.append(("label", key, value))
    labels: dict[str, str] = {}
    for parameter, key, value in pairs:
        if "\0" in key + value:
            raise InvalidParameter(parameter, "no label has a NUL character")
        if labels.setdefault(key, value) != value:
            raise InvalidParameter(parameter, f"no worker has two values of {key[:80]!r}")
    return labels or None


def one_of(parameter: str, names: Iterable[Name], given: str) -> Name:
    """Return the name that equals `given`. Raises InvalidParameter for another."""
    for name in names:
        if name == given:
            return name
    raise InvalidParameter(parameter, f"{given[:80]!r} is none of {', '.join(names)}")


def parse_group(group: str | None) -> str | None:
    """Refuse what no group can be called. Raises InvalidParameter."""
    if group and "\0" in group:
        raise InvalidParameter("group", "no label has a NUL character")
    return group


def parse_host(host: str) -> str:
    """Refuse what no host can be called. Raises InvalidParameter."""
    if "\0" in host:
        raise InvalidParameter("host", "no label has a NUL character")
    return host


def parse_position(parameter: str, given: str) -> Position:
    """Raises InvalidParameter."""
    found = POSITION.fullmatch(given)
    if not found:
        raise InvalidParameter(parameter, f"{given[:80]!r} is no revision")
    return Position(found[1], int(found[2]))


def parse_seconds(parameter: str, given: str) -> int:
    """Raises InvalidParameter."""
    if (
        not SECONDS.fullmatch(given)
        or (seconds := int(given.removesuffix("s"))) > LONGEST_WAIT_SECONDS
    ):
        raise InvalidParameter(
            parameter, f"{given[:80]!r} is not 0 to {LONGEST_WAIT_SECONDS} seconds, as 30 or 30s"
        )
    return seconds


def parse_time(parameter: str, given: str) -> datetime:
    """Parse a time into UTC; one before 1970 or after 9998 counts as the nearer of the two, so that
    a minute more or less is a time too. Raises InvalidParameter."""
    try:
        time: datetime = msgspec.convert(given, ZONED)
        return min(max(time.astimezone(UTC), EARLIEST), LATEST)
    except (msgspec.ValidationError, OverflowError):
        raise InvalidParameter(
            parameter,
            f"{given[:80]!r} is no time with its zone, as 2026-11-23T08:00:00Z (a + is written"
            " %2B)",
        ) from None


def parse_at(at: str | None) -> datetime | None:
    return None if at is None else parse_time("at", at)


def parse_window(given: str | None, *, retention: timedelta) -> timedelta:
    """Parse the length of a window; None is the default. Raises InvalidParameter."""
    if given is None:
        return min(LONGEST_WINDOW, retention)
    named = WINDOW.fullmatch(given)
    window = timedelta(**{WINDOW_UNITS[named[2]]: int(named[1])}) if named else timedelta(0)
    if not timedelta(0) < window <= retention:
        raise InvalidParameter(
            "window", f"{given[:80]!r} is not 1m to {retention.days}d, as 90m, 24h or 30d"
        )
    return window
