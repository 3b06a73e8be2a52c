from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.deployment.chart import VALUES, Objects, render


@pytest.fixture(scope="session", params=VALUES)
def values(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The values of each file in turn."""
    file = VALUES[request.param]
    return yaml.safe_load(file.read_text("utf-8")) if file else {}


@pytest.fixture(scope="session")
def release(values: dict[str, Any]) -> Objects:
    """The release that these values give."""
    return render(values)
