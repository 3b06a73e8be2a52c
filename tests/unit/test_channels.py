"""Requests that a channel sends to its service, intercepted."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import apprise
import pytest
import requests

from manman_status.alerts.channels import given_channel, open_channels
from manman_status.alerts.notifying.due import News
from manman_status.alerts.notifying.notifier import NotTaken
from manman_status.domain.alert import Severity, Subject
from manman_status.settings import Settings
from tests.builders import START
from tests.unit.test_alert_rules import OVER, notified_alert
from tests.unit.test_docs import README, blocks

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The JSON bodies that services were sent; each is taken."""
    bodies = []

    def take(adapter: Any, request: requests.PreparedRequest, **_: Any) -> Any:
        assert isinstance(request.body, str | bytes)
        bodies.append(json.loads(request.body))
        answer = requests.Response()
        answer.status_code, answer.request, answer.url, answer._content = (
            200,
            request,
            str(request.url),
            b'{"ok": true}',
        )
        return answer

    monkeypatch.setattr(
        apprise.NotifyBase, "request_rate_per_sec", 0
    )  # else it waits seconds between two
    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", take)
    return bodies


def channel(url: str) -> Any:
    return given_channel(url, Settings())


def burst(number: int, **fields: Any) -> list[Any]:
    """A burst with the words of a worker that is lost with its servers."""
    return [
        (
            News.OPENED,
            notified_alert(
                i,
                severity=Severity.CRITICAL,
                summary=(
                    f"worker {i} is silent, and 40 of its servers with it: look at its host &"
                    " process, and start it again"
                ),
                opened_at=notified_alert().opened_at + timedelta(seconds=i),
                **fields,
            ),
        )
        for i in range(1, number + 1)
    ]


@pytest.mark.parametrize(
    ("url", "text_of", "most"),
    [
        ("discord://WebhookID/WebhookToken", lambda body: body["content"], 2000),
        (
            "tgram://123456789:AAabcdefghijklmnopqrstuvwxyz0123456/1234",
            lambda body: body["text"],
            4096,
        ),
        ("rocket://WebhookA/WebhookB@chat.example.com/#fleet", lambda body: body["text"], 1000),
        ("pagerduty://IntegrationKey@ApiKey", lambda body: body["payload"]["summary"], 1024),
    ],
)
async def test_burst_fits_the_service_and_counts_the_rest(
    url: str, text_of: Any, most: Any, sent: Any
) -> None:
    news = burst(200)
    notified = await channel(url).notify(news)
    assert notified == [alert for _, alert in news]
    [text] = map(text_of, sent)
    assert len(text) <= most
    [more] = re.findall(r"and (\d+) more", text)
    assert text.count("is silent, and 40 of its servers") + int(more) == len(news)
    assert int(more) < len(news)


async def test_documented_pager_resolves_each_incident(tmp_path: Path, sent: Any) -> None:
    """The one of README has an incident for each alert, and resolves it."""
    file = tmp_path / "routes.toml"
    file.write_text(blocks(README, "toml")[0], "utf-8")
    [pager] = [
        each
        for each in open_channels(Settings(notify_routes_file=str(file)))
        if each.service == "Pager Duty"
    ]
    critical = {
        "severity": Severity.CRITICAL,
        "notified_severity": Severity.CRITICAL,
        "notified_at": START,
    }
    first, second = (
        notified_alert(1, severity=Severity.CRITICAL),
        notified_alert(2, severity=Severity.CRITICAL),
    )
    assert await pager.notify([(News.OPENED, first), (News.OPENED, second)]) == [first]
    assert await pager.notify([(News.OPENED, second)]) == [second]
    longer = notified_alert(
        1, **critical, summary="worker 1 is silent, and 40 of its servers with it: look at it"
    )
    over = notified_alert(2, **OVER | critical, summary="worker 2 is late")
    assert await pager.notify([(News.REMINDER, longer)]) == [longer]
    assert await pager.notify([(News.RESOLVED, over)]) == [over]
    assert [body["event_action"] for body in sent] == ["trigger", "trigger", "trigger", "resolve"]
    keys = [body["dedup_key"] for body in sent]
    assert (keys[2], keys[3]) == (keys[0], keys[1])
    assert keys[0] != keys[1]
    assert "worker 1 is silent: look at it" in sent[0]["payload"]["summary"]


PAGERS = [
    ("pagerduty://IntegrationKey@ApiKey", "dedup_key"),
    ("firehydrant://a1b2c3d4e5f6a7b8c9d0@abc", "idempotency_key"),
    ("pagertree://int_0123456789", "id"),
    ("signl4://team-secret-0", "X-S4-ExternalID"),
    ("ilert://il1api0123456789abcdef0123", "alertKey"),
    ("incidentio://0123456789ABCDEFGHIJKLMNOP/token", "deduplication_key"),
    ("squadcast://0123456789abcdef0123456789abcdef01234567", "event_id"),
    ("goalert://alerts.example.com/3c8c2b0e-2a4e-4f3c-9d3a-1f1d1c1b1a19", "dedup"),
]


@pytest.mark.parametrize(("url", "key"), PAGERS)
async def test_notifications_of_an_alert_belong_to_one_incident(
    url: str, key: Any, sent: Any
) -> None:
    url += "?action=map"
    notified: dict[str, Any] = {"notified_severity": Severity.WARNING, "notified_at": START}
    await channel(url).notify([(News.OPENED, notified_alert())])
    await channel(url).notify(
        [(News.REMINDER, notified_alert(**notified, summary="worker 1 is late"))]
    )
    await channel(url).notify(
        [(News.RESOLVED, notified_alert(**notified | OVER, subject=Subject(group=None)))]
    )
    await channel(url).notify([(News.OPENED, notified_alert(2))])
    keys = [body[key] for body in sent]
    assert keys[0] == keys[1] == keys[2] != keys[3]


async def test_self_resolving_pager_has_incidents_too(sent: Any) -> None:
    await channel("ilert://il1api0123456789abcdef0123").notify([(News.OPENED, notified_alert(7))])
    await channel("ilert://il1api0123456789abcdef0123").notify(
        [(News.OPENED, notified_alert(8, key="x" * 500))]
    )
    assert [body["alertKey"] for body in sent] == ["worker_lost:7 #7", f"{'x' * 200} #8"]


@pytest.mark.parametrize(("url", "key"), PAGERS)
async def test_a_pager_with_one_key_for_everything_has_one_incident(
    url: str, key: Any, sent: Any
) -> None:
    news = burst(2)
    notified = await channel(f"{url}?action=map&dedup=fleet").notify(news)
    assert notified == [alert for _, alert in news]
    assert [body[key] for body in sent] == ["fleet"]


async def test_service_that_resolves_itself_gets_one_message(
    sent: Any,
) -> None:
    with suppress(NotTaken):  # the answer that it gets here is none of its own
        await channel("opsgenie://0123456789abcdef").notify(burst(2))
    [body] = sent
    assert "2 alerts" in body["message"]


async def test_what_is_longer_than_a_service_takes_by_itself_is_cut(sent: Any) -> None:
    await channel("pagerduty://IntegrationKey@ApiKey").notify(
        [(News.OPENED, notified_alert(summary="x" * 2000))]
    )
    [body] = sent
    assert len(body["payload"]["summary"]) <= 1024


HOSTILE = (
    "@everyone <!channel> <@1> <b>bold</b> [here](https://evil.test) ||x||"
    "\r\n\u2028critical: forged\u202e\x1b[31m\x9b1m"
)


@pytest.mark.parametrize(
    ("url", "texts"),
    [
        ("discord://WebhookID/WebhookToken", lambda body: [body["content"]]),
        (
            "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#fleet",
            lambda body: [json.dumps(body)],
        ),
        ("mmost://chat.example.com/3ccdd113474722377935511fc85d3dd4", lambda body: [body["text"]]),
        ("tgram://123456789:AAabcdefghijklmnopqrstuvwxyz0123456/1234", lambda body: [body["text"]]),
        ("json://hooks.example.com", lambda body: [body["title"], body["message"]]),
    ],
)
async def test_words_of_workers_mention_link_and_forge_nothing(
    url: str, texts: Any, sent: Any
) -> None:
    alert = notified_alert(
        summary=f"8 of 17 workers of {HOSTILE} went silent", subject=Subject(group=HOSTILE)
    )
    with suppress(NotTaken):  # not every service understands the answer that it gets here
        await channel(url).notify([(News.OPENED, alert)])
    assert sent
    for text in (text for body in sent for text in texts(body)):
        assert not re.search(
            r"@(everyone|here|1)|<!|<@|&lt;!|<b>bold|\]\(|https?://evil|\|\||[\u2028\u202e\x1b\x9b]",
            text,
        )
        assert "\\u2028" not in text
        assert not [
            line for line in text.splitlines() if line.lstrip("*").startswith("critical: forged")
        ]
        assert "everyone" in text
