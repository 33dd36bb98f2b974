"""A second implementation, in JavaScript, written from proto/CONTRACT.md alone, agrees with every published vector."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_text_is_enough_to_get_every_published_bit():
    """Without Node.js this fails, unless WITHOUT_NODE is set."""
    if not (node := shutil.which("node")):
        if os.environ.get("WITHOUT_NODE"):
            pytest.skip("WITHOUT_NODE is set")
        pytest.fail("node is not installed; or set WITHOUT_NODE=1")
    files = sorted((ROOT / "proto/vectors").glob("*.json"))
    command = [node, ROOT / "tests/independent/check.mjs", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith(" 0 failed\n")
    assert len(files) == 2
