"""What the roles write: one JSON object a line, with its role and ids, at the asked level, and never a secret."""

from __future__ import annotations

import json

import httpx

REQUEST_ID = {"X-Request-ID": "asked-by-a-test"}


def records(role):
    return [json.loads(line) for line in role.log.splitlines()]


def of(role, event):
    return [record for record in records(role) if record["event"] == event]


async def test_each_request_is_one_line_with_its_route_and_id(start_api, eventually):
    api = await start_api()
    async with httpx.AsyncClient(base_url=api.url) as client:
        await client.get("/status/workers/7", headers=REQUEST_ID)
        await client.get("/status/workers", params={"limit": "secret-by-mistake"})
        await client.post("/status/workers")
        await client.get("/no/such/path")
        await client.head("/status/system")
    requests = await eventually(lambda: len(found := of(api, "request")) == 5 and found)
    assert [(each["method"], each["route"], each["status"]) for each in requests] == [
        ("GET", "/status/workers/{worker_id}", 404),
        ("GET", "/status/workers", 400),
        ("POST", None, 405),
        ("GET", None, 404),
        ("HEAD", "/status/system", 200),
    ]
    assert requests[0]["request_id"] == "asked-by-a-test"
    assert {each["role"] for each in records(api)} == {"api"}
    assert all(each["duration_ms"] >= 0 and len(each["request_id"]) == 32 for each in requests[1:])
    assert "secret-by-mistake" not in api.log


async def test_what_machines_ask_all_the_time_is_told_at_debug_only(start_api, eventually):
    talks, is_quiet = await start_api(log_level="debug"), await start_api()
    for api in (talks, is_quiet):
        async with httpx.AsyncClient(base_url=api.url) as client:
            for path in ("/livez", "/readyz", "/health", "/metrics", "/status/system"):
                assert (await client.get(path)).status_code == httpx.codes.OK
    await eventually(lambda: of(is_quiet, "request"))
    assert {each["route"] for each in of(is_quiet, "request")} == {"/status/system"}
    assert {each["route"] for each in of(talks, "request")} >= {"/livez", "/readyz", "/health", "/metrics"}
