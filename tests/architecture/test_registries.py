"""A module that is written and not registered would be found by nobody."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute

from manman_status.alerts import rules
from manman_status.alerts.rule import Rule
from manman_status.api import routes
from manman_status.api.app import create_app
from manman_status.settings import Settings


def modules_of(package: ModuleType) -> Iterator[ModuleType]:
    for module in pkgutil.iter_modules(package.__path__):
        yield importlib.import_module(f"{package.__name__}.{module.name}")


def test_every_rule_is_in_rules() -> None:
    written = {
        value
        for module in modules_of(rules)
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Rule) and value is not Rule
    }
    assert written == {*map(type, rules.RULES)}


def test_every_handler_is_in_create_app() -> None:
    written = {
        handler.fn
        for module in modules_of(routes)
        for handler in vars(module).values()
        if isinstance(handler, HTTPRouteHandler)
    }
    served = {
        handler.fn
        for route in create_app(Settings()).routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
    }
    assert written - served == set()
