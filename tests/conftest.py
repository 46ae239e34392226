"""A world for an agent: a workspace, a place outside that must stay untouched, and a real `failcore run` between.

Every test starts real processes and looks at what they did from outside: the files, the sockets, the trace. The
agent's own report says only how it was refused.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOBODY = 65534
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]
TIMEOUT = 60

WORKSPACE = """
version = 1
extends = ["preset:python"]
[fs]
write = ["./work"]
"""

PRELUDE = '''\
import json as _json, os, sys
_write, _dumps = os.write, _json.dumps

def attempt(name, call, *args, **kwargs):
    """Tries it and says what came of it, on a line of JSON."""
    try:
        value = call(*args, **kwargs)
    except BaseException as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        said = dict(name=name, ok=False, kinds=kinds, errno=getattr(error, "errno", None), text=str(error)[:2000])
    else:
        said = dict(name=name, ok=True, value=repr(value)[:2000])
    _write(1, (_dumps(said) + "\\n").encode())
    return said

def tell(name, value):
    _write(1, (_dumps(dict(name=name, ok=True, value=value)) + "\\n").encode())

'''


@dataclass
class Attempt:
    """What the agent says came of one attempt."""

    name: str
    ok: bool
    value: Any = None
    kinds: list[str] = field(default_factory=list)
    errno: int | None = None
    text: str = ""

    @property
    def refused(self) -> bool:
        """Refused by the gate, rather than failed for another reason."""
        return not self.ok and any(kind.startswith("Denied") for kind in self.kinds)


@dataclass
class Run:
    """A finished run."""

    code: int
    out: str
    err: str
    trace: Path
    records: list[dict[str, Any]]

    @property
    def attempts(self) -> dict[str, Attempt]:
        """The agent's attempts by name, as it reports them."""
        found = {}
        for line in self.out.splitlines():
            if line.startswith('{"name"'):
                attempt = Attempt(**json.loads(line))
                found[attempt.name] = attempt
        return found

    def decided(
        self, verb: str | None = None, about: object = "", verdict: str | None = None
    ) -> list[dict[str, Any]]:
        """Decisions on a verb (`fs.*` is a family) whose action mentions something."""
        return [
            record
            for record in self.records
            if record["type"] == "decided"
            and (verdict is None or record["decision"]["verdict"] == verdict)
            and (verb is None or _matches(verb, record["request"]["action"]["verb"]))
            and str(about) in json.dumps(record["request"]["action"], ensure_ascii=False)
        ]

    def denied(self, verb: str | None = None, about: object = "") -> list[dict[str, Any]]:
        """Enforced denials."""
        return [record for record in self.decided(verb, about, "deny") if record["enforced"]]

    def allowed(self, verb: str | None = None, about: object = "") -> list[dict[str, Any]]:
        """Decisions to allow."""
        return self.decided(verb, about, "allow")

    def refused(self, *names: str) -> None:
        """Asserts that the gate refused these attempts."""
        for name in names:
            assert name in self.attempts, f"`{name}` was never attempted\n" + self.explain()
            assert self.attempts[name].refused, (
                f"`{name}` was not refused: {self.attempts[name]}\n" + self.explain()
            )

    def worked(self, *names: str) -> None:
        """Asserts that these attempts, inside the grant, succeeded."""
        for name in names:
            assert name in self.attempts, f"`{name}` was never attempted\n" + self.explain()
            assert self.attempts[name].ok, f"`{name}` did not work: {self.attempts[name]}\n" + self.explain()

    def explain(self) -> str:
        """For the message of a failing assertion."""
        denials = "\n".join(
            json.dumps({k: v for k, v in r["request"]["action"].items() if k != "ids"})
            + " "
            + r["decision"]["reason"]
            for r in self.denied()[-20:]
        )
        return (
            f"exit {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err[-6000:]}\n--- denied\n{denials}"
        )


def _matches(pattern: str, verb: str) -> bool:
    return verb.startswith(pattern[:-1]) if pattern.endswith("*") else verb == pattern


class World:
    """One test's directory: `work` (the workspace), `outside` (must stay as it is), policy, traces and keys."""

    def __init__(self, base: Path, prefix: Path, as_user: Sequence[str], uid: int, lane: str) -> None:
        self.base, self.prefix, self.as_user, self.uid, self.lane = base, prefix, list(as_user), uid, lane
        self.work, self.outside, self.home = base / "work", base / "outside", base / "home"
        self.secret = "secret-" + secrets.token_hex(16)
        self.runs = 0
        for directory in (self.work, self.outside, self.outside / "dir", self.home):
            directory.mkdir(parents=True)
        (self.outside / "secret.txt").write_text(self.secret)
        (self.outside / "keep.txt").write_text("keep")
        (self.outside / "dir" / "inner.txt").write_text(self.secret)
        self.hand_over()

    def hand_over(self) -> None:
        """Gives everything to the user of the run, so that only the gate stands before it."""
        if os.getuid() != 0:
            return
        os.chown(self.base, self.uid, self.uid)
        for top, directories, files in os.walk(self.base):
            for name in directories + files:
                os.chown(os.path.join(top, name), self.uid, self.uid, follow_symlinks=False)

    @property
    def python(self) -> str:
        return str(self.prefix / "bin" / "python")

    @property
    def failcore(self) -> str:
        return str(self.prefix / "bin" / "failcore")

    def environ(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        return {
            "PATH": f"{self.prefix}/bin:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "XDG_STATE_HOME": str(self.base / "state"),
            **(extra or {}),
        }

    def names(self) -> str:
        """The constants that a script may use."""
        return (
            f"BASE, WORK, OUTSIDE = {str(self.base)!r}, {str(self.work)!r}, {str(self.outside)!r}\n"
            f"SECRET, KEEP = OUTSIDE + '/secret.txt', OUTSIDE + '/keep.txt'\n"
        )

    def write_policy(self, policy: str) -> Path:
        path = self.base / "policy.toml"
        path.write_text(policy)
        return path

    def command(
        self,
        argv: Sequence[str],
        *,
        policy: str | Path | None = WORKSPACE,
        options: Sequence[str] = (),
        user: bool = True,
    ) -> tuple[list[str], Path]:
        """The command line of a run, and where its trace will be."""
        self.runs += 1
        trace = self.base / f"trace-{self.runs}"
        line = [
            *(self.as_user if user else ()),
            self.failcore,
            "run",
            "--lane",
            self.lane,
            "--trace",
            str(trace),
        ]
        if policy is not None:
            line += ["-p", str(policy if isinstance(policy, Path) else self.write_policy(policy))]
        return [*line, *options, "--", *argv], trace

    def run(
        self,
        script: str,
        *args: str,
        policy: str | Path | None = WORKSPACE,
        env: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        python: Sequence[str] = (),
        argv: Sequence[str] | None = None,
        before: Sequence[str] = (),
        stdin: str | None = None,
        timeout: float = TIMEOUT,
    ) -> Run:
        """Runs a script under a policy, as a person would with `failcore run -p policy.toml -- python agent.py`.

        `argv` replaces the whole command, `python` the interpreter and its options; `before` goes before `failcore`.
        """
        agent = self.work / "agent.py"
        agent.write_text(PRELUDE + self.names() + script)
        self.hand_over()
        line, trace = self.command(
            argv or [*(python or [self.python]), str(agent), *args], policy=policy, options=options
        )
        done = subprocess.run(
            [*before, *line],
            cwd=self.work,
            env=self.environ(env),
            input=stdin or "",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
        return Run(done.returncode, done.stdout, done.stderr, trace, records(trace))

    @contextlib.contextmanager
    def under_way(
        self,
        script: str,
        *args: str,
        policy: str | Path | None = WORKSPACE,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        argv: Sequence[str] | None = None,
        before: Sequence[str] = ("setsid", "--wait"),
    ) -> Iterator[UnderWay]:
        """A run that can be given orders while the block lasts; without a terminal, unless `before` says otherwise."""
        agent = self.work / "agent.py"
        agent.write_text(PRELUDE + self.names() + script)
        self.hand_over()
        line, trace = self.command(argv or [self.python, str(agent), *args], policy=policy, options=options)
        out, err = (self.base / f"{name}-{self.runs}" for name in ("out", "err"))
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                [*before, *line],
                cwd=self.work,
                env=self.environ(env),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )
        run = UnderWay(self, process, trace, out, err)
        try:
            yield run
        finally:
            run.make_end()

    def plain(
        self, script: str, *args: str, env: Mapping[str, str] | None = None, timeout: float = TIMEOUT
    ) -> Run:
        """Runs a script without `failcore run`: it opens sessions itself, with the trace at `TRACE` for the first."""
        agent = self.work / "agent.py"
        trace = self.base / "trace-embedded"
        agent.write_text(PRELUDE + self.names() + f"TRACE = {str(trace)!r}\n" + script)
        self.hand_over()
        done = subprocess.run(
            [*self.as_user, self.python, str(agent), *args],
            cwd=self.work,
            env=self.environ(env),
            input="",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
        return Run(done.returncode, done.stdout, done.stderr, trace, records(trace))

    def ask(self, *argv: str, timeout: float = TIMEOUT) -> subprocess.CompletedProcess[str]:
        """Runs another command of `failcore`."""
        return subprocess.run(
            [*self.as_user, self.failcore, *argv],
            cwd=self.base,
            env=self.environ(),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )

    def attack(self, script: str, *args: str, **kwargs: Any) -> Run:
        """As `run`; then sees from outside that nothing out there was changed, and that the secret got nowhere."""
        self.hand_over()
        before = self.photograph()
        run = self.run(script, *args, **kwargs)
        assert self.photograph() == before, "something outside the workspace was changed\n" + run.explain()
        leaks = self.leaks()
        assert self.secret not in run.out + run.err, "the secret was read\n" + run.explain()
        assert not leaks, f"the secret got to {leaks}\n" + run.explain()
        return run

    def photograph(self) -> dict[str, tuple[Any, ...]]:
        """Everything about the files outside that an attack could change."""
        picture = {}
        for path in [self.outside, *sorted(self.outside.rglob("*"))]:
            at = path.lstat()
            kept = (
                path.read_bytes()
                if stat.S_ISREG(at.st_mode)
                else os.readlink(path)
                if path.is_symlink()
                else None
            )
            picture[str(path)] = (at.st_mode, at.st_uid, at.st_nlink, at.st_mtime_ns, kept)
        return picture

    def leaks(self) -> list[Path]:
        """Files other than the secret's own in which it can be found."""
        found = []
        for path in self.base.rglob("*"):
            if self.outside in path.parents or path.is_symlink() or not path.is_file():
                continue
            if self.secret.encode() in path.read_bytes():
                found.append(path)
        return found


class UnderWay:
    """A run that has not ended yet, as its owner sees it."""

    def __init__(
        self, world: World, process: subprocess.Popen[bytes], trace: Path, out: Path, err: Path
    ) -> None:
        self.world, self.process, self.trace, self.out, self.err = world, process, trace, out, err

    def status(self) -> dict[str, Any] | None:
        """What `failcore ps` says of it, if anything."""
        found = [json.loads(line) for line in self.world.ask("--json", "ps").stdout.splitlines()]
        return next((run for run in found if run.get("trace") == str(self.trace)), None)

    @property
    def session(self) -> str:
        return str(wait_for(self.status, "the run is found")["session"])

    def ready(self) -> None:
        """Waits until the program has made the file `ready` in the workspace."""
        ready = self.world.work / "ready"
        wait_for(lambda: ready.exists() or self.process.poll() is not None, "it is ready")
        assert ready.exists(), self.said()

    def questions(self, number: int = 1) -> list[dict[str, Any]]:
        """What waits for an answer, once it is so many."""

        def enough() -> list[dict[str, Any]]:
            waiting: list[dict[str, Any]] = (self.status() or {}).get("waiting", [])
            return waiting if len(waiting) >= number else []

        return list(wait_for(enough, "the program asks"))

    def order(self, *argv: str, code: int = 0) -> str:
        """Gives an order, such as `pause RUN`."""
        command, *rest = argv
        done = self.world.ask(command, self.session, *rest)
        assert done.returncode == code, f"{argv}: {done.stdout}{done.stderr}{self.said()}"
        return done.stdout + done.stderr

    def said(self) -> str:
        """What it said on its streams so far."""
        return self.out.read_text(errors="replace") + self.err.read_text(errors="replace")

    def ended(self, timeout: float = TIMEOUT) -> Run:
        """How it ended."""
        code = self.process.wait(timeout)
        out, err = (path.read_text(errors="replace") for path in (self.out, self.err))
        return Run(code, out, err, self.trace, records(self.trace))

    def make_end(self) -> None:
        """Leaves nothing behind, whatever the test found."""
        for pid in processes_in(self.world.base):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()


def processes_in(base: Path) -> list[int]:
    """Processes that work below a directory, `failcore` itself among them: found without asking it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if Path(os.readlink(entry / "cwd")).is_relative_to(base) and state(entry) not in "ZX":
                    found.append(int(entry.name))
    return found


def state(process: Path) -> str:
    """The state of a process or thread below /proc, as a letter; `X` where it is gone."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "X"


def wait_for(found: Callable[[], Any], what: str, timeout: float = TIMEOUT) -> Any:
    """Waits until there is something."""
    end = time.monotonic() + timeout
    while not (value := found()):
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.02)
    return value


def records(trace: Path) -> list[dict[str, Any]]:
    """The records of a trace, all segments, without trusting the package's own reader."""
    found = []
    for segment in sorted(trace.glob("trace*.jsonl")):
        found += [json.loads(line) for line in segment.read_bytes().splitlines() if line]
    return sorted(found, key=lambda record: record["seq"])


class Listener:
    """A server on loopback that counts who gets through to it."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.socket = socket.create_server((address, 0))
        self.address, self.port = self.socket.getsockname()[:2]
        self.accepted = 0
        self.received = b""
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self.socket.accept()
            except OSError:
                return
            self.accepted += 1
            with peer:
                peer.settimeout(5)
                try:
                    self.received += peer.recv(65536)
                    peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
                except OSError:
                    pass

    def close(self) -> None:
        self.socket.close()


def _runs(python: Path, as_user: Sequence[str]) -> bool:
    # Through `env`, since setpriv itself still has root's way with files when it executes.
    done = subprocess.run([*as_user, "env", str(python), "-c", ""], capture_output=True, cwd="/", check=False)
    return done.returncode == 0


@contextlib.contextmanager
def installation_for_anybody() -> Iterator[Path]:
    """A virtual environment that an ordinary user may read: ours, or a copy on an interpreter of the system.

    Raises `LookupError` where there is no such interpreter.
    """
    ours = Path(sys.prefix)
    if _runs(ours / "bin" / "python", AS_NOBODY):
        yield ours
        return
    probe = "import sys; sys.exit(sys.version_info < (3, 10))"
    for python in ("/usr/bin/python3", "/usr/local/bin/python3"):
        if Path(python).exists() and subprocess.run([python, "-c", probe], check=False).returncode == 0:
            break
    else:
        raise LookupError(f"an ordinary user can read neither {ours}'s interpreter nor another one")
    base = Path(tempfile.mkdtemp(prefix="failcore-venv-"))
    base.chmod(0o755)
    venv = base / "venv"
    subprocess.run([python, "-m", "venv", "--without-pip", str(venv)], check=True, capture_output=True)
    here = next((ours / "lib").glob("python3*")) / "site-packages" / "failcore"
    there = next((venv / "lib").glob("python3*")) / "site-packages" / "failcore"
    shutil.copytree(here, there)
    shutil.copytree(ours / "lib" / "failcore", venv / "lib" / "failcore")
    shutil.copy2(ours / "bin" / "failcore", venv / "bin" / "failcore")
    for path in [venv, *venv.rglob("*")]:
        if not path.is_symlink():
            path.chmod(
                path.stat().st_mode | (0o555 if path.is_dir() or path.stat().st_mode & 0o100 else 0o444)
            )
    try:
        yield venv
    finally:
        shutil.rmtree(base)


@pytest.fixture(scope="session")
def ordinary_prefix() -> Iterator[Path]:
    """A virtual environment that an ordinary user may read."""
    with contextlib.ExitStack() as stack:
        try:
            prefix = stack.enter_context(installation_for_anybody())
        except LookupError as error:
            pytest.skip(str(error))
        yield prefix


@pytest.fixture(params=["runtime", "kernel"])
def lane(request: pytest.FixtureRequest) -> str:
    """Each lane there is; a test of one lane alone says `@only("kernel")`."""
    return str(request.param)


def only(lane: str) -> pytest.MarkDecorator:
    """For a test of what one lane alone holds."""
    return pytest.mark.parametrize("lane", [lane], indirect=True)


@pytest.fixture(params=["root", "ordinary"] if os.getuid() == 0 else ["ordinary"])
def world(request: pytest.FixtureRequest, lane: str) -> Iterator[World]:
    """A world, for root and for an ordinary user; as an ordinary user, for that one alone."""
    prefix, as_user, uid = Path(sys.prefix), [], os.getuid()
    if request.param == "ordinary" and uid == 0:
        prefix, as_user, uid = request.getfixturevalue("ordinary_prefix"), AS_NOBODY, NOBODY
    base = Path(tempfile.mkdtemp(prefix="failcore-test-")).resolve()
    base.chmod(0o755)
    yield World(base, prefix, as_user, uid, lane)
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def listen() -> Iterator[Any]:
    """Makes servers on loopback."""
    opened: list[Listener] = []

    def make(address: str = "127.0.0.1") -> Listener:
        opened.append(Listener(address))
        return opened[-1]

    yield make
    for listener in opened:
        listener.close()
