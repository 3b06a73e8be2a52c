"""Positions of one history in another."""

from __future__ import annotations

from typing import Any

import pytest

from manman_status.store.epochs import Epoch

FIRST = Epoch("ab12", None, 0)
RESTORED = Epoch("cd34", "ab12", 100)


@pytest.mark.parametrize(
    ("epoch", "position", "expected"),
    [
        (RESTORED, ("ab12", 50), 50),
        (RESTORED, ("ab12", 500), 100),
        (RESTORED, ("ffff", 50), 0),
        (RESTORED, ("ab12r1", 500), 100),
        (FIRST.suspect(7), ("ab12", 9), 7),
        (FIRST.suspect(7).suspect(5), ("ab12r1", 9), 5),
    ],
)
def test_what_is_common_is_all_that_need_not_be_repeated(
    epoch: Any, position: Any, expected: Any
) -> None:
    assert epoch.common(*position) == expected


def test_invented_epoch_belongs_to_its_history() -> None:
    assert FIRST.has("ab12r1")
    assert not FIRST.suspect(7).has("ab12")
    assert not RESTORED.has("ab12r1")
    assert FIRST.suspect(7).suspect(5).name == "ab12r2"
