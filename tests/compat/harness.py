"""Runs CPython's own test modules with the gate and without, and compares what became of each test."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODULES = (
    "test_os",
    "test_io",
    "test_pathlib",
    "test_tempfile",
    "test_socket",
    "test_subprocess",
    "test_asyncio",
    "test_multiprocessing_fork",
    "test_multiprocessing_forkserver",
    "test_multiprocessing_spawn",
    "test_multiprocessing_main_handling",
    "test_sqlite3",
    "test_ssl",
    "test_zipfile",
    "test_shutil",
    "test_threading",
)
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
LANES = ("runtime", "kernel")
# How long a test may be silent before it counts as hung.
SILENCE = 90.0
# More differences than this are not chance, and are not tried again one by one.
MANY = 30
POLICY = 'version = 1\nextends = ["preset:allow-all"]\n'


@dataclass(frozen=True)
class Interpreter:
    """A CPython with its own tests, or the reason why it is left out."""

    version: str
    executable: Path | None
    missing: str = ""
    # What goes before a command, so that another user runs it, and who that is.
    as_user: tuple[str, ...] = ()
    uid: int = -1

    @property
    def is_root(self) -> bool:
        """Whether root runs the tests."""
        return os.geteuid() == 0 and self.uid in (-1, 0)


def interpreters() -> list[Interpreter]:
    """One of each version, from PATH, /usr/bin, /usr/local/bin and pyenv; the first that has its tests."""
    found = []
    for version in VERSIONS:
        reason = "not installed"
        for candidate in candidates(version):
            probe = (
                "import sys, test.test_os as t; v = sys.version_info; "
                "print(sys.implementation.name, '%d.%d' % v[:2], '.'.join(map(str, v[:3])), sys.executable)"
            )
            done = subprocess.run([candidate, "-c", probe], capture_output=True, text=True, check=False)
            words = done.stdout.split()
            if done.returncode == 0 and words[:2] == ["cpython", version]:
                found.append(Interpreter(words[2], Path(words[3])))
                break
            if "No module named 'test" in done.stderr:
                reason = f"`{candidate.name}` comes without its `test` package"
        else:
            found.append(Interpreter(version, None, reason))
    return found


def candidates(version: str) -> Iterable[Path]:
    """Where an interpreter of a version may be."""
    name = f"python{version}"
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    places = [*sorted(pyenv.glob(f"versions/{version}.*/bin")), Path("/usr/local/bin"), Path("/usr/bin")]
    places += [Path(place) for place in os.environ.get("PATH", "").split(os.pathsep) if "shims" not in place]
    for place in places:
        if (place / name).is_file():
            yield place / name


# Binds what lies in a directory that is root's alone to where it is, below an empty directory that anybody may search.
UNCOVERED = """
mount --make-rprivate / && at=$(mktemp -d) && mount --bind "$1" "$at" && mount -t tmpfs -o mode=755 none "$2" &&
mkdir -p "$1" && mount --move "$at" "$1" && rmdir "$at" && shift 2 && exec "$@"
"""


def for_ordinary_user(interpreter: Interpreter, uid: int, as_user: Sequence[str]) -> Interpreter:
    """The interpreter as root has another user run it, for whom `as_user` goes before a command.

    Raises `LookupError` where that user cannot.
    """
    assert interpreter.executable
    ask = [str(interpreter.executable), "-c", "import sys; print(sys.base_prefix)"]
    prefix = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())
    closed = [place for place in reversed(prefix.parents) if not place.stat().st_mode & 0o001]
    bound = (
        ["unshare", "--mount", "--", "/bin/sh", "-c", UNCOVERED, "sh", str(prefix), str(closed[0])]
        if closed
        else []
    )
    theirs = replace(interpreter, as_user=(*bound, *as_user), uid=uid)
    # Through `env`, since setpriv itself still has root's way with files when it executes.
    probe = [*theirs.as_user, "env", str(theirs.executable), "-c", "import test"]
    done = subprocess.run(probe, capture_output=True, text=True, cwd="/", check=False)
    if done.returncode != 0:
        raise LookupError(f"an ordinary user may not run {theirs.executable}: {done.stderr.strip()[-200:]}")
    return theirs


class NotThere(Exception):
    """An installation that lacks a test module, as some do that forget new sub-packages of `test`."""


@dataclass
class Outcome:
    """What became of one test."""

    outcome: str
    why: str = ""


@dataclass(frozen=True)
class Gate:
    """What the tests run under: a lane of a `failcore` command."""

    failcore: Path
    lane: str = "runtime"


def run(
    interpreter: Interpreter, module: str, gate: Gate | None, only: Iterable[str] = ()
) -> dict[str, Outcome]:
    """Runs a module (or some of its tests), under the gate where there is one. Hung tests are `hung`."""
    python = interpreter.executable
    with tempfile.TemporaryDirectory(prefix="failcore-compat-") as name:
        base = Path(name)
        out, policy = base / "out.jsonl", base / "policy.toml"
        policy.write_text(POLICY)
        base.chmod(0o755)
        os.chown(base, interpreter.uid, -1)
        for attempt in range(20):
            argv = [str(python), str(HERE / "runner.py"), module, str(out), "--only", *only]
            if gate:
                trace = base / f"trace-{attempt}"
                under = [
                    str(gate.failcore),
                    "run",
                    "--lane",
                    gate.lane,
                    "-p",
                    str(policy),
                    "--trace",
                    str(trace),
                ]
                argv = [*under, "--", *argv]
            argv = [*interpreter.as_user, *argv]
            log = base / f"log-{attempt}"
            ended = watch(argv, out, log, base, {"HOME": name} if interpreter.as_user else {})
            if gate and not decided(trace, out):
                raise RuntimeError(f"the gate was not on:\n{log.read_text(errors='replace')[-3000:]}")
            outcomes = read(out)
            if "" in outcomes:  # the runner's last line
                del outcomes[""]
                return outcomes
            if not out.exists():
                raise RuntimeError(f"{module} did not start:\n{log.read_text(errors='replace')[-3000:]}")
            # It hung or died: mark the test that was running, and go on after it.
            with out.open("a") as lines:
                for test, outcome in outcomes.items():
                    if outcome.outcome == "running":
                        what = {"id": test, "outcome": ended, "why": log.read_text(errors="replace")[-2000:]}
                        lines.write(json.dumps(what) + "\n")
        return {test: outcome for test, outcome in read(out).items() if test}


def watch(argv: list[str], out: Path, log: Path, cwd: Path, env: dict[str, str]) -> str:
    """Runs the command until it ends, or until nothing is heard of it for too long."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "FAILCORE", "PIP_", "COV"))}
    environ |= env
    with log.open("wb") as sink:
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
        size, since = -1, time.monotonic()
        while process.poll() is None:
            time.sleep(0.05)
            now = out.stat().st_size if out.exists() else 0
            if now != size:
                size, since = now, time.monotonic()
            elif time.monotonic() - since > SILENCE:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return "hung"
    # What a test left running in the session ends with it.
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    return "died"


def decided(trace: Path, out: Path) -> bool:
    """Whether the trace shows that the runner was under the gate: it decided the opens of its results."""
    name = out.name.encode()
    for segment in trace.glob("trace*.jsonl"):
        with segment.open("rb") as lines:
            if any(name in line for line in lines):
                return True
    return False


def read(out: Path) -> dict[str, Outcome]:
    """The last word on each test."""
    outcomes: dict[str, Outcome] = {}
    if out.exists():
        for line in out.read_text().splitlines():
            fields = json.loads(line)
            outcomes[fields["id"]] = Outcome(fields["outcome"], fields.get("why", ""))
    return outcomes


@dataclass(frozen=True)
class Difference:
    """A test that came out differently under the gate, every time."""

    lane: str
    version: str
    test: str
    without: str
    under: str
    why: str
    reason: str


def without(interpreter: Interpreter, module: str) -> dict[str, Outcome]:
    """What becomes of a module's tests without the gate.

    # Raises
    `NotThere` where this installation has no such module.
    """
    assert interpreter.executable
    module = name_in(interpreter, module)
    probe = [interpreter.executable, str(HERE / "runner.py"), "--has", module]
    if subprocess.run(probe, capture_output=True, check=False).returncode != 0:
        raise NotThere(module)
    return run(interpreter, module, None)


def name_in(interpreter: Interpreter, module: str) -> str:
    """A module's name in this version."""
    if module == "test_sqlite3" and interpreter.version.startswith("3.10."):
        return "test_sqlite"
    return module


def compare(
    interpreter: Interpreter, module: str, gate: Gate, without: dict[str, Outcome]
) -> tuple[list[Difference], int]:
    """The lasting differences of one module on one version, and how many tests were compared to their end.

    A test that differs is tried twice more on its own, both ways: what is not repeated was chance.
    """
    assert interpreter.executable
    python = interpreter.executable
    under = run(interpreter, name_in(interpreter, module), gate)
    differing = [test for test in without if differs(without[test], under.get(test))]
    differing += [test for test in under if test not in without]
    differences = []
    for test in differing:
        before, after = without.get(test, Outcome("absent")), under.get(test, Outcome("absent"))
        for _ in range(2):
            if not re.fullmatch(r"[\w.]+", test) or len(differing) > MANY:
                break  # a fixture, which cannot be run by itself; or no chance any more
            before = run(interpreter, module, None, [test]).get(test, before)
            after = run(interpreter, module, gate, [test]).get(test, after)
            if not differs(before, after):
                break
        if differs(before, after):
            last = (after.why.strip().splitlines() or [""])[-1].replace(str(python), "PYTHON")
            why = reason_for(test, interpreter.version, gate.lane, interpreter.is_root)
            found = (before.outcome, after.outcome, last, why)
            differences.append(Difference(gate.lane, interpreter.version, test, *found))
    # Of what neither run came to the end of nothing is known.
    return differences, sum(outcome.outcome not in ("hung", "died") for outcome in without.values())


def differs(before: Outcome, after: Outcome | None) -> bool:
    """Failing is failing, whether by an error or an assertion."""
    bad = {"error": "failure"}
    return after is None or bad.get(before.outcome, before.outcome) != bad.get(after.outcome, after.outcome)


def reason_for(test: str, version: str, lane: str, is_root: bool) -> str:
    """The reason that the repository keeps for a difference, from reasons.json; empty where there is none.

    A pattern names a test, or a version and a test (`3.10.13:*.test_x`). Its reason is a text for every lane, or an
    object with a text a lane. One that begins with `as root:` is none for an ordinary user, nor the other way round.
    """
    for pattern, reason in json.loads((HERE / "reasons.json").read_text()).items():
        if fnmatch.fnmatchcase(test, pattern) or fnmatch.fnmatchcase(f"{version}:{test}", pattern):
            text = str(reason.get(lane, "") if isinstance(reason, dict) else reason)
            if text and not text.startswith("as an ordinary user:" if is_root else "as root:"):
                return text
    return ""


def command() -> Path:
    """The command beside this interpreter."""
    import sys

    found = Path(sys.executable).parent / "failcore"
    if not found.exists():
        which = shutil.which("failcore")
        assert which, "failcore is not installed; run `make build`"
        found = Path(which)
    return found
