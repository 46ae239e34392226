"""Compares CPython's own tests with and without the gate: run.py [--all] [--write FILE] [--only MODULE…].

Without --all, on this interpreter's version alone. Exits 1 where a difference has no reason in reasons.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.compat import harness


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="on every CPython 3.10 to 3.13 that is found")
    parser.add_argument("--write", type=Path, help="write the table there")
    parser.add_argument("--only", nargs="+", default=harness.MODULES, help="these test modules")
    parser.add_argument("--versions", nargs="+", help="these versions, such as 3.12")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="keep results in this file, and do not repeat those it has")
    options = parser.parse_args()

    # A run in the background of a shell inherits an ignored SIGINT, which some tests look at; exec makes it the default.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    wanted = options.versions or (harness.VERSIONS if options.all else [here])
    found = [i for i in harness.interpreters() if i.version.startswith(tuple(f"{v}" for v in wanted))]
    failcore = harness.command()
    jobs = [(i, module) for i in found if i.executable for module in options.only]
    # What came of each: differences and how many were compared, or why it broke. Not there: skipped.
    results: dict[tuple[str, str], tuple[list[harness.Difference], int] | str] = {}

    if options.keep and options.keep.exists():
        for key, differences, compared in json.loads(options.keep.read_text()):
            results[tuple(key)] = ([harness.Difference(*d) for d in differences], compared)

    def job(task: tuple[harness.Interpreter, str]) -> None:
        interpreter, module = task
        if (interpreter.version, module) in results:
            return
        since = time.monotonic()
        try:
            results[interpreter.version, module] = result = harness.compare(interpreter, module, failcore)
            words = f"{result[1]} tests, {len(result[0])} differ"
        except harness.NotThere:
            words = "skipped: this installation has no such module"
        except RuntimeError as error:
            results[interpreter.version, module] = words = str(error)
        print(f"  {interpreter.version:8} {module:36} {words} ({time.monotonic() - since:.0f} s)", flush=True)
        if options.keep:
            kept = [
                (k, [astuple(d) for d in r[0]], r[1])
                for k, r in results.copy().items()
                if not isinstance(r, str)
            ]
            options.keep.write_text(json.dumps(kept))

    for interpreter in found:
        if interpreter.executable is None:
            print(f"  {interpreter.version:8} skipped: {interpreter.missing}")
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(job, jobs))

    if options.write:
        options.write.write_text(document(found, options.only, results))
        print(f"wrote {options.write}")
    unexplained = [d for r in results.values() if not isinstance(r, str) for d in r[0] if not d.reason]
    broken = [key for key, result in results.items() if isinstance(result, str)]
    for difference in unexplained:
        print(
            f"unexplained: {difference.version} {difference.test}: {difference.without} -> {difference.under}"
        )
        print(f"    {difference.why}")
    for version, module in broken:
        print(f"not compared: {version} {module}")
    return 1 if unexplained or broken else 0


def document(found, modules, results) -> str:
    """docs/compatibility.md."""
    lines = [
        "# Compatibility",
        "",
        "CPython's own test modules, run twice each: without the gate, and under `failcore run` with",
        "`preset:allow-all`. The same tests must come out the same way. Written by `make compat`; do not edit.",
        f"Last written {datetime.date.today()} on {platform.system()} {platform.machine()}.",
        "",
        "Each cell is *tests compared* / *tests that come out differently*, a difference being one that three runs",
        "repeat. No resource of regrtest is enabled, so tests that need the public network or much memory are",
        "skipped both ways.",
        "",
        "| module | " + " | ".join(i.version for i in found) + " |",
        "|---|" + "---|" * len(found),
    ]
    for module in modules:
        cells = []
        for interpreter in found:
            result = results.get((interpreter.version, module))
            if interpreter.executable is None or result is None:
                cells.append("skipped")
            elif isinstance(result, tuple):
                cells.append(f"{result[1]} / {len(result[0])}")
            else:
                cells.append("not compared")
        lines.append(f"| `{module}` | " + " | ".join(cells) + " |")
    lines.append("\n*skipped*: the interpreter was not found, or its installation lacks the module.")
    lines += [f"\nCPython {i.version} was skipped: {i.missing}." for i in found if i.executable is None]
    differences = [d for result in results.values() if isinstance(result, tuple) for d in result[0]]
    lines += ["", "## Differences and their reasons", ""]
    if not differences:
        lines.append("None.")
    else:
        lines += ["| test | versions | without | with the gate | reason |", "|---|---|---|---|---|"]
        grouped: dict[tuple[str, str, str, str], list[str]] = {}
        for d in differences:
            grouped.setdefault(
                (d.test, d.without, d.under, d.reason or f"**unexplained**: {d.why}"), []
            ).append(d.version)
        for (test, without, under, reason), versions in sorted(grouped.items()):
            lines.append(f"| `{test}` | {', '.join(sorted(versions))} | {without} | {under} | {reason} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
