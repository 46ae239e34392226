"""The types that the package publishes are those of what is installed, name by name and parameter by parameter."""

import subprocess
import sys

import pytest

from .conftest import ROOT


def test_stubs_say_what_the_package_is(tmp_path):
    pytest.importorskip("mypy", reason="`make lint` installs it")
    # Away from the sources, so that the installed package is looked at.
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy.stubtest",
            "failcore",
            "--mypy-config-file",
            str(ROOT / "pyproject.toml"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
