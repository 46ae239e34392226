"""Measures how fast recorded decisions are made again under another policy; a part of benches/recorded.py.

A trace is made by a real run that opens files. It is decided again as bare records, and as a signed trace: verified
first, from its index where it has one. On one core it is one trace; on two cores two of the same length, side by side.
What a trace larger than memory takes is shown with one that is many times what the process may have (setrlimit(2),
RLIMIT_AS).
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from run import FAILCORE

# Reads that are granted, and each tenth of one that is not.
PROGRAM = """
import os, sys
inside, number = sys.argv[1], int(sys.argv[2])
for turn in range(number):
    try: os.close(os.open(f"{inside}/{turn % 97}" if turn % 10 else "/etc/shadow", os.O_RDONLY))
    except OSError: pass
"""
POLICY = """
version = 1
extends = ["preset:python"]

[fs]
read = ["{directory}/files"]
"""
OTHER = """
version = 1
extends = ["preset:python"]

[fs]
read = ["{directory}/files"]
deny = ["{directory}/files/1*"]
"""
LIMIT = 256 << 20
WAYS = (
    "bare records",
    "verified, its index made",
    "verified, from its index",
    "from its index, not written to since it verified",
    "`trace verify` alone",
)
BARE, MADE, VERIFIED, KNOWN, ALONE = WAYS
# How long files must have been left alone to be known again by their times.
SETTLED = 5


class WhatIf:
    """Traces, and the ways to decide them again."""

    def __init__(self, directory: Path, records: int) -> None:
        self.directory, self.records = directory, records
        files = directory / "files"
        files.mkdir()
        for number in range(97):
            (files / str(number)).write_text("x")
        for name, text in (("policy", POLICY), ("other", OTHER)):
            (directory / f"{name}.toml").write_text(text.format(directory=directory))
        self.signed = [self.trace("first", records)]
        self.signed.append(linked(self.signed[0], directory / "second"))
        self.bare = [linked(trace, directory / f"{trace.name}-bare") for trace in self.signed]
        for trace in self.bare:
            (trace / "key.pub").unlink()

    def trace(self, name: str, records: int) -> Path:
        """The trace of a run that opens so many files."""
        trace = self.directory / name
        head = [FAILCORE, "--quiet", "run", "--lane", "runtime", "--trace", trace]
        program = [sys.executable, "-c", PROGRAM, self.directory / "files", str(records)]
        argv = [*head, "-p", self.directory / "policy.toml", "--", *program]
        subprocess.run(argv, cwd=self.directory, check=True)
        return trace

    def seconds(self, way: str, cores: int) -> tuple[float, float]:
        """How long one way takes for as many traces as cores, and how much of that on processors, all together."""
        traces = (self.bare if way == BARE else self.signed)[:cores]
        for trace in traces:
            if way == MADE:
                (trace / "index.bin").unlink(missing_ok=True)
            if way == VERIFIED:
                (trace / "key.pub").touch()
            if way == KNOWN:
                time.sleep(max(0.0, (trace / "key.pub").stat().st_ctime + SETTLED - time.time()))
        if way == KNOWN:
            self.once(way, cores, traces)
        return self.once(way, cores, traces)

    def once(self, way: str, cores: int, traces: list[Path]) -> tuple[float, float]:
        """The same, for traces that were made ready for it."""
        if way == ALONE:
            argvs = [[FAILCORE, "--json", "trace", "verify", trace] for trace in traces]
        else:
            argvs = [[FAILCORE, "--json", "-q", "replay", "-p", self.directory / "other.toml", *traces]]

        def bound() -> None:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])

        since = time.perf_counter()
        started = [subprocess.Popen(argv, stdout=subprocess.DEVNULL, preexec_fn=bound) for argv in argvs]
        used = [ended(process) for process in started]
        # Decisions change, or the measurement is of something else.
        expected = 0 if way == ALONE else 3
        assert all(process.returncode == expected for process in started), way
        return time.perf_counter() - since, sum(usage.ru_utime + usage.ru_stime for usage in used)

    def large(self, size: int) -> tuple[int, int, dict[str, tuple[float, int]]]:
        """Bytes and records of a trace of about `size` bytes; what each way takes of time and memory."""
        first = sum(part.stat().st_size for part in self.signed[0].glob("trace*.jsonl"))
        trace = self.trace("large", max(1, self.records * size // first))
        length = sum(part.stat().st_size for part in trace.glob("trace*.jsonl"))
        found = {}
        for way in (MADE, VERIFIED, KNOWN):
            if way == VERIFIED:
                (trace / "key.pub").touch()
            if way == KNOWN:
                time.sleep(SETTLED)
                limited([FAILCORE, "--json", "-q", "replay", "-p", self.directory / "other.toml", trace])
            argv = [FAILCORE, "--json", "-q", "replay", "-p", self.directory / "other.toml", trace]
            found[way] = limited(argv)
        report = subprocess.run(
            [FAILCORE, "--json", "trace", "verify", trace], capture_output=True, check=True
        )
        return length, int(report.stdout.split(b'"records":')[1].split(b",")[0]), found


def linked(trace: Path, to: Path) -> Path:
    """The same trace in another place, without taking its room again."""
    shutil.copytree(trace, to, copy_function=os.link)
    return to


def ended(process: subprocess.Popen[bytes]) -> resource.struct_rusage:
    """Waits for a process; what it used."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage


def limited(argv: list[object]) -> tuple[float, int]:
    """How long it takes where no more memory is to be had than the limit, and how much it had at most."""
    since = time.perf_counter()
    bound: Callable[[], None] = lambda: resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))  # noqa: E731
    process = subprocess.Popen([str(arg) for arg in argv], stdout=subprocess.DEVNULL, preexec_fn=bound)
    usage = ended(process)
    assert process.returncode == 3, process.returncode
    return time.perf_counter() - since, usage.ru_maxrss * 1024


def section(directory: Path, records: int, size: int, rounds: int) -> list[str]:
    """Measures, and says it as a part of the page."""
    bench, order = WhatIf(directory, records), random.Random(2)
    cores = [1, 2] if len(os.sched_getaffinity(0)) > 1 else [1]
    turns = [(way, number) for way in WAYS for number in cores]
    times: dict[tuple[str, int], list[tuple[float, float]]] = {turn: [] for turn in turns}
    for number in range(rounds):
        print(f"what if: round {number + 1} of {rounds}", file=sys.stderr)
        for turn in order.sample(turns, len(turns)):
            if turn[0] in (VERIFIED, KNOWN):
                bench.seconds(MADE, turn[1])
            times[turn].append(bench.seconds(*turn))
    length, many, found = bench.large(size)
    lines = [
        "## Deciding again under another policy",
        "",
        f"`failcore replay -p POLICY TRACE`, the whole command with its start: a trace of {bench.records:,} opens, on",
        "one core, and two such traces side by side on two. A signed trace is verified before it is decided again, and",
        "gets an index the first time; later, where nothing was written to its files since, the index says that it",
        "verified. Bare records are read and decided, and nothing else. What deciding takes without the rest is in",
        "[docs/benchmarks.md](benchmarks.md) (`replay/…`). In thousands of records a second.",
        "",
        "A core is shared with whoever else is at work; the last column counts the seconds spent on processors.",
        "",
        "| what | "
        + " | ".join(f"{number} core{'s' if number > 1 else ''}" for number in cores)
        + " | a core's second |",
        "|---|" + "---:|" * (len(cores) + 1),
    ]
    for way in WAYS:
        taken = [[(bench.records * number, *turn) for turn in times[way, number]] for number in cores]
        rates = [statistics.median(records / wall for records, wall, _ in turns) for turns in taken]
        rates.append(statistics.median(records / spent for turns in taken for records, _, spent in turns))
        lines.append(f"| {way} | " + " | ".join(f"{rate / 1e3:,.0f} k/s" for rate in rates) + " |")
    lines += [
        "",
        f"A trace of {length / 1e9:.1f} GB ({many:,} records), decided by a process that gets {LIMIT >> 20} MiB of",
        "address space and no more:",
        "",
        "| what | rate | memory at most |",
        "|---|---:|---:|",
    ]
    for way, (taken, most) in found.items():
        lines.append(f"| {way} | {many / taken / 1e3:,.0f} k/s | {most / (1 << 20):.0f} MiB |")
    return lines
