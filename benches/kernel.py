"""Measures what the kernel lane costs, beside doing without, others, and the floor; writes docs/benchmarks-kernel.md.

    make bench                            everything
    benches/kernel.py --rounds 3          quicker
    benches/kernel.py --least             on a machine that does other things meanwhile

The contenders take turns in every round, in a shuffled order. A ratio is the median over the rounds of that round's
ratio to doing without. What is not installed is left out and named.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from run import FAILCORE, ROOT, WORKER, arguments, cell, listener, machine

SANDLOCK = ROOT / "benches/sandlock_run.py"
POLICY = """
version = 1
extends = ["preset:python"]

[fs]
read = ["{benches}", "{directory}"]
write = ["{directory}/work"]
deny = ["{directory}/secret"]

[net]
connect = ["localhost:{port}"]

[process]
exec = ["/bin/true", "{directory}/loops", "git", "{python}"]
"""
# A loop in C: what it is called here, its operation, how often.
LOOPS = {
    "open + close": ("open", 5000),
    "open + read + close": ("whole", 5000),
    "connect + close": ("connect", 1000),
    "spawn + wait": ("spawn", 100),
    "read, write, epoll, clock, futex, recv": ("free", 20000),
}
# An otherwise empty supervisor (floor.c): what it is called here, and what it does.
EMPTY, CONFINED, CONTINUE, EXEC = "the floor", "the floor, confined", "the floor, CONTINUE", "fork and exec"
FLOORS = {EMPTY: "emulate", CONFINED: "confine", CONTINUE: "continue", EXEC: "exec"}
FILES = 4000
PYTHON = {
    "open + close": "open",
    "open + read + close": "read",
    "connect + close": "connect",
    "`subprocess.run`": "subprocess",
}
PINNED = "open + close, all on one CPU"
# What was aimed at: a row, and how many times as long as without anything it may take.
AIMS = {
    "C: open + close": 8.0,
    "Python: open + close": 3.0,
    "C: connect + close": 1.4,
    "C: spawn + wait": 1.15,
    "C: read, write, epoll, clock, futex, recv": 1.0,
}
# And the two that are said otherwise: in times the floor, and in milliseconds more than without.
AIM_PINNED, AIM_START = 1.5, 3.0


class Bench:
    """A directory with all that is opened, a listener, and the ways to run a command."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory, self.port, self.traces = directory, port, 0
        for name in ("work", "secret"):
            (directory / name).mkdir()
        (directory / "work/file.txt").write_text("hello\n")
        self.missing: list[str] = []
        self.python = self.others()
        self.policy = directory / "policy.toml"
        self.policy.write_text(
            POLICY.format(benches=ROOT / "benches", directory=directory, port=port, python=self.python)
        )
        self.loops, self.floor = (self.compiled(name) for name in ("loops", "floor"))
        self.tree = directory / "work/tree"
        self.make_tree()
        self.ways: dict[str, Callable[[list[str]], list[str]]] = {"bare": list, "FailCore": self.failcore}
        others = {"bubblewrap": self.bubblewrap, "strace -f": self.strace}
        for name, way in others.items():
            if shutil.which(way([])[0]):
                self.ways[name] = way
            else:
                self.missing.append(name)
        if "sandlock" not in self.missing:
            self.ways["sandlock"] = self.sandlock
        for name, mode in FLOORS.items():
            self.ways[name] = lambda argv, mode=mode: [str(self.floor), mode, *argv]
        self.whole = [name for name in self.ways if name not in FLOORS]

    def compiled(self, name: str) -> Path:
        """A program of this directory."""
        subprocess.run(
            ["cc", "-O2", "-pthread", "-o", self.directory / name, ROOT / f"benches/{name}.c"], check=True
        )
        return self.directory / name

    def make_tree(self) -> None:
        """A repository of many files."""
        for number in range(FILES):
            place = self.tree / f"d{number % 50}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"f{number}.txt").write_text(f"{number}\n")
        who = ["-c", "user.name=b", "-c", "user.email=b@localhost"]
        for argv in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "all"]):
            subprocess.run(["git", *argv], cwd=self.tree, env=self.environ(), check=True)

    def environ(self) -> dict[str, str]:
        return {"HOME": str(self.directory / "work"), "PATH": os.environ["PATH"]}

    def others(self) -> str:
        """A Python with numpy and sandlock, as far as the registry has them."""
        venv = ROOT / ".venv-bench-kernel"
        if not (venv / "bin/pip").exists():
            subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        for name, version in {"numpy": "", "sandlock": "==0.9.0"}.items():
            subprocess.run([venv / "bin/pip", "install", "-q", name + version], check=False)
            argv = [venv / "bin/python", "-c", f"import {name}"]
            if subprocess.run(argv, capture_output=True, check=False).returncode:
                self.missing.append(name)
        return str(venv / "bin/python")

    def failcore(self, argv: list[str]) -> list[str]:
        self.traces += 1
        trace = self.directory / f"trace-{self.traces}"
        head = [str(FAILCORE), "--quiet", "run", "--lane", "kernel", "-p", str(self.policy)]
        return [*head, "--trace", str(trace), "--", *argv]

    def sandlock(self, argv: list[str]) -> list[str]:
        return [self.python, str(SANDLOCK), str(self.directory), str(self.port), *argv]

    def bubblewrap(self, argv: list[str]) -> list[str]:
        work = str(self.directory / "work")
        head = ["bwrap", "--ro-bind", "/", "/", "--bind", work, work, "--dev", "/dev", "--proc", "/proc"]
        return [*head, "--unshare-pid", "--die-with-parent", "--", *argv]

    def strace(self, argv: list[str]) -> list[str]:
        return ["strace", "-f", "-qq", "-o", "/dev/null", *argv]

    def run(self, name: str, argv: list[str], where: Path | None = None, pinned: bool = False) -> str:
        """What a command says, run that way."""
        argv = self.ways[name](argv)
        done = subprocess.run(
            ["taskset", "-c", "0", *argv] if pinned else argv,
            capture_output=True,
            text=True,
            env=self.environ(),
            cwd=where or self.directory / "work",
            check=False,
        )
        if done.returncode:
            sys.exit(f"{name}: {argv} failed:\n{done.stderr}{done.stdout}")
        return done.stdout

    def native(self, name: str, operation: str, count: int, pinned: bool = False) -> float:
        """Nanoseconds an operation, in C."""
        file = str(self.directory / "work/file.txt")
        argument = {"connect": str(self.port), "spawn": "/bin/true"}.get(operation, file)
        # What is traced takes its time.
        count = count // 10 if name == "strace -f" else count
        argv = [str(self.loops), operation, argument, str(count)]
        return float(self.run(name, argv, pinned=pinned).split()[-1])

    def in_python(self, name: str) -> dict[str, float]:
        """Nanoseconds of each operation, in Python."""
        argv = [self.python, str(WORKER), "bare", str(self.port), str(self.directory / "work")]
        return dict(json.loads(self.run(name, argv).splitlines()[-1]))

    def command(self, name: str, argv: list[str], where: Path | None = None) -> float:
        """Nanoseconds of a whole command."""
        if name == "sandlock":
            # From inside a process that is there already: it has no command of its own.
            return float(self.run(name, ["--time", *argv], where).split()[-1])
        since = time.perf_counter_ns()
        self.run(name, argv, where)
        return float(time.perf_counter_ns() - since)


def commands(bench: Bench) -> dict[str, tuple[list[str], Path | None]]:
    """Whole commands: what they are called here, what they are, and where."""
    found: dict[str, tuple[list[str], Path | None]] = {
        "`true`": (["/bin/true"], None),
        "`python -c pass`": ([bench.python, "-c", "pass"], None),
        f"`git status`, {FILES} files": (["git", "status", "--short"], bench.tree),
    }
    if "numpy" not in bench.missing:
        found["`python -c 'import numpy'`"] = ([bench.python, "-c", "import numpy"], None)
    return found


def round_of(bench: Bench, order: random.Random) -> dict[str, dict[str, float]]:
    """Each row measured once for each contender."""
    rows: dict[str, dict[str, float]] = {}

    def turns(row: str, names: list[str], measure: Callable[[str], float]) -> None:
        order.shuffle(names)
        rows[row] = {name: measure(name) for name in names}

    for row, (operation, count) in LOOPS.items():
        names = [*bench.whole, EMPTY] + ([CONTINUE] if operation == "open" else [])
        turns(f"C: {row}", names, lambda name, o=operation, c=count: bench.native(name, o, c))
    names = [*bench.whole, EMPTY, CONTINUE]
    turns(f"C: {PINNED}", names, lambda name: bench.native(name, "open", 5000, pinned=True))
    names = [*bench.whole, EMPTY]
    order.shuffle(names)
    in_python = {name: bench.in_python(name) for name in names}
    for row, key in PYTHON.items():
        rows[f"Python: {row}"] = {name: times[key] for name, times in in_python.items()}
    for row, (argv, where) in commands(bench).items():
        names = [*bench.whole, CONFINED, EXEC]
        turns(row, names, lambda name, a=argv, w=where: bench.command(name, a, w))
        # A whole command begins in a domain; of a loop the beginning is not timed.
        rows[row][EMPTY] = rows[row].pop(CONFINED)
    return rows


def table(rounds: list[dict[str, dict[str, float]]]) -> list[str]:
    """One row each, a column for each contender."""
    names = ["bare", "FailCore", EMPTY, CONTINUE, EXEC, "sandlock", "bubblewrap", "strace -f"]
    names = [name for name in names if any(name in row for row in rounds[0].values())]
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for row in rounds[0]:
        cells = []
        for name in names:
            times = [r[row][name] for r in rounds if name in r[row]]
            cells.append(cell(times, None if name == "bare" else [r[row]["bare"] for r in rounds]))
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return lines


def aims(rounds: list[dict[str, dict[str, float]]]) -> list[str]:
    """What was aimed at, beside what the floor and FailCore come to."""

    def median(of: Callable[[dict[str, dict[str, float]]], float]) -> float:
        return statistics.median(of(r) for r in rounds)

    lines = ["| | aim | the floor | FailCore | FailCore ÷ the floor |", "|---|---:|---:|---:|---:|"]
    for row, most in AIMS.items():
        floor, ours = (
            median(lambda r, n=name, at=row: r[at][n] / r[at]["bare"]) for name in (EMPTY, "FailCore")
        )
        times = median(lambda r, at=row: r[at]["FailCore"] / r[at][EMPTY])
        lines.append(f"| {row}, to doing without | {most:g}× | {floor:.2f}× | {ours:.2f}× | {times:.2f} |")
    pinned = median(lambda r: r[f"C: {PINNED}"]["FailCore"] / r[f"C: {PINNED}"][EMPTY])
    lines.append(f"| C: {PINNED}, to the floor | {AIM_PINNED:g}× | 1× | {pinned:.2f}× | {pinned:.2f} |")
    floor, ours = (
        median(lambda r, n=n: r["`true`"][n] - r["`true`"]["bare"]) / 1e6 for n in (EMPTY, "FailCore")
    )
    times = median(lambda r: r["`true`"]["FailCore"] / r["`true`"][EMPTY])
    lines.append(f"| `true`, added | {AIM_START:g} ms | {floor:.1f} ms | {ours:.1f} ms | {times:.2f} |")
    return lines


def main() -> None:
    parser = arguments(__doc__, "benchmarks-kernel.md")
    help = "show the least of all rounds instead of medians, where the machine does other things meanwhile"
    parser.add_argument("--least", action="store_true", help=help)
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="failcore-bench-")).resolve()
    server, port = listener()
    try:
        bench = Bench(directory, port)
        order, rounds = random.Random(1), []
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            rounds.append(round_of(bench, order))
    finally:
        server.close()
        shutil.rmtree(directory, ignore_errors=True)

    how = f"medians over {options.rounds} rounds, ratios medians of each round's ratio to doing without"
    if options.least:
        how = f"the least of {options.rounds} rounds, since other things ran on the machine,"
        how += " ratios those of the least times"
        names = {row: list(times) for row, times in rounds[0].items()}
        rounds = [{row: {name: min(r[row][name] for r in rounds) for name in names[row]} for row in names}]
    lines = [
        "# Benchmarks of the kernel lane",
        "",
        "Written by `make bench`; do not edit. One run, contenders interleaved in shuffled order; times are",
        f"{how}. Last run",
        machine(),
        "",
        "*FailCore* is `failcore run --lane kernel`: every operation decided, recorded in the trace before it takes",
        "effect, and done by the supervisor. *The floor* is an otherwise empty supervisor (benches/floor.c): it copies",
        "the path or the address, opens the file and hands the descriptor over, or connects a duplicate of the socket;",
        "whole commands it starts within a Landlock domain. *CONTINUE* is one that lets the kernel go on, which can",
        "hold nothing against a racing thread; *fork and exec* starts the command and does no more. bubblewrap and",
        "sandlock hold other things than we do and record nothing; sandlock is timed from inside a Python that runs",
        "already, as it has no command.",
        "",
        *table(rounds),
        "",
        "## What was aimed at",
        "",
        "The floor is what a plain supervisor takes. Where it is itself above the aim, a plain supervisor cannot",
        "meet the aim on this machine. FailCore's opens can be below it: while one task makes many calls, the",
        "threads that take them give way to it (`SCHED_IDLE`), which the floor's ordinary ones do not.",
        "",
        *aims(rounds),
    ]
    if bench.missing:
        lines += ["", f"Not here when this was measured: {', '.join(sorted(set(bench.missing)))}."]
    options.write.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
