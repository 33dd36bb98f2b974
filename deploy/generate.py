"""Write what follows from elsewhere: the settings in the chart's schema, deploy/gumball.yaml and the dashboard's JSON.

`make manifests` runs it; a test fails where it has not been run.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import dashboard
from gumball_server.settings import Settings

HERE = Path(__file__).parent
CHART = HERE / "chart"
SCHEMA = CHART / "values.schema.json"
MANIFEST = HERE / "gumball.yaml"
DASHBOARD = HERE / "grafana/dashboard.json"
HEAD = """\
# Rendered from deploy/chart by `make manifests`: do not edit. For `kubectl apply -f deploy/gumball.yaml`, with an image
# built from the Dockerfile.
"""
TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}


def helm() -> str:
    """The helm of this environment, which `make` puts beside the Python, or else the machine's."""
    here = str(Path(sys.executable).parent)
    found = shutil.which("helm", path=here) or shutil.which("helm")
    if not found:
        raise FileNotFoundError("helm is not installed: make .venv/bin/helm")
    return found


def schema() -> str:
    """The chart's schema with the settings as the server has them."""
    whole = json.loads(SCHEMA.read_text())
    whole["properties"]["settings"]["properties"] = {each.name: _setting(each) for each in fields(Settings)}
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def _setting(setting: Field[Any]) -> dict[str, Any]:
    described = {"description": setting.metadata["help"], "type": TYPES[str(setting.type)]}
    if (low := setting.metadata["low"]) is None or setting.type == "bool":
        return described
    # In a pod every port has a number: probes and Services go there.
    return described | {"minimum": 1 if setting.name.endswith("_port") else low, "maximum": setting.metadata["high"]}


def manifest() -> str:
    """The chart with its defaults, as helm renders it."""
    command = [helm(), "template", "gumball", CHART]
    return HEAD + subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> None:
    SCHEMA.write_text(schema())
    MANIFEST.write_text(manifest())
    DASHBOARD.write_text(dashboard.text())


if __name__ == "__main__":
    main()
