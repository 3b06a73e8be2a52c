"""What a service is sent by its channel: its requests, intercepted."""

from __future__ import annotations

import json
import re
from datetime import timedelta

import pytest
import requests

from manman_status.domain.alerts.alert import Severity
from manman_status.domain.alerts.telling import News
from manman_status.processor.channels import given_channel
from manman_status.settings import Settings
from tests.unit.test_alert_rules import told_alert

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")


@pytest.fixture
def sent(monkeypatch):
    """The JSON bodies that services were sent; each is taken."""
    bodies = []

    def take(adapter, request, **_):
        bodies.append(json.loads(request.body))
        answer = requests.Response()
        answer.status_code, answer.request, answer.url, answer._content = 200, request, request.url, b'{"ok": true}'
        return answer

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", take)
    return bodies


def channel(url):
    return given_channel(url, Settings())


def burst(number, **fields):
    """Of the words of a worker that is lost with its servers."""
    return [
        (
            News.OPENED,
            told_alert(
                i,
                severity=Severity.CRITICAL,
                summary=f"worker {i} is silent, and 40 of its servers with it: look at its host & process, and start it"
                " again",
                opened_at=told_alert().opened_at + timedelta(seconds=i),
                **fields,
            ),
        )
        for i in range(1, number + 1)
    ]


@pytest.mark.parametrize(
    ("url", "text_of", "most"),
    [
        ("discord://WebhookID/WebhookToken", lambda body: body["content"], 2000),
        ("tgram://123456789:AAabcdefghijklmnopqrstuvwxyz0123456/1234", lambda body: body["text"], 4096),
        ("rocket://WebhookA/WebhookB@chat.example.com/#fleet", lambda body: body["text"], 1000),
        ("pagerduty://IntegrationKey@ApiKey", lambda body: body["payload"]["summary"], 1024),
    ],
)
async def test_a_burst_is_told_in_what_the_service_takes_at_most_and_counts_the_rest(url, text_of, most, sent):
    news = burst(200)
    told = await channel(url).tell(news)
    assert told == [alert for _, alert in news]
    [text] = map(text_of, sent)
    assert len(text) <= most
    [more] = re.findall(r"and (\d+) more", text)
    assert text.count("is silent, and 40 of its servers") + int(more) == len(news)
    assert int(more) < len(news)


async def test_what_is_longer_than_a_service_takes_by_itself_is_cut(sent):
    await channel("pagerduty://IntegrationKey@ApiKey").tell([(News.OPENED, told_alert(summary="x" * 2000))])
    [body] = sent
    assert len(body["payload"]["summary"]) <= 1024
