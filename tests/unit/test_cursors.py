from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manman_status.api.cursors import read_cursor, write_cursor
from manman_status.api.errors import InvalidParameter
from manman_status.domain.status import StatusType
from manman_status.store.reads import ServerFilters, WorkerFilters

ALPHABET = string.ascii_letters + string.digits + "-_"
NO_FILTERS = WorkerFilters()
ids = st.integers(1, 2**63 - 1)


def is_refused(
    cursor: str, kind: str = "workers", filters: WorkerFilters | ServerFilters = NO_FILTERS
) -> bool:
    try:
        read_cursor(cursor, kind, filters)
    except InvalidParameter as error:
        return error.parameter == "cursor"
    return False


@given(ids)
def test_a_cursor_leads_back_to_its_id(last_id: int) -> None:
    cursor = write_cursor("workers", NO_FILTERS, last_id)
    assert read_cursor(cursor, "workers", NO_FILTERS) == last_id
    assert set(cursor) <= set(ALPHABET), "it goes into a URL as it is"


def test_without_a_cursor_a_list_begins_before_the_smallest_id() -> None:
    assert read_cursor(None, "workers", NO_FILTERS) == 0


@given(ids, st.integers(0, 21), st.sampled_from(ALPHABET))
def test_a_cursor_with_any_letter_changed_is_refused(last_id: int, place: int, letter: str) -> None:
    cursor = write_cursor("workers", NO_FILTERS, last_id)
    altered = cursor[:place] + letter + cursor[place + 1 :]
    assert is_refused(altered) == (altered != cursor)


@given(st.text())
def test_no_other_text_is_a_cursor(text: str) -> None:
    assert is_refused(text)


@pytest.mark.parametrize(
    ("kind", "filters"),
    [
        ("servers", NO_FILTERS),
        ("workers", WorkerFilters(status=StatusType.LOST)),
        ("workers", WorkerFilters(labels={"group": "eu"})),
        ("workers", ServerFilters()),
        ("workers", ServerFilters(active=True)),
    ],
)
def test_a_cursor_of_another_list_or_other_filters_is_refused(
    kind: str, filters: WorkerFilters
) -> None:
    assert is_refused(write_cursor("workers", NO_FILTERS, 7), kind, filters)


def test_the_order_of_labels_makes_no_other_list() -> None:
    cursor = write_cursor("workers", WorkerFilters(labels={"a": "1", "b": "2"}), 7)
    assert read_cursor(cursor, "workers", WorkerFilters(labels={"b": "2", "a": "1"})) == 7


@pytest.mark.parametrize("padding", ["=", "==", " ", "\n"])
def test_what_base64_would_forgive_is_refused(padding: str) -> None:
    assert is_refused(write_cursor("workers", NO_FILTERS, 7) + padding)


@pytest.mark.parametrize("last_id", [2**63, 2**64 - 1])
def test_a_cursor_to_an_id_that_there_cannot_be_is_refused(last_id: int) -> None:
    """Anyone who knows their form can make one; the database would be queried for what it has no
    number for."""
    assert is_refused(write_cursor("workers", NO_FILTERS, last_id))
