"""What may be asked for, and how it is said when it may not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from litestar.params import PathParameter, QueryParameter

from manman_status.api.errors import InvalidParameter
from manman_status.domain.status import Health, StatusType

if TYPE_CHECKING:
    from litestar import Request

LARGEST_ID = 2**63 - 1
EXACTLY = {"maximum": LARGEST_ID}
"""A bound for the schema, where Litestar would write a rounded float."""
REPEATABLE = frozenset({"label"})

PathId: TypeAlias = Annotated[int, PathParameter(ge=1, le=LARGEST_ID, schema_extra=EXACTLY)]
QueryId: TypeAlias = Annotated[int | None, QueryParameter(ge=1, le=LARGEST_ID, schema_extra=EXACTLY)]
QueryHealth: TypeAlias = Annotated[Health | None, QueryParameter()]
QueryStatus: TypeAlias = Annotated[StatusType | None, QueryParameter()]
Limit: TypeAlias = Annotated[int, QueryParameter(ge=1, le=1000, description="How many items at most.")]
Cursor: TypeAlias = Annotated[
    str | None, QueryParameter(description="`next_cursor` of the page before, asked for with the same filters.")
]
Group: TypeAlias = Annotated[str | None, QueryParameter(description="The label `group`: short for `label=group:…`.")]
Labels: TypeAlias = Annotated[
    list[str] | None,
    QueryParameter(description="`key:value`; may be repeated, and then all of them must hold."),
]


async def refuse_unknown_parameters(request: Request[Any, Any, Any]) -> None:
    """A filter that is misspelt, or given twice, must not look as if it had been applied."""
    known = request.route_handler.parsed_fn_signature.parameters.keys() - request.path_params.keys() - {"request"}
    for name in request.query_params:
        if name not in known:
            raise InvalidParameter(name, f"not a parameter here; known are {', '.join(sorted(known)) or 'none'}")
        if name not in REPEATABLE and len(request.query_params.getall(name)) > 1:
            raise InvalidParameter(name, "given more than once")


def labels_asked(group: str | None, given: list[str] | None) -> dict[str, str] | None:
    """All labels a worker must have. Raises InvalidParameter for what no worker can have."""
    pairs = [] if group is None else [("group", "group", group)]
    for label in given or ():
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
