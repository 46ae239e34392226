"""The table of address classes is what its script makes of the registries that are kept here."""

import subprocess
import sys

from .conftest import ROOT


def test_the_table_is_up_to_date():
    argv = [sys.executable, ROOT / "scripts/addr_table.py", "--check"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
