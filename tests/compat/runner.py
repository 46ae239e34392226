"""Runs one of CPython's own test modules in this interpreter, and writes one line a test.

    runner.py MODULE OUT [--only ID…]
    runner.py --has MODULE                  (exits 0 where this interpreter has the module)

Tests that OUT already names are left out, so that a run can go on after one that hung. Standard library only, as it
runs on every CPython from 3.10, with and without the gate. Each line is appended by an open of its own, so that tests
which close descriptors or end the process lose nothing.
"""

import gc
import importlib.util
import json
import os
import sys
import tempfile
import time
import unittest


class Lines(unittest.TestResult):
    """Writes what became of each test when it is over, and which one is running."""

    def __init__(self, out):
        super().__init__()
        self.out = out
        self.outcome = None
        self.since = 0.0

    def line(self, **fields):
        descriptor = os.open(self.out, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, (json.dumps(fields) + "\n").encode())
        finally:
            os.close(descriptor)

    def startTest(self, test):
        super().startTest(test)
        self.outcome, self.since = ("ok", ""), time.monotonic()
        self.line(id=test.id(), outcome="running")

    def stopTest(self, test):
        super().stopTest(test)
        outcome, why = self.outcome
        self.line(
            id=test.id(), outcome=outcome, why=why[-2000:], seconds=round(time.monotonic() - self.since, 3)
        )

    def addError(self, test, err):
        super().addError(test, err)
        words = self._exc_info_to_string(err, test)
        if isinstance(test, unittest.TestCase):
            self.outcome = ("error", words)
        else:  # setUpClass, setUpModule, an import
            self.line(id=test.id(), outcome="error", why=words[-2000:])

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.outcome = ("failure", self._exc_info_to_string(err, test))

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.outcome = ("failure", self._exc_info_to_string(err, test))

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        if isinstance(test, unittest.TestCase):
            self.outcome = ("skipped", reason)
        else:
            self.line(id=test.id(), outcome="skipped", why=reason)

    def addExpectedFailure(self, test, err):
        super().addExpectedFailure(test, err)
        self.outcome = ("expected failure", "")

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        self.outcome = ("unexpected success", "")


def flatten(suite, leave_out):
    """The tests of a suite that are still to run, in order and in a suite a class, as fixtures need."""
    for part in suite:
        if isinstance(part, unittest.TestSuite):
            yield from flatten(part, leave_out)
        elif part.id() not in leave_out:
            yield part


def find(module, directory):
    """The name a test module is imported by; none where this interpreter has no such tests.

    Some releases (3.11.7, 3.12.1) forget to install the small packages that name a start method to multiprocessing's
    tests, and install the tests: then such a module is written into a directory, from where children import it too.
    """
    if importlib.util.find_spec("test." + module):
        return "test." + module
    start = module.removeprefix("test_multiprocessing_")
    if start == module or not importlib.util.find_spec("test._test_multiprocessing"):
        return None
    with open(os.path.join(directory, module + ".py"), "w") as file:
        file.write("from test._test_multiprocessing import install_tests_in_module_dict\n")
        file.write(f"install_tests_in_module_dict(globals(), {start!r})\n")
    return module


def main():
    if sys.argv[1] == "--has":
        with tempfile.TemporaryDirectory() as directory:
            sys.exit(find(sys.argv[2], directory) is None)
    module, out, only = sys.argv[1], sys.argv[2], sys.argv[4:]
    met = set()
    if os.path.exists(out):
        with open(out) as lines:
            met = {json.loads(line)["id"] for line in lines}
    # As regrtest does: no resource (network, cpu, large files) is enabled, and each module has a directory.
    from test import support
    from test.support import os_helper

    support.use_resources = []
    support.verbose = 0
    sys.argv[1:] = []
    loader = unittest.defaultTestLoader
    name = find(module, os.path.dirname(out))
    sys.path.insert(0, os.path.dirname(out))
    with os_helper.temp_cwd(name="compat", quiet=True):
        result = Lines(out)
        if only:
            suite = loader.loadTestsFromNames(only)
        else:
            suite = loader.loadTestsFromName(name)
        # Tests that collect garbage by the hundred need not look through all the others each time.
        gc.freeze()
        unittest.TestSuite(flatten(suite, met)).run(result)
        result.line(id="", outcome="end")


if __name__ == "__main__":
    main()
