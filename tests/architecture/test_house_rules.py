"""The rules of the house are held, and each refuses what it is there for."""

from __future__ import annotations

import ast

import pytest

from tests.architecture.house_rules import (
    PACKAGE,
    ROOT,
    files,
    findings_in,
    headless_docstrings,
    long_lines,
    message_types,
    open_matches,
    retired_words,
)


def test_rules_hold_else_run_house_rules_py() -> None:
    """`python tests/architecture/house_rules.py` lists the places, each with what to do."""
    assert [
        (str(path.relative_to(ROOT)), *finding)
        for path in files()
        for finding in findings_in(path, path.read_text("utf-8"))
    ] == []


@pytest.mark.parametrize(
    "docstring",
    [
        "What was told by it.",
        "Whoever comes again.",
        "Of the workers that have not ended.",
        "How many workers are in what health, and how many servers run.",
        "Whether a cookie stands for one of the tokens.",
        "By name: the largest.",
        "When its newest state began.",
        "When it was sent, else when it was received.",
        "Where to go on in this epoch, so that nothing is missed.",
        "Before which no sweep can find anything, whoever beats until then.",
        "In pixels, of Verdana at 11 pixels.",
        "As much of it as a form may have, and a byte more.",
        "One that tells where to go on.",
        "All of it is read.",
    ],
)
@pytest.mark.parametrize(
    "form", ['"""{}"""', 'class A:\n    """{}"""', 'def a():\n    """{}"""', 'A = 1\n"""{}"""']
)
def test_a_headless_docstring_is_refused_wherever_it_stands(docstring: str, form: str) -> None:
    [finding] = headless_docstrings(ast.parse(form.format(docstring)))
    assert "open with an imperative" in finding.message


@pytest.mark.parametrize(
    "docstring",
    [
        "Lock and load these instances.",
        "True when the queue is empty.",
        "None if no notification is due: resolved before the channel was ever notified.",
        "The structure of what was received.",
        "One worker and its uptime.",
        "All settings of both roles.",
        "Each piece is a transaction under the lease.",
        "If our canary arrives as delivery n, then n-1-c shared messages were delivered before it.",
        "When the watermark stands still, nobody is lost.",
        "In a long sweep, readers do not wait for its end.",
        "Wherewithal of a worker.",
        "`group=` also matches workers without a group.",
    ],
)
def test_a_whole_sentence_or_a_noun_may_open_a_docstring(docstring: str) -> None:
    assert list(headless_docstrings(ast.parse(f'"""{docstring}"""'))) == []


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("def tell_people(): ...", "tell"),
        ("class ToldAlert: ...", "told"),
        ("group_asked = 1", "asked"),
        ("status_then = 1", "status_then"),
        ("# the worker was given up", "given up"),
        ('def a():\n    """Return the\n    last beat."""', "last beat"),
        ('log.info("alerts_told")', "alerts_told"),
        ('log.info("worker_heard", worker=1)', "heard"),
        ('"""The guard is open."""', "guard is open"),
    ],
)
def test_a_retired_word_is_refused_with_what_to_write(source: str, word: str) -> None:
    tree = ast.parse(source)
    [finding] = set(retired_words(PACKAGE / "store/new.py", source, tree))
    assert word in finding.message
    assert "write" in finding.message


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("store/new.py", 'answer = "Nobody was told."'),
        ("store/new.py", "# `told_at` is a column, and the task of a mask is broadcast then"),
        ("cli/new.py", 'def new():\n    """Tell nobody."""'),
        ("errors.py", 'class Refused(ManManStatusError):\n    """Nobody was told."""'),
    ],
)
def test_texts_that_people_see_are_not_looked_at(place: str, source: str) -> None:
    assert list(retired_words(PACKAGE / place, source, ast.parse(source))) == []


def test_lines_of_scripts_and_styles_are_at_most_100_long() -> None:
    [finding] = long_lines(f"{'x' * 100}\n{'ü' * 101}")
    assert finding.line == 2


MATCH = "match event:\n    case {}:\n        pass\n    case {}:\n        {}"


@pytest.mark.parametrize(
    ("first", "last", "body", "refused"),
    [
        ("Heartbeat()", "_", "pass", True),
        ("events.Heartbeat(worker_id=1)", "other", "return", True),
        ("CanarySent() | Forget()", "_", "raise TypeError", True),
        ("Heartbeat()", "_", "assert_never(event)", False),
        ("Heartbeat()", "WorkerStopped()", "pass", False),
        ("TimeoutError()", "_", "pass", False),
    ],
)
def test_a_match_over_messages_has_no_open_wildcard(
    first: str, last: str, body: str, refused: bool
) -> None:
    """Else a new type of event would fall into it, and no type checker would say so."""
    tree = ast.parse(MATCH.format(first, last, body))
    assert bool(list(open_matches(tree, message_types()))) == refused
