"""Writes constraints.txt: the newest versions of everything in the image that go together. `make pins`."""

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent

pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
report = json.loads(subprocess.check_output([*pip, f"{HERE.parent.parent}[server,tracing]"]))
installed = [each["metadata"] for each in report["install"]]
pins = sorted(f"{each['name'].lower()}=={each['version']}\n" for each in installed if each["name"] != "gumball")
(HERE / "constraints.txt").write_text("".join(pins))
