"""The fields of the pages' forms. An empty field is no filter."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode

from manman_status.api.errors import InvalidParameter
from manman_status.api.parameters import LARGEST_ID, one_of

if TYPE_CHECKING:
    from litestar import Request

Name = TypeVar("Name", bound=StrEnum)

LARGEST_ID_DIGITS = len(str(LARGEST_ID))


class Form:
    """The query of one request. Raises InvalidParameter for what the page has no field for."""

    def __init__(self, request: Request[Any, Any, Any], *fields: str) -> None:
        self.path = request.scope["path"]
        self.fields: dict[str, str] = {}
        self._cursor: str | None = None
        for name, value in request.query_params.multi_items():
            if name not in {*fields, "cursor"}:
                raise InvalidParameter(
                    name, f"not a field of this page; there are {', '.join(fields)}"
                )
            if name in self.fields:
                raise InvalidParameter(name, "given more than once")
            if "\0" in value:
                raise InvalidParameter(name, "may have no NUL character")
            if not value:
                continue
            if name == "cursor":
                self._cursor = value
            else:
                self.fields[name] = value

    @property
    def cursor(self) -> str | None:
        return self._cursor

    def url(self, cursor: str | None = None) -> str:
        """URL of this page with these fields, from the start or from a cursor on."""
        query = urlencode(self.fields | ({} if cursor is None else {"cursor": cursor}))
        return f"{self.path}?{query}" if query else self.path

    @property
    def here(self) -> str:
        return self.url(self._cursor)

    def text(self, name: str) -> str | None:
        return self.fields.get(name)

    def one_of(self, name: str, names: type[Name]) -> Name | None:
        given = self.fields.get(name)
        return None if given is None else one_of(name, names, given)

    def id(self, name: str) -> int | None:
        given = self.fields.get(name)
        if given is None:
            return None
        if not (given.isascii() and given.isdigit() and len(given) <= LARGEST_ID_DIGITS):
            raise InvalidParameter(name, f"{given[:80]!r} is no id")
        if not 1 <= int(given) <= LARGEST_ID:
            raise InvalidParameter(name, f"ids are 1 to {LARGEST_ID}")
        return int(given)
