"""Measures what the kernel lane costs, beside doing without, others, and the floor; writes docs/benchmarks-kernel.md.

    make bench                            everything
    benches/kernel.py --rounds 3          quicker

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
    "connect + close": ("connect", 1000),
    "spawn + wait": ("spawn", 100),
    "read, write, poll, clock, futex, recv": ("read", 20000),
}
FILES = 4000
PYTHON = {"open + close": "open", "connect + close": "connect", "`subprocess.run`": "subprocess"}
PINNED = "open + close, all on one CPU"


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
        self.loops = directory / "loops"
        argv = ["cc", "-O2", "-w", "-pthread", "-o", self.loops, ROOT / "benches/loops.c"]
        subprocess.run(argv, check=True)
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
        argv = self.ways[name](argv) if name in self.ways else argv
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
        floor = {"the floor, CONTINUE": ["continue"], "the floor": ["emulate"]}.get(name, [])
        # What is traced takes its time.
        count = count // 10 if name == "strace -f" else count
        argv = [str(self.loops), operation, argument, str(count), *floor]
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

    ways, floors = list(bench.ways), ["the floor", "the floor, CONTINUE"]
    for row, (operation, count) in LOOPS.items():
        names = ways + (floors if operation == "open" else [])
        turns(f"C: {row}", names, lambda name, o=operation, c=count: bench.native(name, o, c))
    turns(f"C: {PINNED}", ways + floors, lambda name: bench.native(name, "open", 5000, pinned=True))
    names = [name for name in ways if name != "strace -f"]
    order.shuffle(names)
    in_python = {name: bench.in_python(name) for name in names}
    for row, key in PYTHON.items():
        rows[f"Python: {row}"] = {name: times[key] for name, times in in_python.items()}
    for row, (argv, where) in commands(bench).items():
        turns(row, list(ways), lambda name, a=argv, w=where: bench.command(name, a, w))
    return rows


def table(rounds: list[dict[str, dict[str, float]]]) -> list[str]:
    """One row each, a column for each contender."""
    names = ["bare", "FailCore", "the floor", "the floor, CONTINUE", "sandlock", "bubblewrap", "strace -f"]
    names = [name for name in names if any(name in row for row in rounds[0].values())]
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for row in rounds[0]:
        cells = []
        for name in names:
            times = [r[row][name] for r in rounds if name in r[row]]
            cells.append(cell(times, None if name == "bare" else [r[row]["bare"] for r in rounds]))
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = arguments(__doc__, "benchmarks-kernel.md")
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

    def over(row: str, name: str, than: str) -> float:
        return statistics.median(r[row][name] / r[row][than] for r in rounds)

    opened, pinned = f"C: {next(iter(LOOPS))}", f"C: {PINNED}"
    added = statistics.median(r["`true`"]["FailCore"] - r["`true`"]["bare"] for r in rounds) / 1e6
    lines = [
        "# Benchmarks of the kernel lane",
        "",
        "Written by `make bench`; do not edit. One run, contenders interleaved in shuffled order; times are medians",
        f"over {options.rounds} rounds, ratios medians of each round's ratio to doing without. Last run",
        machine(),
        "",
        "*FailCore* is `failcore run --lane kernel`: every operation decided, recorded in the trace before it takes",
        "effect, and done by the supervisor. *The floor* is an otherwise empty supervisor that reads the path, opens",
        "it and hands the descriptor over; *CONTINUE* one that lets the kernel go on, which can hold nothing against a",
        "racing thread. bubblewrap and sandlock hold other things than we do and record nothing; sandlock is timed",
        "from inside a Python that runs already, as it has no command.",
        "",
        *table(rounds),
        "",
        f"An open costs {over(opened, 'FailCore', 'the floor'):.2f} × the floor, and"
        f" {over(pinned, 'FailCore', 'the floor'):.2f} × where all is on one CPU. The start of `true` takes"
        f" {added:.1f} ms longer than without.",
    ]
    if bench.missing:
        lines += ["", f"Not here when this was measured: {', '.join(sorted(set(bench.missing)))}."]
    options.write.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
