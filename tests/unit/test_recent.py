"""The newest changes are kept for watchers, whole and within bounds."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from manman_status.api.recent import BESIDE_THE_ITEM_BYTES, Recent
from manman_status.domain.status import Entity, StatusType
from manman_status.store.feed import Change

batches = st.lists(st.lists(st.integers(0, 400), max_size=8), max_size=12)


def change(revision: Any, size: int = 0) -> Any:
    return Change(
        "0a1b2c3d", revision, Entity.WORKER, StatusType.RUNNING, revision, None, "x" * size
    )


@given(
    first=st.integers(0, 2**62),
    batches=batches,
    most=st.integers(0, 20),
    most_bytes=st.integers(0, 4000),
)
def test_it_has_all_after_its_start_and_no_more_than_its_bounds(
    first: Any, batches: Any, most: Any, most_bytes: Any
) -> None:
    recent = Recent(first, most=most, most_bytes=most_bytes)
    everything: list[Any] = []
    for sizes in batches:
        batch = [change(first + len(everything) + n, size) for n, size in enumerate(sizes, start=1)]
        recent.append(batch)
        everything += batch
    kept = recent.after(recent.start, limit=10_000)
    assert recent.end == first + len(everything)
    assert kept == everything[recent.start - first :]
    assert len(kept) <= most
    assert sum(len(one.item) + BESIDE_THE_ITEM_BYTES for one in kept) <= most_bytes
    if recent.start > first:
        one_more = everything[recent.start - first - 1 :]
        size = sum(len(one.item) + BESIDE_THE_ITEM_BYTES for one in one_more)
        assert len(one_more) > most or size > most_bytes, "dropped for nothing"


@given(
    count=st.integers(0, 60),
    limits=st.lists(st.integers(1, 20), min_size=60, max_size=60),
    start=st.integers(0, 60),
)
def test_resuming_reader_sees_each_once(count: Any, limits: Any, start: Any) -> None:
    recent = Recent(0, most=100, most_bytes=10**6)
    recent.append([change(revision) for revision in range(1, count + 1)])
    position, seen = start, []
    for limit in limits:
        page = recent.after(position, limit=limit)
        assert len(page) <= limit
        seen += [one.revision for one in page]
        position = seen[-1] if seen else position
    assert seen == list(range(start + 1, count + 1))
