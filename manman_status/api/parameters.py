"""What may be asked for, and how it is said when it may not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from litestar.params import Parameter

from manman_status.api.errors import InvalidParameter

if TYPE_CHECKING:
    from litestar import Request

LARGEST_ID = 2**63 - 1
REPEATABLE = frozenset({"label"})
WITHOUT_NUL = r"^[^\u0000]*$"

Id: TypeAlias = Annotated[int, Parameter(ge=1, le=LARGEST_ID)]
Limit: TypeAlias = Annotated[int, Parameter(ge=1, le=1000, description="How many items at most.")]
Cursor: TypeAlias = Annotated[
    str | None, Parameter(description="`next_cursor` of the page before, asked for with the same filters.")
]
Group: TypeAlias = Annotated[str | None, Parameter(description="The label `group`; the same as `label=group:…`.")]
Labels: TypeAlias = Annotated[
    list[str] | None,
    Parameter(description="`key:value`; may be repeated, and then all of them must hold."),
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
