"""The channels that notify people: Apprise URLs for mail, chats, pagers and webhooks.

Loaded only where notifications are sent: apprise brings more than a hundred services along.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import threading
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import apprise
import msgspec

from manman_status.alerts.notifying.due import News
from manman_status.alerts.notifying.message import Message, Tone, compose, worst_first
from manman_status.alerts.notifying.notifier import NotTaken
from manman_status.alerts.rules import RULE_NAMES
from manman_status.domain.alert import NotifiedAlert, Severity
from manman_status.errors import SettingsError
from manman_status.settings import Settings

apprise_log = logging.getLogger("apprise")
apprise_log.propagate = False  # its messages have URLs in them

SEND_WITHIN_SECONDS = 30.0
SHORTEST_SECRET = 6
KEYS = ("dedup", "external_id", "thirdparty")
"""The attributes in which apprise's services keep the `dedup` of their URL. Messages with the same
one are of the same incident."""
LONGEST_KEY = 200
"""The part of a key before the alert's number; services take 255 characters and more."""
MARKUP_SHARE = 8
"""One character of so many is kept for the service's own markup: escapes, line ends, the title in
bold."""
URLS_VARIABLE, FILE_VARIABLE = "MANMAN_STATUS_NOTIFY_URLS", "MANMAN_STATUS_NOTIFY_ROUTES_FILE"
ALL = "all"
TYPES = {
    Tone.CRITICAL: apprise.NotifyType.FAILURE,
    Tone.WARNING: apprise.NotifyType.WARNING,
    Tone.INFO: apprise.NotifyType.INFO,
    Tone.GOOD: apprise.NotifyType.SUCCESS,
}


class Route(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A channel of the routes file: its URLs, and the alerts it takes. A list that is not given
    takes all; alerts that are about no one group are everybody's."""

    urls: list[str]
    severities: list[Severity] | None = None
    groups: list[str] | None = None
    rules: list[str] | None = None
    remind_seconds: float | None = None
    per_hour: int | None = None

    def takes(self, alert: NotifiedAlert) -> bool:
        group = alert.subject.group
        return (
            (self.severities is None or alert.severity in self.severities)
            and (self.groups is None or group is None or group in self.groups)
            and (self.rules is None or alert.rule in self.rules)
        )


class Routes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    channels: dict[str, Route]


class AppriseChannel:
    """One URL. Each message has a thread of its own: one that hangs keeps nobody waiting, not even
    the end of the process. Apprise's own threads are few, shared by all, and waited for."""

    def __init__(
        self, name: str, url: str, route: Route, *, remind_seconds: float, per_hour: int
    ) -> None:
        """Raises ValueError for a URL that is not known."""
        self.name = f"{name}-{hashlib.blake2b(url.encode(), digest_size=4).hexdigest()}"
        self.remind_seconds = (
            remind_seconds if route.remind_seconds is None else route.remind_seconds
        )
        self.per_hour = per_hour if route.per_hour is None else route.per_hour
        self._route = route
        self._url = url
        self._service = _service_at(url)
        if self._service is None:
            raise ValueError

    @property
    def service(self) -> str:
        """The name of the service, as apprise has it."""
        return str(self._service.service_name)

    def wants(self, alert: NotifiedAlert) -> bool:
        return self._route.takes(alert)

    async def notify(self, news: Sequence[tuple[News, NotifiedAlert]]) -> list[NotifiedAlert]:
        """Send one message, truncated to the service's limit. Returns the alerts it covers: just
        one for pagers, which resolve incidents by key. Raises as `send`."""
        key = None
        if self._has_incidents:
            news = worst_first(news)[:1]
            alert = news[0][1]
            key = f"{alert.key[:LONGEST_KEY]} #{alert.alert_id}"
        at_most = self._service.body_maxlen
        await self.send(compose(news, longest=at_most - at_most // MARKUP_SHARE), key=key)
        return [alert for _, alert in news]

    @property
    def _has_incidents(self) -> bool:
        """A success resolves what has the same key, and the URL leaves that key to us."""
        is_fixed = any(getattr(self._service, name, None) for name in KEYS)
        return (
            self._service.template_args.keys() >= {"action", "dedup"}
            and self._service.action == "map"
            and not is_fixed
        )

    async def send(self, message: Message, *, key: str | None = None) -> None:
        """Send it, as of the incident with this key if there is one. Raises NotTaken, without the
        secrets of the URL."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str | None] = loop.create_future()

        def set_answer(problem: str | None) -> None:
            if not answer.done():
                answer.set_result(problem)

        def attempt() -> None:
            problem = self._send(message, key)
            with suppress(RuntimeError):  # nobody waits for it any more, not even the loop
                loop.call_soon_threadsafe(set_answer, problem)

        threading.Thread(target=attempt, name=self.name, daemon=True).start()
        try:
            async with asyncio.timeout(SEND_WITHIN_SECONDS):
                problem = await answer
        except TimeoutError:
            problem = f"no answer within {SEND_WITHIN_SECONDS:g} s"
        if problem is not None:
            raise NotTaken(self._without_secrets(problem))

    def _send(self, message: Message, key: str | None) -> str | None:
        """Say what was wrong, in the service's or apprise's words; None when it was taken."""
        complaint = _Complaint()
        service = self._service if key is None else _service_at(_with_key(self._url, key))
        apprise_log.addHandler(complaint)
        try:
            taken = service.notify(
                body=message.body,
                title=message.title,
                notify_type=TYPES[message.tone],
                body_format="text",
                overflow=apprise.OverflowMode.TRUNCATE,  # an SMS has room for less than one line
            )
        except Exception as error:  # noqa: BLE001 - a hundred plugins, and a thread that nobody else watches
            return type(error).__name__
        finally:
            apprise_log.removeHandler(complaint)
        return None if taken else complaint.last or "it was not taken"

    def _without_secrets(self, text: str) -> str:
        """Mask each piece of the URL that is not the service's or a host's name: it may be a
        password or a token."""
        host = getattr(self._service, "host", None) or ""
        for piece in re.split(r"[:/@?&=]+", self._url):
            if len(piece) >= SHORTEST_SECRET and piece not in host:
                text = text.replace(piece, "***")
        return text


def open_channels(settings: Settings) -> list[AppriseChannel]:
    """Open one for each URL. Raises SettingsError with all problems, and without secrets."""
    urls = settings.notify_urls
    problems = [
        f"{URLS_VARIABLE}: the {_ordinal(place)} is no URL that apprise knows"
        for place, url in enumerate(urls, start=1)
        if not is_known(url)
    ]
    routes = {ALL: Route(urls=list(urls))} if urls else {}
    if settings.notify_routes_file:
        read = _read_routes(settings.notify_routes_file, problems)
        if routes.keys() & read.keys():
            problems.append(
                f"{FILE_VARIABLE}: channels.{ALL}: take another name, this is that of"
                f" {URLS_VARIABLE}"
            )
        routes |= read
    if problems:
        raise SettingsError(problems)
    # A place that is named twice is notified once.
    return [
        _channel(name, url, route, settings)
        for name, route in routes.items()
        for url in dict.fromkeys(route.urls)
    ]


def given_channel(url: str, settings: Settings) -> AppriseChannel:
    """The channel of this URL, past all routes. Raises SettingsError."""
    if not is_known(url):
        raise SettingsError(["URL: it is none that apprise knows"])
    return _channel("given", url, Route(urls=[url]), settings)


def _channel(name: str, url: str, route: Route, settings: Settings) -> AppriseChannel:
    return AppriseChannel(
        name,
        url,
        route,
        remind_seconds=settings.notify_remind_seconds,
        per_hour=settings.notify_per_hour,
    )


def _with_key(url: str, key: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{urlencode({'dedup': key}, quote_via=quote)}"


def is_known(url: str) -> bool:
    return _service_at(url) is not None


def _service_at(url: str) -> Any:
    return apprise.Apprise.instantiate(url, suppress_exceptions=True)


class _Complaint(logging.Handler):
    """The last complaint of apprise in this thread."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self.last = record.getMessage().strip()


def _read_routes(file: str, problems: list[str]) -> dict[str, Route]:
    try:
        routes = msgspec.convert(tomllib.loads(Path(file).read_text("utf-8")), Routes).channels
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{FILE_VARIABLE}: cannot read it: {type(error).__name__}")
        return {}
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        problems.append(f"{FILE_VARIABLE}: {error}")
        return {}
    for name, route in routes.items():
        problems += [
            f"{FILE_VARIABLE}: channels.{name}: {problem}" for problem in _problems(name, route)
        ]
    return routes


def _problems(name: str, route: Route) -> list[str]:
    problems = [
        f"the {_ordinal(place)} of urls is none that apprise knows"
        for place, url in enumerate(route.urls, start=1)
        if not is_known(url)
    ]
    problems += [
        f"there is no rule {rule!r}" for rule in route.rules or () if rule not in RULE_NAMES
    ]
    if not route.urls:
        problems.append("urls is empty")
    if route.per_hour is not None and route.per_hour < 1:
        problems.append("per_hour must be 1 or more")
    if not re.fullmatch(r"[\w.-]{1,60}", name):
        problems.append("a name has letters, digits, dots, dashes and underscores, 60 at most")
    return problems


def _ordinal(place: int) -> str:
    return {1: "1st", 2: "2nd", 3: "3rd"}.get(place, f"{place}th")
