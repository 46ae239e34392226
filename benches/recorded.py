"""Measures what recording a run costs, running it again, and deciding it again; writes docs/benchmarks-replay.md.

    make bench                            everything
    benches/recorded.py --rounds 3        quicker

A workload is run in several ways that take turns in every round, in a shuffled order, each in a fresh process: without
anything, under `failcore run`, the same with `--record`, again from that record, and by others. A ratio is the median
over the rounds of that round's ratio. What cannot run here is left out, and said with why.
"""

from __future__ import annotations

import http.server
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import what_if
from run import FAILCORE, ROOT, arguments, machine

PLACE = ROOT / ".venv-bench-recorded"
VCRPY = "9.4.2"
POLICY = """
version = 1
extends = ["preset:python", "preset:native"]

[fs]
read = ["{directory}", "{benches}"]
write = ["{directory}/out"]

[net]
connect = ["127.0.0.1:{port}"]

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
REQUESTS = 200
HTTP = f"{REQUESTS} HTTP requests"
WORKLOADS = {
    "an agent's steps": ["agent.py"],
    "`python -c pass`": ["-c", "pass"],
    "2,000 small files read": [
        "-c",
        "import pathlib; [p.read_bytes() for p in pathlib.Path('many').iterdir()]",
    ],
    "20,000 calls of a clock": ["-c", "import time; [time.monotonic() for _ in range(20000)]"],
    HTTP: [str(ROOT / "benches/http_steps.py"), "{port}", str(REQUESTS)],
}
# Each with what is made by it before it can run.
AFTER = {"again": "recorded", "vcrpy again": "vcrpy", "rr again": "rr"}
WAYS = ("bare", "run", "recorded", "again", "vcrpy", "vcrpy again", "rr", "rr again")


class Answers(http.server.BaseHTTPRequestHandler):
    """What a model might say."""

    protocol_version = "HTTP/1.1"
    # Head and body at once, or each waits for the other end to say that it has the first.
    wbufsize = 1 << 16

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        said = json.dumps({"heard": len(asked), "path": self.path, "text": "words " * 600}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        pass


class Bench:
    """A directory with what the workloads read, a server, and the ways to run them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("in", "out", "many"):
            (directory / name).mkdir()
        for number in range(96):
            (directory / "in" / f"{number:03}.txt").write_text(f"line {number}\n" * 200)
        for number in range(2000):
            (directory / "many" / f"{number:04}").write_text(f"{number}\n" * 20)
        (directory / "agent.py").write_text(AGENT)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.port = server.server_address[1]
        self.policy = directory / "policy.toml"
        policy = POLICY.format(directory=directory, benches=ROOT / "benches", port=self.port)
        self.policy.write_text(policy)
        self.python = Path(sys.executable)
        self.missing: dict[str, str] = {}
        self.load = os.getloadavg()[0]
        self.others()

    def others(self) -> None:
        """Installs what we are measured against, and sees what of it runs here."""
        if not (PLACE / "bin/pip").exists():
            subprocess.run([sys.executable, "-m", "venv", PLACE], check=True)
        pip = [PLACE / "bin/pip", "install", "-q", f"vcrpy=={VCRPY}"]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode:
            self.missing["vcrpy"] = done.stderr.strip().splitlines()[-1]
        # One interpreter for all.
        self.python = PLACE / "bin/python"
        if not shutil.which("rr"):
            self.missing["rr"] = "it is not installed"
            return
        line = ["rr", "record", "-n", "-o", str(self.directory / "rr-try"), "/bin/true"]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            self.missing["rr"] = done.stderr.strip().splitlines()[-1]

    def ways(self, workload: str) -> list[str]:
        """Those that there are for a workload: vcrpy knows requests alone."""
        left_out = {*self.missing, *(set() if workload == HTTP else {"vcrpy"})}
        return [way for way in WAYS if way.split()[0] not in left_out]

    def kept(self, way: str) -> Path:
        """Where a way leaves what it recorded."""
        return self.directory / f"kept-{way}"

    def line(self, way: str, workload: str) -> list[str]:
        """The command line."""
        program = [str(self.python), *(part.format(port=self.port) for part in WORKLOADS[workload])]
        trace = self.directory / f"trace-{way}"
        shutil.rmtree(trace, ignore_errors=True)
        failcore = [str(FAILCORE), "--quiet"]
        policy = ["-p", str(self.policy), "--", *program]
        return {
            "bare": program,
            "run": [*failcore, "run", "--trace", str(trace), *policy],
            "recorded": [*failcore, "run", "--record", "--trace", str(self.kept(way)), *policy],
            "again": [*failcore, "replay", str(self.kept("recorded")), "--trace", str(trace)],
            "vcrpy": [*program, str(self.kept(way)), "all"],
            "vcrpy again": [*program, str(self.kept("vcrpy")), "none"],
            "rr": ["rr", "record", "-n", "-o", str(self.kept(way)), *program],
            "rr again": ["rr", "replay", "-a", str(self.kept("rr"))],
        }[way]

    def seconds(self, way: str, workload: str) -> float | None:
        """How long it takes; nothing where what was recorded does not run again."""
        if way not in AFTER:
            shutil.rmtree(self.kept(way), ignore_errors=True)
            self.kept(way).unlink(missing_ok=True)
        line = self.line(way, workload)
        start = time.perf_counter()
        done = subprocess.run(line, cwd=self.directory, capture_output=True, text=True, check=False)
        taken = time.perf_counter() - start
        if way in AFTER and done.returncode:
            self.missing[f"{workload}, {way}"] = (done.stderr.strip().splitlines() or ["no word of why"])[-1]
            return None
        assert done.returncode == 0, (way, workload, done.stderr)
        return taken


def size(kept: Path) -> int:
    """All bytes of a file, or below a directory."""
    return sum(path.stat().st_size for path in [kept, *kept.rglob("*")] if path.is_file())


class Found:
    """What was measured of one workload."""

    def __init__(self) -> None:
        self.times: dict[str, list[float | None]] = {}
        self.sizes: dict[str, int] = {}

    def ratio(self, way: str, to: str) -> str:
        """The median of the rounds' ratios."""
        pairs = zip(self.times.get(way, []), self.times[to], strict=False)
        ratios = [taken / other for taken, other in pairs if taken and other]
        return f"{statistics.median(ratios):.2f} ×" if ratios else "–"

    def median(self, way: str) -> str:
        return f"{statistics.median(taken for taken in self.times[way] if taken) * 1e3:.0f} ms"

    def size(self, way: str) -> str:
        return f"{self.sizes[way] / 1e3:.0f} kB" if way in self.sizes else "–"


def measure(bench: Bench, rounds: int) -> dict[str, Found]:
    """Everything, so many times."""
    order, found = random.Random(1), {workload: Found() for workload in WORKLOADS}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        for workload in order.sample(list(WORKLOADS), len(WORKLOADS)):
            ways = bench.ways(workload)
            # What is recorded in this round is what runs again in it.
            turns = order.sample(ways, len(ways))
            for way, before in AFTER.items():
                if way in turns and turns.index(way) < turns.index(before):
                    at, other = turns.index(way), turns.index(before)
                    turns[at], turns[other] = turns[other], turns[at]
            of = found[workload]
            for way in turns:
                of.times.setdefault(way, []).append(bench.seconds(way, workload))
            for way in set(AFTER.values()) & set(ways):
                of.sizes[way] = size(bench.kept(way))
            of.sizes["contents"] = size(bench.kept("recorded") / "objects")
    return found


def page(bench: Bench, found: dict[str, Found], rounds: int) -> Iterator[str]:
    """The page, line by line."""
    yield "# Benchmarks of recording, running again and deciding again"
    yield ""
    yield "Written by `make bench`; do not edit. One run, the ways interleaved, each turn in a fresh process; times are"
    yield f"medians over {rounds} rounds, ratios medians of each round's ratio. Last run"
    yield machine()
    yield ""
    yield f"Before it began, {bench.load:.1f} processes wanted a processor at a time (load average): where that is not"
    yield "near 0, others were at work, times are longer than they need be, and two cores less than twice one."
    yield ""
    yield "## Recording, and running again"
    yield ""
    yield "*recorded* and *again* are ratios to `failcore run` without `--record`. Sleeps that end at a point in time,"
    yield "as Python's do, are over at once where it runs again."
    yield ""
    yield "| workload | run | recorded | again | record, of which contents |"
    yield "|---|---:|---:|---:|---:|"
    for workload, of in found.items():
        cells = [of.median("run"), of.ratio("recorded", "run"), of.ratio("again", "run")]
        cells.append(f"{of.size('recorded')}, {of.size('contents')}")
        yield f"| {workload} | {' | '.join(cells)} |"
    yield ""
    yield "## Beside others"
    yield ""
    yield f"Ratios to doing without. [vcrpy](https://pypi.org/project/vcrpy/) {VCRPY} keeps the requests of Python's"
    yield "HTTP libraries, from inside the program; [rr](https://rr-project.org/) each system call of its processes, on"
    yield "one core. FailCore judges each operation as well: *run* is what that takes alone."
    yield ""
    yield "| workload | without | FailCore: run | recorded | again | vcrpy: recorded | again | rr: recorded | again |"
    yield "|---|" + "---:|" * 8
    for workload, of in found.items():
        ratios = [of.ratio(way, "bare") for way in WAYS[1:]]
        yield f"| {workload} | {of.median('bare')} | {' | '.join(ratios)} |"
    yield ""
    yield "| size of the record | FailCore | vcrpy | rr |"
    yield "|---|---:|---:|---:|"
    for workload, of in found.items():
        yield f"| {workload} | {of.size('recorded')} | {of.size('vcrpy')} | {of.size('rr')} |"
    yield ""
    yield "FailCore's record has the trace of every decision in it, not only what was learnt."
    yield ""
    for name, why in bench.missing.items():
        yield f"- {name} did not run: {why}"
    if bench.missing:
        yield ""


def main() -> None:
    parser = arguments(__doc__, "benchmarks-replay.md")
    parser.add_argument("--records", type=int, default=500_000, help="length of the traces decided again")
    parser.add_argument("--bytes", type=int, default=3_000_000_000, help="size of the trace beyond memory")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="failcore-bench-")).resolve()
    try:
        bench = Bench(directory)
        found = measure(bench, options.rounds)
        lines = list(page(bench, found, options.rounds))
        below = directory / "what-if"
        below.mkdir()
        lines += what_if.section(below, options.records, options.bytes, options.rounds)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    options.write.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
