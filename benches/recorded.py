"""Measures what recording a run costs, and running it again; writes docs/benchmarks-replay.md.

    make bench                            everything
    benches/recorded.py --rounds 3        quicker

A workload is run in three ways that take turns in every round, in a shuffled order: under `failcore run`, the same with
`--record`, and again from that record. A ratio is the median over the rounds of that round's ratio to the first.
"""

from __future__ import annotations

import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from run import FAILCORE, arguments, machine

POLICY = """
version = 1
extends = ["preset:python", "preset:native"]

[fs]
read = ["{directory}"]
write = ["{directory}/out"]

[process]
exec = ["git", "/bin/sh", "/usr/lib/git-core/*", "/usr/local/libexec/git-core/*"]
"""
AGENT = """
import hashlib, json, pathlib, subprocess, time
inside = pathlib.Path(__file__).parent / "in"
out = inside.parent / "out"
# Steps as an agent takes them: it waits for its model, reads some files, thinks about them, writes, starts a program.
for step in range(12):
    time.sleep(0.1)
    texts = [path.read_text() for path in sorted(inside.iterdir())[step * 8 : step * 8 + 8]]
    digest = "".join(texts)
    for _ in range(150): digest = hashlib.sha256(digest.encode()).hexdigest() * 50
    (out / f"step-{step}.json").write_text(json.dumps({"step": step, "at": time.time(), "digest": digest[:64]}))
    subprocess.run(["/bin/sh", "-c", "echo done"], check=True, stdout=subprocess.DEVNULL)
"""
WORKLOADS = {
    "an agent's steps": ["agent.py"],
    "`python -c pass`": ["-c", "pass"],
    "2,000 small files read": [
        "-c",
        "import pathlib; [p.read_bytes() for p in pathlib.Path('many').iterdir()]",
    ],
    "20,000 calls of a clock": ["-c", "import time; [time.monotonic() for _ in range(20000)]"],
}
WAYS = ("run", "recorded", "again")


class Bench:
    """A directory with what the workloads read."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("in", "out", "many"):
            (directory / name).mkdir()
        for number in range(96):
            (directory / "in" / f"{number:03}.txt").write_text(f"line {number}\n" * 200)
        for number in range(2000):
            (directory / "many" / f"{number:04}").write_text(f"{number}\n" * 20)
        (directory / "agent.py").write_text(AGENT)
        self.policy = directory / "policy.toml"
        self.policy.write_text(POLICY.format(directory=directory))

    def run(self, way: str, workload: str, record: Path) -> float:
        """How long it takes, in seconds."""
        trace = self.directory / f"trace-{way}"
        for old in (trace, *([record] if way == "recorded" else [])):
            shutil.rmtree(old, ignore_errors=True)
        head = [str(FAILCORE), "--quiet"]
        line = ["-p", str(self.policy), "--", sys.executable, *WORKLOADS[workload]]
        argv = {
            "run": [*head, "run", "--trace", str(trace), *line],
            "recorded": [*head, "run", "--record", "--trace", str(record), *line],
            "again": [*head, "replay", str(record), "--trace", str(trace)],
        }[way]
        start = time.perf_counter()
        subprocess.run(argv, cwd=self.directory, check=True)
        return time.perf_counter() - start


def size(directory: Path) -> int:
    """All bytes below it."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def main() -> None:
    parser = arguments(__doc__, "benchmarks-replay.md")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="failcore-bench-")).resolve()
    order, times, sizes = random.Random(1), {}, {}
    try:
        bench = Bench(directory)
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            for workload in order.sample(list(WORKLOADS), len(WORKLOADS)):
                record = directory / "record"
                # There is nothing to run again before it is recorded.
                ways = ["recorded", *order.sample(("run", "again"), 2)]
                taken = {way: bench.run(way, workload, record) for way in ways}
                times.setdefault(workload, []).append(taken)
                sizes[workload] = (size(record), size(record / "objects"))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    lines = [
        "# Benchmarks of recording and running again",
        "",
        "Written by `make bench`; do not edit. One run, the three ways interleaved; times are medians over",
        f"{options.rounds} rounds, ratios medians of each round's ratio to `failcore run` without `--record`. Last run",
        machine(),
        "",
        "Sleeps that end at a point in time, as Python's do, are over at once where it runs again.",
        "",
        "| workload | run | recorded | again | record, of which contents |",
        "|---|---|---|---|---|",
    ]
    for workload, rounds in times.items():
        cells = [f"{statistics.median(r['run'] for r in rounds) * 1e3:.0f} ms"]
        cells += [f"{statistics.median(r[way] / r['run'] for r in rounds):.2f} ×" for way in WAYS[1:]]
        whole, contents = sizes[workload]
        lines.append(f"| {workload} | {' | '.join(cells)} | {whole / 1e3:.0f} kB, {contents / 1e3:.0f} kB |")
    options.write.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
