"""ManMan's own command line, as its charts and images give it."""

from __future__ import annotations

COMMANDS = {
    "start-status-api": ("serve", "--role", "api"),
    "start-status-processor": ("serve", "--role", "processor"),
    "run-migration": ("migrate",),
}
"""ManMan's commands that have a counterpart, and that counterpart. Its charts put the word `host`
before them."""

MEANINGLESS = frozenset(
    f"--{negation}{name}"
    for name in (
        "create-vhost",
        "log-console",
        "log-otlp",
        "preload-app",
        "should-run-migration-check",
    )
    for negation in ("", "no-")
)
"""ManMan's switches without a counterpart: schema and exchanges are always checked, and where
telemetry goes is a setting."""


def translate_command(tokens: list[str]) -> tuple[list[str], list[str]]:
    """Translate ManMan's command line. Also returns the switches that were left out; any other
    command line is returned as it is."""
    command = tokens[1:] if tokens[:1] == ["host"] else tokens
    if not command or command[0] not in COMMANDS:
        return tokens, []
    flags = command[1:]
    ignored = [flag for flag in flags if flag in MEANINGLESS]
    kept = [flag for flag in flags if flag not in MEANINGLESS]
    return [*COMMANDS[command[0]], *kept], ignored
