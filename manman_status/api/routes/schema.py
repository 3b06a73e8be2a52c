"""The AsyncAPI document of the messages on the broker, made by the processor's half."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from litestar import get
from litestar.response.base import ASGIResponse

DOCUMENT = Path(__file__).parents[1] / "asyncapi.json"


@cache
def asyncapi_document() -> bytes:
    """Made by `processor/broker/asyncapi.py`, which this half does not load."""
    return DOCUMENT.read_bytes()


@get("/asyncapi.json")
async def asyncapi_json() -> ASGIResponse:
    return ASGIResponse(body=asyncapi_document(), headers={"content-type": "application/json"})
