"""Badges: a label and a value in a small SVG, to be shown by pages that are not ours."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from manman_status.api.answers import Answer
from manman_status.domain.fleet import OverallStatus
from manman_status.domain.status import Health

if TYPE_CHECKING:
    from manman_status.domain.uptime import Figures


class Colour(StrEnum):
    """Colours on which white has a contrast of at least 4.5."""

    GREEN = "#1a7f37"
    AMBER = "#8a6100"
    RED = "#c02020"
    GREY = "#57606a"


COLOURS: dict[str, Colour] = {
    Health.HEALTHY: Colour.GREEN,
    Health.LATE: Colour.AMBER,
    Health.UNHEALTHY: Colour.RED,
    Health.TERMINATED: Colour.GREY,
    Health.UNKNOWN: Colour.GREY,
    OverallStatus.DEGRADED: Colour.AMBER,
    OverallStatus.DOWN: Colour.RED,
    OverallStatus.EMPTY: Colour.GREY,
}
GOOD_UPTIME, FAIR_UPTIME = 0.999, 0.99
UNKNOWN_UPTIME = "unknown"

# textLength makes any font as wide as was reckoned here.
SVG = """<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" \
role="img" aria-label="{label}: {value}">\
<title>{label}: {value}</title>\
<clipPath id="r"><rect width="{width}" height="20" rx="3"/></clipPath>\
<g clip-path="url(#r)"><rect width="{label_width}" height="20" fill="#3d4248"/>\
<rect x="{label_width}" width="{value_width}" height="20" fill="{colour}"/></g>\
<g fill="#fff" text-anchor="middle" font-family="Verdana,Geneva,DejaVu Sans,sans-serif" \
font-size="11">\
<text x="{label_middle}" y="14" textLength="{label_length}">{label}</text>\
<text x="{value_middle}" y="14" textLength="{value_length}">{value}</text></g></svg>"""
NARROW, WIDE = frozenset(" .:,'fijlrtI1"), frozenset("mwMW%")
MARGIN = 6


def badge_answer(label: str, value: str, colour: Colour, *, lag_seconds: float | None) -> Answer:
    """Draw a badge. Label and value need no escaping: both are words of this program."""
    label_length, value_length = _length(label), _length(value)
    label_width, value_width = label_length + 2 * MARGIN, value_length + 2 * MARGIN
    body = SVG.format(
        label=label,
        value=value,
        colour=colour,
        width=label_width + value_width,
        label_width=label_width,
        value_width=value_width,
        label_length=label_length,
        value_length=value_length,
        label_middle=label_width / 2,
        value_middle=label_width + value_width / 2,
    ).encode()
    return Answer(
        body,
        lasting=body,
        lag_seconds=lag_seconds,
        content_type=b"image/svg+xml",
        cache_control=b"no-cache, max-age=30",
    )


def shown_uptime(figures: Figures) -> tuple[str, Colour]:
    """Round the uptime down: no badge says 100 % of what was ever lost."""
    fraction = figures.fraction_active
    if fraction is None:
        return UNKNOWN_UPTIME, Colour.GREY
    colour = (
        Colour.GREEN
        if fraction >= GOOD_UPTIME
        else Colour.AMBER
        if fraction >= FAIR_UPTIME
        else Colour.RED
    )
    return ("100%" if not figures.lost else f"{int(fraction * 10_000) / 100:.2f}%"), colour


def _length(text: str) -> int:
    """Estimate the width in pixels, of Verdana at 11 pixels."""
    return sum(4 if char in NARROW else 11 if char in WIDE else 7 for char in text)
