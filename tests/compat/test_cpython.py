"""A fast part of `make compat`, on one interpreter: CPython's own tests come out the same under the gate."""

import functools
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


@pytest.fixture(scope="module")
def without(interpreter):
    """What a module comes to without the gate: the same for every lane."""
    return functools.cache(lambda module: harness.without(interpreter, module))


@pytest.mark.parametrize("module", FAST)
def test_the_same_results_with_and_without_the_gate(interpreter, without, module, lane):
    gate = harness.Gate(harness.command(), lane)
    differences, compared = harness.compare(interpreter, module, gate, without(module))
    assert compared > 50
    assert [d for d in differences if not d.reason] == []
