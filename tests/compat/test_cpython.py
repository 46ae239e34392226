"""A fast part of `make compat`, on one interpreter: CPython's own tests come out the same under the gate."""

import functools
import os
import sys

import pytest

from tests.conftest import AS_NOBODY, NOBODY

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
def without():
    """What a module comes to without the gate: the same for every lane."""
    return functools.cache(harness.without)


def same(interpreter, module, gate, without):
    differences, compared = harness.compare(interpreter, module, gate, without(interpreter, module))
    assert compared > 50
    assert [d for d in differences if not d.reason] == []


@pytest.mark.parametrize("module", FAST)
def test_the_same_results_with_and_without_the_gate(interpreter, without, module, lane):
    same(interpreter, module, harness.Gate(harness.command(), lane), without)


@pytest.mark.skipif(os.getuid() != 0, reason="an ordinary user runs all tests here, the one above too")
@pytest.mark.parametrize("module", ["test_os", "test_shutil", "test_tempfile"])
def test_the_same_results_for_an_ordinary_user(interpreter, without, module, lane, ordinary_prefix):
    try:
        theirs = harness.for_ordinary_user(interpreter, NOBODY, AS_NOBODY)
    except LookupError as error:
        pytest.skip(str(error))
    same(theirs, module, harness.Gate(ordinary_prefix / "bin" / "failcore", lane), without)


def test_what_only_root_sees_explains_nothing_to_others():
    test = "test.test_os.ChownFileTests.test_chown_with_root"
    assert harness.reason_for(test, "3.11.7", "kernel", True).startswith("as root:")
    assert harness.reason_for(test, "3.11.7", "kernel", False) == ""
