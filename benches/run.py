"""Measures what the gate costs, side by side with doing without and with others, and writes docs/benchmarks.md.

    make bench                         everything
    benches/run.py --rounds 3 --no-rust   quicker

The contenders take turns in every round, in a shuffled order, each in a fresh process, so that a change of the
machine's mood hits all of them. A ratio is the median over the rounds of that round's ratio to bare Python.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORKER = ROOT / "benches/worker.py"
FAILCORE = Path(sys.executable).parent / "failcore"
OPERATIONS = ("open", "os.open", "connect", "getaddrinfo", "subprocess")
POLICY = """
version = 1
extends = ["preset:python"]

[fs]
read = ["{worker}"]
write = ["{directory}"]

[net]
connect = ["localhost:{port}"]

[process]
exec = ["/bin/true"]
"""


class Bench:
    """One run: a directory, a listener, the contenders."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory, self.port = directory, port
        (directory / "work").mkdir()
        (directory / "work/file.txt").write_text("hello\n")
        self.policy = directory / "policy.toml"
        self.policy.write_text(POLICY.format(worker=WORKER, directory=directory / "work", port=port))
        self.traces = 0
        python = sys.executable
        self.contenders = {
            "bare": [python],
            "empty native hook": [python],
            "empty Python hook": [python],
            "FailCore, traced": [python],
        }
        self.setups = {
            "empty native hook": f"native-hook={self.native_hook()}",
            "empty Python hook": "python-hook",
        }
        if others := self.others():
            for name in ("fastaudit 0.2.10", "failcore 0.1.3"):
                self.contenders[name] = [str(others)]
            self.setups |= {"fastaudit 0.2.10": "fastaudit", "failcore 0.1.3": "failcore-0.1.3"}

    def native_hook(self) -> Path:
        """Compiles the empty hook."""
        out = self.directory / "empty_hook.so"
        subprocess.run(
            ["cc", "-O2", "-shared", "-fPIC", "-o", out, ROOT / "benches/empty_hook.c"], check=True
        )
        return out

    def others(self) -> Path | None:
        """A Python with the other packages; none where the registry cannot be reached."""
        venv = ROOT / ".venv-bench"
        stamp = venv / ".done"
        if not stamp.exists():
            base = [sys.executable, "-m", "venv", "--clear", venv]
            pip = [venv / "bin/pip", "install", "-q", "-r", ROOT / "benches/requirements.txt"]
            if subprocess.run(base, check=False).returncode or subprocess.run(pip, check=False).returncode:
                print("the other packages could not be installed; going on without them", file=sys.stderr)
                return None
            stamp.touch()
        return venv / "bin/python"

    def under_gate(self, *argv: str) -> list[str]:
        """The command under the gate, with a fresh trace."""
        self.traces += 1
        trace = self.directory / f"trace-{self.traces}"
        head = [str(FAILCORE), "--quiet", "run", "--lane", "runtime", "-p", str(self.policy)]
        return [*head, "--trace", str(trace), "--", *argv]

    def measure(self, name: str) -> dict[str, float]:
        """One turn of one contender."""
        argv = [*self.contenders[name], str(WORKER), self.setups.get(name, "bare"), str(self.port)]
        argv.append(str(self.directory / "work"))
        if name == "FailCore, traced":
            argv = self.under_gate(*argv)
        environ = {**os.environ, "HOME": str(self.directory)}
        done = subprocess.run(
            argv, capture_output=True, text=True, env=environ, cwd=self.directory, check=False
        )
        if done.returncode != 0:
            sys.exit(f"{name} failed:\n{done.stderr}{done.stdout}")
        return dict(json.loads(done.stdout.splitlines()[-1]))

    def start(self, name: str) -> float:
        """Milliseconds of one start of a process that does nothing."""
        argv = (
            [sys.executable, "-c", "pass"]
            if name == "import failcore"
            else [sys.executable, "-I", "-S", "-c", "pass"]
        )
        if name == "import failcore":
            code = (
                "import time; t = time.perf_counter_ns(); import failcore; print(time.perf_counter_ns() - t)"
            )
            done = subprocess.run(
                [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
            )
            return int(done.stdout) / 1e6
        if name == "failcore run":
            argv = self.under_gate(*argv)
        since = time.perf_counter_ns()
        subprocess.run(argv, check=True, capture_output=True, cwd=self.directory)
        return (time.perf_counter_ns() - since) / 1e6


def listener() -> tuple[socket.socket, int]:
    """Accepts and closes, on loopback."""
    server = socket.create_server(("127.0.0.1", 0), backlog=4096)

    def serve() -> None:
        while True:
            try:
                server.accept()[0].close()
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    return server, server.getsockname()[1]


def spelled(nanoseconds: float) -> str:
    """Three digits and a unit."""
    for unit, size in (("ns", 1), ("µs", 1e3), ("ms", 1e6), ("s", 1e9)):
        if nanoseconds < 1000 * size or unit == "s":
            value = nanoseconds / size
            return (
                f"{value:.0f} {unit}"
                if value >= 100
                else f"{value:.1f} {unit}"
                if value >= 10
                else f"{value:.2f} {unit}"
            )
    raise AssertionError


def criterion(run: bool) -> list[tuple[str, float, int | None]]:
    """The Rust benches: name, nanoseconds an iteration, elements an iteration."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    if run:
        # Those that compare with other engines stand apart, so that no test has to compile the others.
        for manifest in (ROOT / "Cargo.toml", *sorted(ROOT.glob("benches/*/Cargo.toml"))):
            argv = ["cargo", "bench", "--manifest-path", str(manifest), "--benches", "--quiet"]
            argv += ["--workspace", "--exclude", "failcore-py"] if manifest.parent == ROOT else []
            environ = {**os.environ, "CARGO_TARGET_DIR": str(target)}
            subprocess.run(argv, cwd=manifest.parent, env=environ, check=True, stdout=subprocess.DEVNULL)
    found = []
    for estimates in sorted(target.glob("criterion/**/new/estimates.json")):
        about = json.loads((estimates.parent / "benchmark.json").read_text())
        throughput = about.get("throughput") or {}
        median = json.loads(estimates.read_text())["median"]["point_estimate"]
        found.append((about["full_id"], median, throughput.get("Elements")))
    return found


def cell(times: list[float], bare: list[float] | None) -> str:
    """The median of the rounds, and that of each round's ratio to doing without; `bare` is absent for that itself."""
    if not times:
        return "–"
    median = spelled(statistics.median(times))
    if bare is None:
        return median
    ratio = statistics.median(time / without for time, without in zip(times, bare, strict=True))
    return f"{median} ({ratio:.2f}×)"


def table(rounds: list[dict[str, dict[str, float]]], contenders: list[str]) -> list[str]:
    """The operations, one row each."""
    lines = ["| operation | " + " | ".join(contenders) + " |", "|---|" + "---:|" * len(contenders)]
    for operation in OPERATIONS:
        cells = []
        for name in contenders:
            times = [r[name][operation] for r in rounds if operation in r[name]]
            cells.append(cell(times, None if name == "bare" else [r["bare"][operation] for r in rounds]))
        lines.append(f"| `{operation}` | " + " | ".join(cells) + " |")
    return lines


def arguments(doc: str | None, page: str) -> argparse.ArgumentParser:
    """What every benchmark takes; `page` is the document that it writes."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", type=Path, default=ROOT / "docs" / page)
    return parser


def machine() -> str:
    """When, and on what, it was measured; the end of a sentence."""
    return (
        f"{datetime.date.today()}, CPython {platform.python_version()}, Linux {platform.release()},\n"
        f"{os.cpu_count()} CPUs. Figures shift with the machine; trust the ratios."
    )


def main() -> None:
    parser = arguments(__doc__, "benchmarks.md")
    parser.add_argument("--no-rust", action="store_true", help="keep the criterion results that are there")
    options = parser.parse_args()

    directory = Path(tempfile.mkdtemp(prefix="failcore-bench-")).resolve()
    server, port = listener()
    try:
        bench = Bench(directory, port)
        names = list(bench.contenders)
        rounds: list[dict[str, dict[str, float]]] = []
        starts: dict[str, list[float]] = defaultdict(list)
        order = random.Random(1)
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            turns = names.copy()
            order.shuffle(turns)
            rounds.append({name: bench.measure(name) for name in turns})
            for _ in range(5):
                for name in ("python", "failcore run", "import failcore"):
                    starts[name].append(bench.start(name))
    finally:
        server.close()
        shutil.rmtree(directory, ignore_errors=True)

    start = {name: statistics.median(times) for name, times in starts.items()}
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`; do not edit. One run, contenders interleaved, each turn in a fresh process; times",
        f"are medians over {options.rounds} rounds, ratios medians of each round's ratio to bare Python. Last run",
        machine(),
        "",
        "## One operation",
        "",
        "*FailCore, traced* is the gate in the interpreter: `failcore run --lane runtime` with a policy on",
        "`preset:python`, every decision appended to the trace by the parent; [the kernel lane](benchmarks-kernel.md)",
        "has a page of its own. `open` and `os.open` include the close, `connect` the socket too; `subprocess` is",
        "`subprocess.run` of `/bin/true`. failcore 0.1.3 wraps tools and judges their parameters:",
        "its figure is the cost of a guarded tool that does the operation; it has nothing for the others.",
        "",
        *table(rounds, names),
        "",
        "## Starting",
        "",
        "| what | time |",
        "|---|---:|",
        f"| `import failcore` | {start['import failcore']:.1f} ms |",
        f"| `python -I -S -c pass` | {start['python']:.1f} ms |",
        f"| the same under `failcore run` | {start['failcore run']:.1f} ms |",
    ]
    if measured := criterion(not options.no_rust):
        lines += ["", "## Deciding and recording", "", "From the criterion benches (`cargo bench`).", ""]
        lines += ["| bench | time | rate |", "|---|---:|---:|"]
        for name, nanoseconds, elements in measured:
            rate = f"{elements / nanoseconds * 1e6:,.0f} k/s" if elements else ""
            lines.append(f"| `{name}` | {spelled(nanoseconds)} | {rate} |")
    options.write.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
