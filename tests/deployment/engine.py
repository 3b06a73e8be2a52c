"""Programs of container engines."""

from __future__ import annotations

import os
import subprocess

from tests.deployment.chart import ROOT


def engine(
    *command: str, given: str | None = None, check: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        input=given,
        text=True,
        capture_output=True,
        check=False,
        timeout=600,
    )
    assert ran.returncode == 0 or not check, f"{' '.join(command)}:\n{ran.stdout}\n{ran.stderr}"
    return ran
