"""What the lint tests share: the repository as it is, read once."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def metadata() -> dict[str, Any]:
    """`cargo metadata`, offline: the lock file and the local registry are enough."""
    argv = ["cargo", "metadata", "--format-version", "1", "--locked"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
