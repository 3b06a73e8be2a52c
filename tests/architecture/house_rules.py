"""The rules of the house that ruff does not know: `python tests/architecture/house_rules.py`.

Each finding says what to do. `make lint` runs this file; tests/architecture/test_house_rules.py
shows for each rule what it refuses and what it lets pass. Arguments are files or folders to look
at instead of all code.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "manman_status"
CODE = (PACKAGE, *(ROOT / folder for folder in ("bench", "migrations", "tests")))

LONGEST_LINE = 100


class Finding(NamedTuple):
    line: int
    message: str


def findings_in(path: Path, text: str) -> list[Finding]:
    """Everything that is wrong in one file, by line."""
    if path.suffix != ".py":
        return list(long_lines(text))
    tree = ast.parse(text)
    return sorted(
        {
            *headless_docstrings(tree),
            *retired_words(path, text, tree),
            *open_matches(tree, message_types()),
        }
    )


def long_lines(text: str) -> Iterator[Finding]:
    """Scripts and styles; ruff sees to Python."""
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > LONGEST_LINE:
            yield Finding(number, f"has {len(line)} characters: break it at {LONGEST_LINE}")


RELATIVE = (
    "what|whatever|who|whoever|whom|whose|which|whichever|where|wherever|when|whenever|why|how"
    "|whether|that|those"
)
PREPOSITIONS = (
    "as|at|beside|besides|between|beyond|by|for|from|in|into|of|on|so|to|under|up|with|without"
)
CONJUNCTIONS = "after|because|before|if|once|since|unless|until|while"
COORDINATING = "and|or|but|so|else|no"
HEADLESS = re.compile(
    rf"(?:{RELATIVE}|{PREPOSITIONS}|{CONJUNCTIONS})\b"
    r"|(?:all|any|each|every|one|ones) (?:of (?:it|them|which|whom)|that|which|who|whose)\b",
    re.IGNORECASE,
)
WHOLE = re.compile(
    rf"(?:when|where|in|on|{CONJUNCTIONS}) (?!which\b|whom\b)[^.:;,]*,"
    rf" (?!(?:{COORDINATING}|{RELATIVE}|{PREPOSITIONS})\b)",
    re.IGNORECASE,
)
"""A subordinate clause, or an adverbial of place, and the main clause after its comma."""


def docstrings(tree: ast.AST) -> Iterator[ast.Constant]:
    """Docstrings of modules, classes and functions, and strings that follow an assignment."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        documented = isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        )
        for number, statement in enumerate(body):
            if (
                isinstance(statement, ast.Expr)
                and isinstance(statement.value, ast.Constant)
                and isinstance(statement.value.value, str)
                and (
                    (documented and number == 0)
                    or (number and isinstance(body[number - 1], ast.Assign | ast.AnnAssign))
                )
            ):
                yield statement.value


def headless_docstrings(tree: ast.AST) -> Iterator[Finding]:
    for docstring in docstrings(tree):
        text = " ".join(str(docstring.value).split())
        if HEADLESS.match(text) and not WHOLE.match(text):
            yield Finding(
                docstring.lineno,
                f"docstring opens with a headless clause, {text[:40]!r}: open with an imperative"
                " or with a noun that names the thing",
            )


# fmt: off
RETIRED = {
    r"tell|tells|told|telling|teller|tellers":
        "notify (people), publish (broker), report (workers)",
    r"g(?:ive|ives|iven|ave|iving)[ _]up": "mark LOST, or stop trying",
    r"heard": "received",
    r"f(?:all|alls|ell|alling|allen)[ _]silent": "went silent",
    r"observed[ _]until": "received through",
    r"custody": "delivery tracker",
    r"notice|notices": "control message; as a verb, detect",
    r"ask|asks|asked|asking|asker|askers": "query, request, or parse_*",
    r"away": "unavailable",
    r"t(?:ake|akes|ook|aken|aking)[ _]on": "acknowledge",
    r"whose[ _]word|said[ _]so": "reported",
    r"last[ _]beat|last[ _]beats": "last heartbeat",
    r"(?:end|ends|ended|stop|stops|stopped)[ _]in[ _]order": "stopped normally",
    r"(?:open|opened|closed)[ _]guards?|guards? (?:is |was )?(?:open|opens|opened|closed|closes)":
        "the guard holds, or does not hold",
}
# fmt: on
"""Words that were retired, and what to write instead."""
RETIRED_NAMES = {r"\w+_then": "*_at"}
"""Identifiers that were retired."""
RETIRED_EVENTS = {
    "alerts_told": "notification_sent",
    "lost_to_silence": "workers_marked_lost",
    "batch_will_come_again": "batch_requeued",
    "tidied": "retention_done",
    "part_failed": "task_failed",
    "row_left_to_the_others": "processor_row_not_removed",
}
CONTRACT = {"told_at"}
"""Names of the public contract, which stay: fields of the API, columns, metrics."""
WORD = re.compile(
    rf"(?<![a-z])(?:{'|'.join(f'(?P<w{n}>{word})' for n, word in enumerate(RETIRED))})(?![a-z])"
)
LOG_METHODS = {"debug", "info", "warning", "error", "exception", "critical"}


def retired_words(path: Path, text: str, tree: ast.AST) -> Iterator[Finding]:
    """In docstrings, comments, identifiers and log events. Other strings may be texts that people
    see, and so are the docstrings of commands, of exceptions and of what the API documents."""
    for docstring in docstrings(tree):
        if not seen_by_people(path, tree, docstring):
            yield from _in_prose(docstring.lineno, str(docstring.value))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield from _in_prose(token.start[0], token.string)
    for line, event in log_events(tree):
        if event in RETIRED_EVENTS:
            yield Finding(line, f"log event {event}: write {RETIRED_EVENTS[event]}")
        else:
            yield from _in_name(line, event)
    for line, name in names(tree):
        if name not in CONTRACT:
            yield from _in_name(line, name)


def log_events(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(attr=method), args=[ast.Constant(value=str(event)), *_]
            ) if method in LOG_METHODS:
                yield node.lineno, event
            case _:
                pass


def names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Identifiers where they are made: not where they are used, as they may be a library's."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
            case ast.arg():
                yield node.lineno, node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr
            case ast.MatchAs(name=str(name)):
                yield node.lineno, name
            case _:
                pass


def _in_prose(line: int, text: str) -> Iterator[Finding]:
    # What stands between backticks is a name, and names are looked at where they are made.
    for number, part in enumerate(re.sub(r"`[^`]*`", "", text).splitlines()):
        yield from _found(line + number, part.lower())


def _in_name(line: int, name: str) -> Iterator[Finding]:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().replace("_", " ")
    for finding in _found(line, words):
        yield finding._replace(message=f"{name}: {finding.message}")
    for pattern, instead in RETIRED_NAMES.items():
        if re.fullmatch(pattern, name):
            yield Finding(line, f"{name}: write {instead}")


def _found(line: int, text: str) -> Iterator[Finding]:
    for match in WORD.finditer(text):
        instead = list(RETIRED.values())[int(str(match.lastgroup)[1:])]
        yield Finding(line, f"retired word {match[0]!r}: write {instead}")


def seen_by_people(path: Path, tree: ast.AST, docstring: ast.Constant) -> bool:
    parts = path.relative_to(PACKAGE).parts if path.is_relative_to(PACKAGE) else ()
    if parts[:1] == ("cli",) or parts[:2] == ("api", "routes") or path.stem.endswith("responses"):
        return True
    return any(
        isinstance(node, ast.ClassDef)
        and any("Error" in ast.unparse(base) for base in node.bases)
        and docstring in ast.walk(node.body[0])
        for node in ast.walk(tree)
    )


def message_types() -> frozenset[str]:
    """Classes of events (`domain/events.py`) and of messages (tagged structs in `wire/`)."""
    found = {"Event"}
    for path in (PACKAGE / "domain/events.py", *sorted((PACKAGE / "wire").glob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef) and (
                any(ast.unparse(base) in found for base in node.bases)
                or any(keyword.arg == "tag" for keyword in node.keywords)
            ):
                found.add(node.name)
    return frozenset(found)


def open_matches(tree: ast.AST, types: frozenset[str]) -> Iterator[Finding]:
    for match in ast.walk(tree):
        if not isinstance(match, ast.Match):
            continue
        named = {
            ast.unparse(pattern.cls).rpartition(".")[2]
            for case in match.cases
            for pattern in ast.walk(case.pattern)
            if isinstance(pattern, ast.MatchClass)
        }
        if not named & types:
            continue
        last = match.cases[-1]
        is_wildcard = isinstance(last.pattern, ast.MatchAs) and last.pattern.pattern is None
        if is_wildcard and "assert_never(" not in ast.unparse(last):
            yield Finding(
                last.pattern.lineno,
                f"`case _` over {', '.join(sorted(named & types))}: name the others, and end with"
                " `case _: assert_never(…)`, so that mypy names this place for a new type",
            )


def files(places: Iterable[Path] = CODE) -> list[Path]:
    return [
        path
        for place in places
        for path in (sorted(place.rglob("*")) if place.is_dir() else [place])
        if path.suffix in {".py", ".js", ".css"} and "vendor" not in path.parts
    ]


def main(arguments: list[str]) -> int:
    """Print what is wrong in the files or folders that are named, else in all code."""
    found = [
        f"{path.relative_to(ROOT)}:{line}: {message}"
        for path in files([Path(argument).resolve() for argument in arguments] or CODE)
        for line, message in findings_in(path, path.read_text("utf-8"))
    ]
    for finding in found:
        print(finding)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
