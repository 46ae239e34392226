"""The demo is a promise: a real agent does its work, and its injected turns are refused."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_demo_comes_out_as_it_claims():
    done = subprocess.run(
        [sys.executable, "demo/run.py"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\u2713 the model was told that") == 4
    assert "That is all." in done.stdout
