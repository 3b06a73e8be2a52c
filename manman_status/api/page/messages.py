"""The AsyncAPI document as a page that can be read."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any, NamedTuple

from litestar import get
from litestar.response import Template
from markupsafe import Markup, escape

from manman_status.api.parameters import LARGEST_ID
from manman_status.api.routes.schema import asyncapi_document

Schema = dict[str, Any]

LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {}",
    "maxItems": "at most {}",
    "maxProperties": "at most {}",
    "pattern": "like {}",
}

LINE = 80


class Channel(NamedTuple):
    name: str
    address: str
    description: Markup
    place: str
    """The queue it is read from, or the exchange it is sent to."""
    shapes: list[str]
    is_several: bool
    """An array of them is a message too."""
    headers: dict[str, str]


class Field(NamedTuple):
    name: str
    kind: Markup
    is_required: bool
    description: Markup


class Shape(NamedTuple):
    name: str
    description: Markup
    fields: list[Field]
    kind: Markup
    """The type of a shape without fields."""
    examples: list[str]


@get("/schema/asyncapi")
async def asyncapi_page() -> Template:
    return Template("messages.html", context={"bar": None, **described()})


@cache
def described() -> dict[str, Any]:
    document = json.loads(asyncapi_document())
    schemas, messages = document["components"]["schemas"], document["components"]["messages"]
    named = {name: schema for name, schema in schemas.items() if ":" not in name}
    channels: dict[str, list[Channel]] = {"receive": [], "send": []}
    for name, operation in document["operations"].items():
        channel = document["channels"][name]
        [key] = channel["messages"]
        message = messages[f"{name}:{key}"]
        body = _followed(message["payload"], schemas, but=named)
        kinds = body.get("anyOf", [body])
        channels[operation["action"]].append(
            Channel(
                name=name,
                address=channel["address"],
                description=prose(channel["description"]),
                place=channel["bindings"]["amqp"].get(
                    "queue", channel["bindings"]["amqp"].get("exchange")
                )["name"],
                shapes=[_name(kind) for kind in kinds if "$ref" in kind],
                is_several=any(kind.get("type") == "array" for kind in kinds),
                headers={
                    each: header["description"]
                    for each, header in message["headers"]["properties"].items()
                },
            )
        )
    return {
        "about": document["info"],
        "received": channels["receive"],
        "sent": channels["send"],
        "shapes": [_shape(name, schema) for name, schema in named.items()],
    }


def _name(reference: Schema) -> str:
    return str(reference["$ref"].rpartition("/")[2])


def _followed(schema: Schema, schemas: Schema, *, but: Schema) -> Schema:
    """Resolve a reference, unless it has a name of its own."""
    if "$ref" not in schema or _name(schema) in but:
        return schema
    return dict(schemas[_name(schema)])


def _shape(name: str, schema: Schema) -> Shape:
    required = schema.get("required", ())
    return Shape(
        name=name,
        description=prose(schema.get("description", "")),
        fields=[
            Field(
                field, words(described), field in required, prose(described.get("description", ""))
            )
            for field, described in schema.get("properties", {}).items()
        ],
        kind=words(schema),
        examples=[_example(each) for each in schema.get("examples", ())],
    )


def words(schema: Schema) -> Markup:
    """Describe the values that a schema allows."""
    match schema:
        case {"$ref": _}:
            said = Markup('<a href="#{0}">{0}</a>').format(_name(schema))
        case {"const": value}:
            said = _code(value)
        case {"enum": [*values]}:
            said = Markup(" · ").join(map(_code, values))
        case {"anyOf": [*kinds]}:
            said = Markup(" or ").join(map(words, kinds))
        case {"prefixItems": [*items]}:
            # How many there are is seen.
            return Markup("[{}]").format(Markup(", ").join(map(words, items)))
        case {"type": "array", "items": item}:
            said = Markup("array of {}").format(words(item))
        case {"type": "object", "additionalProperties": dict(values)}:
            said = Markup("object of {}").format(words(values))
        case {"type": kind, "format": form}:
            said = Markup("{} ({})").format(kind, form)
        case _:
            said = Markup("{}").format(schema.get("type", "any JSON"))
    limits = (limit.format(schema[name]) for name, limit in LIMITS.items() if name in schema)
    return Markup(", ").join(
        [said, *(limit.replace(str(LARGEST_ID), "2^63-1") for limit in limits)]
    )


def prose(text: str) -> Markup:
    """Mark up text between `backticks` as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped


def _example(value: object) -> str:
    line = json.dumps(value)
    return line if len(line) <= LINE else json.dumps(value, indent=2)


def _code(value: object) -> Markup:
    return Markup("<code>{}</code>").format(json.dumps(value))
