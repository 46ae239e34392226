"""A fast part of `make compat`, on one interpreter: CPython's own tests come out the same under the gate."""

import sys

import pytest

from . import harness

FAST = ("test_os", "test_tempfile", "test_sqlite3", "test_shutil", "test_zipfile", "test_pathlib")


@pytest.fixture(scope="module")
def interpreter():
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = [i for i in harness.interpreters() if i.version.startswith(version)]
    usable = [i for i in found or harness.interpreters() if i.executable]
    if not usable:
        pytest.skip("no CPython here comes with its `test` package: " + "; ".join(i.missing for i in found))
    return usable[0]


@pytest.mark.parametrize("module", FAST)
def test_the_same_results_with_and_without_the_gate(interpreter, module):
    differences, compared = harness.compare(interpreter, module, harness.Gate(harness.command()))
    assert compared > 50
    assert [d for d in differences if not d.reason] == []
