"""The Helm chart as the real engine renders it."""

from __future__ import annotations

import base64
import functools
from pathlib import Path
from typing import Any

import yaml
from helm_python import Chart

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "helm" / "manman-status"
VALUES: dict[str, Path | None] = {
    "default": None,
    "production": FOLDER / "values-production.yaml",
    "all-on": FOLDER / "ci" / "all-on-values.yaml",
    "api-off": FOLDER / "ci" / "api-off-values.yaml",
    "processor-off": FOLDER / "ci" / "processor-off-values.yaml",
}
"""Files of values by what they are for."""


def values_of(name: str) -> dict[str, Any]:
    """The values in one of these files."""
    file = VALUES[name]
    return yaml.safe_load(file.read_text("utf-8")) if file else {}


class Objects(list[dict[str, Any]]):
    """The objects of a release, and `notes`, which Helm shows."""

    notes: str = ""

    def of(self, *kinds: str) -> list[dict[str, Any]]:
        return [each for each in self if each["kind"] in kinds]

    def one(self, kind: str, component: str | None = None) -> dict[str, Any]:
        (found,) = [each for each in self.of(kind) if component in {None, component_of(each)}]
        return found

    def pods(self) -> dict[str, dict[str, Any]]:
        """Every pod, of whatever makes one, by `Kind/name`: `metadata` and `spec`."""
        pods = {}
        for each in self:
            name = f"{each['kind']}/{each['metadata']['name']}"
            if each["kind"] == "Pod":
                pods[name] = each
            elif each["kind"] in {"Deployment", "Job"}:
                pods[name] = each["spec"]["template"]
        return pods


@functools.cache
def chart() -> Chart:
    return Chart.load(FOLDER)


def render(
    values: dict[str, Any] | None = None,
    *,
    release: str = "manman-status",
    namespace: str = "fleet",
) -> Objects:
    objects = Objects()
    for path, text in sorted(
        chart().render(values or {}, name=release, namespace=namespace).items()
    ):
        if path.endswith("NOTES.txt"):
            objects.notes = text
        else:
            objects += [each for each in yaml.safe_load_all(text) if each]
    return objects


def component_of(manifest: dict[str, Any]) -> str:
    return manifest["metadata"]["labels"]["app.kubernetes.io/component"]


def annotations_of(manifest: dict[str, Any]) -> dict[str, str]:
    return manifest["metadata"].get("annotations") or {}


def is_hook(manifest: dict[str, Any]) -> bool:
    return "helm.sh/hook" in annotations_of(manifest)


def container(pod: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod["spec"]["containers"]
    return only


def environment(pod: dict[str, Any]) -> dict[str, Any]:
    """The variables of a pod by name: a text, or its source."""
    return {
        each["name"]: each.get("value", each.get("valueFrom"))
        for each in container(pod).get("env", [])
    }


def decoded(secret: dict[str, Any]) -> dict[str, str]:
    return {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}


def nested(path: str, value: Any) -> dict[str, Any]:
    """`nested("apis.status.port", 1)` is {"apis": {"status": {"port": 1}}}."""
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def merged(*parts: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            both = isinstance(value, dict) and isinstance(result.get(name), dict)
            result[name] = merged(result[name], value) if both else value
    return result
