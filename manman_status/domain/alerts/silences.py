"""Which silence covers an alert, found without looking at each: there may be thousands of both."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping

import msgspec

from manman_status.domain.alerts.alert import Subject


class Silence(msgspec.Struct, frozen=True):
    """Covers the alerts that match all that is given. A `group` of "" is the workers without
    one."""

    silence_id: str
    group: str | None = None
    worker_id: int | None = None
    rule: str | None = None
    labels: Mapping[str, str] = {}

    def covers(self, rule: str, subject: Subject) -> bool:
        return (
            self.group in {None, subject.group}
            and self.worker_id in {None, subject.worker_id}
            and self.rule in {None, rule}
            and self.labels.items() <= subject.labels.items()
        )


class Silences:
    """`lasting` are those that end last first. Of those that cover the same only the first is
    kept."""

    def __init__(self, lasting: Iterable[Silence]) -> None:
        different: dict[Hashable, tuple[int, Silence]] = {}
        for order, silence in enumerate(lasting):
            what = (
                silence.group,
                silence.worker_id,
                silence.rule,
                frozenset(silence.labels.items()),
            )
            different.setdefault(what, (order, silence))
        numbers = Counter(
            label for _, silence in different.values() for label in silence.labels.items()
        )
        self._by_place: defaultdict[Hashable, list[tuple[int, Silence]]] = defaultdict(list)
        for order, silence in different.values():
            self._by_place[_place(silence, numbers)].append((order, silence))

    def covering(self, rule: str, subject: Subject) -> str | None:
        """The id of the silence that covers this longest; None when none does."""
        found = [
            first
            for place in _places(rule, subject)
            if (first := self._first(place, rule, subject))
        ]
        return min(found)[1] if found else None

    def _first(self, place: Hashable, rule: str, subject: Subject) -> tuple[int, str] | None:
        return next(
            (
                (order, each.silence_id)
                for order, each in self._by_place.get(place, ())
                if each.covers(rule, subject)
            ),
            None,
        )


def _place(silence: Silence, numbers: Mapping[tuple[str, str], int]) -> Hashable:
    """One thing that an alert must have to be covered: of its labels the one that the fewest
    silences have."""
    if silence.worker_id is not None:
        return "worker", silence.worker_id
    if silence.labels:
        return "label", min(silence.labels.items(), key=lambda label: (numbers[label], label))
    if silence.group is not None:
        return "group", silence.group
    return "rule", silence.rule


def _places(rule: str, subject: Subject) -> Iterator[Hashable]:
    yield "worker", subject.worker_id
    yield "group", subject.group
    yield "rule", rule
    yield "rule", None
    for label in subject.labels.items():
        yield "label", label
