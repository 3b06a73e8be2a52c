"""The description of the messages, as the api gives it out."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    import httpx

    RunApp = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]

SHIPPED = files("manman_status.api").joinpath("asyncapi.json").read_bytes()


async def test_programs_get_the_document(http: httpx.AsyncClient) -> None:
    response = await http.get("/schema/asyncapi.json")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.content == SHIPPED
    assert response.json()["asyncapi"] == "3.0.0"


async def test_page_for_people_has_all_of_it(http: httpx.AsyncClient) -> None:
    response = await http.get("/schema/asyncapi")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    document, page = (await http.get("/schema/asyncapi.json")).json(), response.text
    for channel in document["channels"].values():
        assert f"<h3><code>{channel['address']}</code></h3>" in page
    shapes = {
        name: schema
        for name, schema in document["components"]["schemas"].items()
        if ":" not in name
    }
    shown = dict(re.findall(r'<section class="shape" id="(\w+)">(.*?)</section>', page, re.DOTALL))
    assert shown.keys() == shapes.keys()
    for name, schema in shapes.items():
        assert (
            set(re.findall(r'<th scope="row"><code>(\w+)</code>', shown[name]))
            == schema.get("properties", {}).keys()
        )
        assert shown[name].count("<pre") == len(schema.get("examples", ()))
    anchors = set(re.findall(r'href="#(\w+)"', page)) - {"content"}
    assert anchors <= shown.keys(), "each link leads to a shape"


async def test_message_page_loads_nothing_foreign_and_no_script(
    http: httpx.AsyncClient,
) -> None:
    response = await http.get("/schema/asyncapi")
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
    loaded = re.findall(r'(?:src|href)="([^"#]+)"', response.text)
    assert loaded
    assert all(address.startswith("/") and not address.startswith("//") for address in loaded)
    for style in re.findall(r'href="([^"]+\.css)"', response.text):
        assert (await http.get(style)).status_code == 200
    assert "<script>" not in response.text
    assert " style=" not in response.text


async def test_texts_of_the_document_are_text(http: httpx.AsyncClient) -> None:
    page = (await http.get("/schema/asyncapi")).text
    assert "<code>manman-status guard release</code> sends it" in page
    assert "alert-&lt;alert_id&gt;-&lt;version&gt;" in page
    assert "&lt;code&gt;" not in page


@pytest.mark.parametrize("path", ["/schema/asyncapi", "/schema/asyncapi.json"])
async def test_both_want_a_token_where_there_are_any(path: str, run_app: RunApp) -> None:
    async with run_app(api_tokens=("a-token",)) as http:
        assert (await http.get(path)).status_code == 401
        assert (
            await http.get(path, headers={"authorization": "Bearer a-token"})
        ).status_code == 200
        visit = await http.get(path, headers={"accept": "text/html"})
        assert (visit.status_code, visit.headers["location"].partition("?")[0]) == (303, "/sign-in")


async def test_other_paths_below_the_schema_are_not_found(http: httpx.AsyncClient) -> None:
    response = await http.get("/schema/asyncapi.yaml")
    assert (response.status_code, response.headers["content-type"]) == (
        404,
        "application/problem+json",
    )
