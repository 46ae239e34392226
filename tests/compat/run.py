"""Compares CPython's own tests with and without the gate: run.py [--all] [--lane LANE…] [--write FILE] [--only MODULE…].

Without --all, on this interpreter's version alone. With --as-user, root has an ordinary user run them. Exits 1 where a
difference has no reason in reasons.json, or where something that was asked for could not be compared.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.compat import harness
from tests.conftest import AS_NOBODY, NOBODY, installation_for_anybody

# What came of each lane, version and module.
Results = dict[tuple[str, str, str], tuple[list[harness.Difference], int] | str]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="on every CPython 3.10 to 3.13 that is found")
    parser.add_argument(
        "--lane", nargs="+", choices=harness.LANES, default=harness.LANES, help="in these lanes"
    )
    parser.add_argument("--write", type=Path, help="write the table there")
    parser.add_argument("--only", nargs="+", default=harness.MODULES, help="these test modules")
    parser.add_argument("--versions", nargs="+", help="these versions, such as 3.12")
    parser.add_argument(
        "--as-user", action="store_true", help="have an ordinary user run them, where we are root"
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--keep", type=Path, help="keep results in this directory, and do not repeat those it has"
    )
    parser.add_argument("--no-run", action="store_true", help="of what was kept alone")
    options = parser.parse_args()

    # A run in the background of a shell inherits an ignored SIGINT, which some tests look at; exec makes it the default.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    wanted = options.versions or (harness.VERSIONS if options.all else [here])
    found = [i for i in harness.interpreters() if i.version.startswith(tuple(f"{v}" for v in wanted))]
    with contextlib.ExitStack() as stack:
        failcore = harness.command()
        if options.as_user and os.geteuid() == 0:
            failcore = stack.enter_context(installation_for_anybody()) / "bin" / "failcore"
            found = [for_ordinary_user(interpreter) for interpreter in found]
        return compare(options, found, failcore)


def for_ordinary_user(interpreter: harness.Interpreter) -> harness.Interpreter:
    """An interpreter as an ordinary user runs it, or left out where that one cannot."""
    if interpreter.executable is None:
        return interpreter
    try:
        return harness.for_ordinary_user(interpreter, NOBODY, AS_NOBODY)
    except LookupError as error:
        return replace(interpreter, executable=None, missing=str(error))


def compare(options: argparse.Namespace, found: list[harness.Interpreter], failcore: Path) -> int:
    """Compares what was asked for; the exit code."""
    is_root = os.geteuid() == 0 and not options.as_user
    kept = Kept(options.keep, is_root)
    jobs = [(i, module) for i in found if i.executable for module in options.only]
    # Differences and how many were compared, or why it broke. Not there: skipped.
    results: Results = {}

    def job(task: tuple[harness.Interpreter, str]) -> None:
        interpreter, module = task
        for lane in options.lane:
            key = (lane, interpreter.version, module)
            if (result := kept.result(key)) is not None:
                results[key] = result
                continue
            if options.no_run:
                results[key] = "not run"
                continue
            since = time.monotonic()
            try:
                without = kept.without(interpreter, module)
                results[key] = result = harness.compare(
                    interpreter, module, harness.Gate(failcore, lane), without
                )
                kept.keep(key, result)
                words = f"{result[1]} tests, {len(result[0])} differ"
            except harness.NotThere:
                words = "skipped: this installation has no such module"
            except RuntimeError as error:
                results[key] = words = str(error)
            took = time.monotonic() - since
            print(f"  {lane:8} {interpreter.version:8} {module:36} {words} ({took:.0f} s)", flush=True)

    for interpreter in found:
        if interpreter.executable is None:
            print(f"  {interpreter.version:8} skipped: {interpreter.missing}")
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(job, jobs))

    if options.write:
        options.write.write_text(document(options.lane, found, options.only, results, is_root))
        print(f"wrote {options.write}")
    unexplained = [d for r in results.values() if not isinstance(r, str) for d in r[0] if not d.reason]
    broken = [key for key, result in results.items() if isinstance(result, str)]
    for difference in unexplained:
        where = f"{difference.lane} {difference.version}"
        print(f"unexplained: {where} {difference.test}: {difference.without} -> {difference.under}")
        print(f"    {difference.why}")
    for lane, version, module in broken:
        print(f"not compared: {lane} {version} {module}")
    return 1 if unexplained or broken else 0


class Kept:
    """What earlier runs found, a file each, so that a run that was cut off goes on where it was.

    The run without the gate is kept as well: it is the same for every lane.
    """

    def __init__(self, directory: Path | None, is_root: bool) -> None:
        self.directory, self.is_root = directory, is_root
        if directory:
            directory.mkdir(parents=True, exist_ok=True)

    def without(self, interpreter: harness.Interpreter, module: str) -> dict[str, harness.Outcome]:
        """What a module comes to without the gate; run where it is not known."""
        key = ("without", interpreter.version, module)
        if (known := self.read(key)) is not None:
            return {test: harness.Outcome(*outcome) for test, outcome in known.items()}
        outcomes = harness.without(interpreter, module)
        self.write(key, {test: astuple(outcome) for test, outcome in outcomes.items()})
        return outcomes

    def result(self, key: tuple[str, str, str]) -> tuple[list[harness.Difference], int] | None:
        """The differences found earlier, with the reasons that the repository has for them today."""
        if (known := self.read(key)) is None:
            return None
        differences, compared = known
        return [
            replace(d, reason=harness.reason_for(d.test, d.version, d.lane, self.is_root))
            for d in (harness.Difference(*fields) for fields in differences)
        ], compared

    def keep(self, key: tuple[str, str, str], result: tuple[list[harness.Difference], int]) -> None:
        """Keeps what was found."""
        self.write(key, ([astuple(d) for d in result[0]], result[1]))

    def read(self, key: tuple[str, str, str]) -> Any:
        path = self.path(key)
        return json.loads(path.read_text()) if path and path.exists() else None

    def write(self, key: tuple[str, str, str], value: object) -> None:
        if path := self.path(key):
            path.with_suffix(".new").write_text(json.dumps(value))
            path.with_suffix(".new").replace(path)

    def path(self, key: tuple[str, str, str]) -> Path | None:
        # What root found says nothing of others.
        name = "-".join(key if self.is_root or os.geteuid() != 0 else ("as-user", *key))
        return self.directory / f"{name}.json" if self.directory else None


def document(
    lanes: Sequence[str],
    found: Sequence[harness.Interpreter],
    modules: Sequence[str],
    results: Results,
    is_root: bool,
) -> str:
    """docs/compatibility.md."""
    user = "root" if is_root else "an ordinary user"
    by = "make compat" if is_root or os.geteuid() != 0 else "tests/compat/run.py --as-user"
    lines = [
        "# Compatibility",
        "",
        "CPython's own test modules, run twice each: without the gate, and under `failcore run` with",
        f"`preset:allow-all`. The same tests must come out the same way. Written by `{by}`; do not edit.",
        f"Last written {datetime.date.today()} on {platform.system()} {platform.machine()}, by {user}.",
        "",
        "Each cell is *tests compared* / *tests that come out differently*, a difference being one that three runs",
        "repeat. No resource of regrtest is enabled, so tests that need the public network or much memory are",
        "skipped both ways.",
    ]
    for lane in lanes:
        lines += ["", f"## `--lane {lane}`", ""]
        lines += ["| module | " + " | ".join(i.version for i in found) + " |", "|---|" + "---|" * len(found)]
        for module in modules:
            cells = []
            for interpreter in found:
                result = results.get((lane, interpreter.version, module))
                if interpreter.executable is None or result is None:
                    cells.append("skipped")
                elif isinstance(result, tuple):
                    cells.append(f"{result[1]} / {len(result[0])}")
                else:
                    cells.append("not compared")
            lines.append(f"| `{module}` | " + " | ".join(cells) + " |")
    if any("| skipped " in line for line in lines):
        lines.append("\n*skipped*: the interpreter was not found, or its installation lacks the module.")
    if any("| not compared " in line for line in lines):
        lines.append("\n*not compared*: the module was not run there, or did not come to its end.")
    lines += [f"\nCPython {i.version} was skipped: {i.missing}." for i in found if i.executable is None]
    differences = [d for result in results.values() if isinstance(result, tuple) for d in result[0]]
    lines += ["", "## Differences and their reasons", ""]
    if not differences:
        return "\n".join([*lines, "None."]) + "\n"
    lines += ["| test | lane | versions | without | with the gate | reason |", "|---|---|---|---|---|---|"]
    grouped: dict[tuple[str, ...], set[str]] = {}
    for d in differences:
        reason = d.reason or f"**unexplained**: {d.why}"
        grouped.setdefault((d.test, d.lane, d.without, d.under, reason), set()).add(d.version)
    for (test, lane, *rest), versions in sorted(grouped.items()):
        lines.append("| " + " | ".join([f"`{test}`", lane, ", ".join(sorted(versions)), *rest]) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
