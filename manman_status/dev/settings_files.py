"""The files that list the settings: `.env.example`, docs/settings.md and the chart's schema.

`make settings` writes them; nothing in them is written by hand.
"""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Meta

from manman_status.settings import (
    FIELDS,
    OTHER_VARIABLES,
    Settings,
    bounds_of,
    kind_of,
    meaning,
    variable,
)
from manman_status.wire.topology import Topology

ROOT = Path(__file__).parents[2]
CHART_SCHEMA = "helm/manman-status/values.schema.json"

SECTIONS = {
    "database_url": "Servers",
    "host": "The api",
    "url": "Commands",
    "notify_urls": "Notifications",
    "otlp_endpoint": "Telemetry and logs",
    "partitions": "Ingest",
    "default_interval_seconds": "Liveness",
    "database_pool_size": "Each process",
    "inbound_exchange": "Names and limits on the broker",
    "rabbitmq_server": "Variables of one command",
}
"""The first setting of each section, and the section's heading."""

ENV_HEAD = """\
# Every setting of manman-status, with its default. Copy to `.env` and uncomment what you change.
# Docker Compose reads that file. Nothing else does by itself: `set -a; . ./.env; set +a` gives it
# to the programs that you start from the same shell afterwards. What a first start needs is not
# commented out. Written by `make settings`.
"""

TABLE_HEAD = """\
# Settings

Environment variables. One that looks like a misspelt setting is refused with what is meant, others
that begin like ours are ignored with a warning, and every problem is listed at once. A server that
none of these names is taken from ManMan's own variables ([from-manman.md](from-manman.md)).
`.env.example` has the same as a file. Written by `make settings`.
"""


def names() -> list[str]:
    """The settings in the order of the files: what is seldom changed comes last."""
    own = [name for name in FIELDS if name not in Topology.__struct_fields__]
    return [*own, *Topology.__struct_fields__, *OTHER_VARIABLES]


def env_example() -> str:
    lines = [ENV_HEAD]
    for name in names():
        if name in SECTIONS:
            lines.append(f"\n# --- {SECTIONS[name]}\n")
        comment = textwrap.fill(
            described(name),
            100,
            initial_indent="# ",
            subsequent_indent="# ",
            break_long_words=False,
        )
        lines.append(f"{comment}\n{assignment(name)}\n")
    return "".join(lines)


def table() -> str:
    lines = [TABLE_HEAD]
    for name in names():
        if name in SECTIONS:
            lines.append(f"\n## {SECTIONS[name]}\n\n| variable | default | bounds | meaning |\n")
            lines.append("|---|---|---|---|\n")
        default = shown_default(name)
        lines.append(
            f"| `{variable(name)}` | {f'`{default}`' if default else ''} | {shown_bounds(name)} "
            f"| {described(name)} |\n"
        )
    return "".join(lines)


def chart_properties() -> dict[str, dict[str, Any]]:
    """JSON schema of the settings that the chart passes on as they are."""
    schema = msgspec.json.schema_components([Settings])[1]["Settings"]["properties"]
    properties = {
        variable(name): {key: value for key, value in schema[name].items() if key != "default"}
        for name in names()
        if name in FIELDS and kind_of(FIELDS[name]).in_chart
    }
    for each in properties.values():
        if each.pop("items", None):  # a list is one text, as in the environment
            each["type"] = "string"
    return properties


def chart_schema(text: str) -> str:
    """The chart's schema with its part about the settings replaced."""
    lines = [
        f"        {json.dumps(name)}: {json.dumps(schema, ensure_ascii=False)}"
        for name, schema in chart_properties().items()
    ]
    before, after = re.split(
        r'(?<="properties": \{\n)(?: {8}"MANMAN_STATUS_\w+": .*\n)+', text, maxsplit=1
    )
    return before + ",\n".join(lines) + "\n" + after


def described(name: str) -> str:
    return meaning(name) if name in FIELDS else OTHER_VARIABLES[name]


def assignment(name: str) -> str:
    """The line that sets the setting: to what a first start needs, else to its default."""
    metas = FIELDS[name].type.__metadata__ if name in FIELDS else ()
    for examples in [each.examples for each in metas if isinstance(each, Meta) and each.examples]:
        return f"{variable(name)}={examples[0]}"
    return f"#{variable(name)}={shown_default(name)}"


def shown_default(name: str) -> str:
    default = FIELDS[name].default if name in FIELDS else ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ",".join(default)
    return f"{default:.10g}" if isinstance(default, float) else str(default)


def shown_bounds(name: str) -> str:
    bounds = bounds_of(FIELDS[name]) if name in FIELDS else None
    unit = " bytes" if bounds and isinstance(FIELDS[name].default, str) else ""
    return f"{bounds[0]:.10g} to {bounds[1]:.10g}{unit}" if bounds else ""


def files() -> dict[Path, str]:
    """Each file's text as the settings of this program want it."""
    schema = ROOT / CHART_SCHEMA
    return {
        ROOT / ".env.example": env_example(),
        ROOT / "docs/settings.md": table(),
        schema: chart_schema(schema.read_text("utf-8")),
    }


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
