"""The chart as helm renders it, for sets of values."""

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import generate  # deploy/generate.py
import yaml

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "chart"
EXAMPLES = DEPLOY / "examples"
VALUES = Path(__file__).parent / "values"

# By name; the defaults have no file.
SETS: dict[str, Path | None] = {
    "defaults": None,
    "production": EXAMPLES / "values-production.yaml",
    "gpu": EXAMPLES / "values-gpu.yaml",
    "secure": EXAMPLES / "values-secure.yaml",
    "minimal": VALUES / "minimal.yaml",
    "everything": VALUES / "everything.yaml",
}

Resource = dict[str, Any]


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([generate.helm(), *arguments], capture_output=True, text=True, check=False)


def render(name: str = "defaults", values: dict[str, Any] | None = None, *flags: str) -> list[Resource]:
    """The resources for a set of values, and for more values on top."""
    chosen = ["--values", path] if (path := SETS[name]) else []
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as more:
        yaml.safe_dump(values or {}, more)
        more.flush()
        done = helm("template", "gumball", CHART, *chosen, "--values", more.name, *flags)
    if done.returncode:
        raise ValueError(done.stderr)
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def only(resources: list[Resource], kind: str) -> Resource:
    (found,) = (each for each in resources if each["kind"] == kind)
    return found


def pod(resources: list[Resource]) -> Resource:
    """What a pod of the Deployment is."""
    return only(resources, "Deployment")["spec"]["template"]


def container(resources: list[Resource]) -> Resource:
    (only_one,) = pod(resources)["spec"]["containers"]
    return only_one


def environment(resources: list[Resource]) -> dict[str, str]:
    """The container's variables that have a value of their own."""
    return {each["name"]: each["value"] for each in container(resources)["env"] if "value" in each}
