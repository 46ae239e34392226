"""The cgroup of a run: born in it, unable to leave it, gone with it. Where none can be had, that is said."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import TIMEOUT, WORKSPACE, World, only

pytestmark = only("kernel")

ALLOW_ALL = 'version = 1\nextends = ["preset:allow-all"]\n'


def notes(run) -> str:
    return "\n".join(run.records[0]["coverage"]["notes"])


def hierarchies(kind: str) -> list[Path]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    parted = [line.split(" - ") for line in lines]
    return [Path(before.split()[4]) for before, after in parted if after.split()[0] == kind]


def cgroup(run) -> Path:
    """The run's own cgroup; skips where it got none."""
    found = [note for note in notes(run).splitlines() if "cgroup of its own" in note]
    assert len(found) == 1, run.explain()
    if "no cgroup" in found[0]:
        pytest.skip(found[0])
    return Path(found[0].split(": ", 1)[1])


def cgroup_of(world: World) -> Path:
    """Where runs of this world's user get theirs; skips where they get none."""
    return cgroup(world.run("tell('ran', 1)")).parent


def holds(world: World, controller: str) -> None:
    base = cgroup_of(world)
    for directory in (base, *base.parents):
        file = directory / "cgroup.controllers"
        if not file.exists():
            break
        if controller in file.read_text().split():
            return
    pytest.skip(f"the {controller} controller is not to be had in cgroup 2 here")


def test_the_program_is_in_it_and_cannot_leave(world: World) -> None:
    base = cgroup_of(world)
    files = [str(path / "cgroup.procs") for kind in ("cgroup", "cgroup2") for path in hierarchies(kind)]
    run = world.run(
        f"""
FILES, BASE = {files!r}, {str(base)!r}
import subprocess
own = open("/proc/self/cgroup").read().split("0::")[1].strip()
tell("own", own)
tell("child", subprocess.run(["/bin/cat", "/proc/self/cgroup"], capture_output=True, text=True).stdout.split("0::")[1].strip())
mine = BASE + "/" + own.rsplit("/", 1)[1]
for n, file in enumerate([*FILES, mine + "/cgroup.procs", mine + "/cgroup.threads", "/proc/self/root" + FILES[-1], "/proc/thread-self/cwd" + FILES[-1] if os.chdir("/") is None else ""]):
    attempt("leave %d" % n, lambda: open(file, "w").write(str(os.getpid())))
    attempt("leave %d by directory" % n, lambda: os.write(os.open("cgroup.procs", os.O_WRONLY, dir_fd=os.open(os.path.dirname(file), os.O_PATH)), b"0"))
for name in ("memory.max", "pids.max", "cgroup.freeze", "cgroup.kill", "cgroup.subtree_control"):
    attempt(name, lambda: open(mine + "/" + name, "w").write("max"))
attempt("below", os.mkdir, mine + "/below")
attempt("beside", os.mkdir, BASE + "/failcore-beside")
attempt("removed", os.rmdir, mine)
attempt("renamed", os.rename, mine, BASE + "/failcore-other")
attempt("handed over", os.chown, mine, os.getuid(), os.getgid())
attempt("mode", os.chmod, mine + "/cgroup.procs", 0o666)
tell("still", open("/proc/self/cgroup").read().split("0::")[1].strip())
""",
        policy=ALLOW_ALL,
    )
    own = run.attempts["own"].value
    assert Path(own).name.startswith("failcore-"), run.explain()
    assert run.attempts["child"].value == run.attempts["still"].value == own
    tried = [name for name in run.attempts if name not in ("own", "child", "still")]
    assert len(tried) > 20
    for name in tried:
        assert not run.attempts[name].ok, f"{name}\n{run.explain()}"
    run.refused(*(name for name in tried if name.startswith("leave") and "directory" not in name))
    assert not cgroup(run).exists(), "it was not removed"


def test_it_goes_with_the_run_and_with_its_parent(world: World) -> None:
    base = cgroup_of(world)
    line, _ = world.command(
        [
            "/bin/sh",
            "-c",
            "setsid sleep 4242 & (trap '' TERM HUP; exec sleep 4243) & cat /proc/self/cgroup; echo up; sleep 4244",
        ],
        policy=ALLOW_ALL,
    )
    process = subprocess.Popen(line, cwd=world.work, env=world.environ(), stdout=subprocess.PIPE)
    assert process.stdout is not None
    said = [process.stdout.readline().decode()]
    while said[-1] not in ("up\n", ""):
        said.append(process.stdout.readline().decode())
    (own,) = [line.strip().rsplit("/", 1)[1] for line in said if line.startswith("0::")]
    members = [int(pid) for pid in (base / own / "cgroup.procs").read_text().split()]
    assert len(members) >= 3, members
    process.send_signal(signal.SIGKILL)
    process.wait(TIMEOUT)
    end = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in members) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(Path(f"/proc/{pid}").exists() for pid in members)
    # By the guardian where it may, which it may not in the topmost cgroup; by the next run at the latest.
    world.run("tell('ran', 1)")
    assert not (base / own).exists()


def test_a_fork_bomb_that_ignores_signals_ends_at_once(world: World) -> None:
    began = time.monotonic()
    run = world.run(
        """
import signal, threading, time
for n in range(1, 32):
    try: signal.signal(n, signal.SIG_IGN)
    except OSError: pass
def bomb():
    while True:
        try:
            if os.fork() == 0: os.setsid()
        except OSError: time.sleep(0.001)
bomb()
""",
        policy=WORKSPACE + '[limits]\nwall_time = "3s"\nprocesses = 100\n',
    )
    assert run.code == 137 and "wall_time" in run.err, run.explain()
    assert time.monotonic() - began < 15 and not cgroup(run).exists()


def test_memory_is_the_kernels(world: World) -> None:
    holds(world, "memory")
    run = world.run(
        """
import subprocess, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
tell("started", 1)
parts = []
for n in range(100): parts.append(b"x" * (10 << 20))
tell("got", n)
""",
        policy=WORKSPACE + '[limits]\nmemory = "200MiB"\n',
    )
    assert "limits.memory is held by the kernel" in notes(run)
    assert "started" in run.attempts and "got" not in run.attempts
    assert run.code == 137 and "stopped: `limits.memory`" in run.err, run.explain()
    assert [
        record for record in run.records if record["type"] == "notice" and "limits.memory" in record["text"]
    ]
    # What can be dropped is not used up: cached files.
    run = world.run(
        """
with open("big", "wb") as file:
    for n in range(300): file.write(bytes(1 << 20))
for n in range(3):
    with open("big", "rb") as file:
        while file.read(1 << 20): pass
tell("read", 1)
""",
        policy=WORKSPACE + '[limits]\nmemory = "200MiB"\n',
    )
    assert run.code == 0 and "read" in run.attempts, run.explain()


def test_threads_are_bounded_with_processes(world: World) -> None:
    holds(world, "pids")
    run = world.run(
        """
import threading
stop = threading.Event()
threading.stack_size(65536)
try:
    for n in range(2000): threading.Thread(target=stop.wait).start()
except RuntimeError: pass
tell("threads", n)
stop.set()
""",
        policy=WORKSPACE + "[limits]\nprocesses = 4\n",
    )
    assert 400 < run.attempts["threads"].value < 512, run.explain()


def test_where_there_is_none_it_is_said_and_limits_hold(world: World) -> None:
    run = world.run(
        "x = bytearray(600 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1\nimport time; time.sleep(20)",
        policy=WORKSPACE + '[limits]\nmemory = "300MiB"\nprocesses = 3\n',
    )
    assert run.code == 137 and "limits.memory" in run.err, run.explain()
    said = notes(run)
    assert "limits.processes is held by the supervisor" in said
    assert ("limits.memory is held by the kernel" in said) != ("limits.memory is measured" in said)
    if os.getuid() == 0 and world.uid != 0:
        # Nothing was handed over to the ordinary user.
        assert "no cgroup" in said and "limits.memory is measured" in said


def test_one_process_does_not_outrun_the_measuring(world: World) -> None:
    run = world.run(
        "attempt('map', lambda: __import__('mmap').mmap(-1, 3 << 30, flags=0x22)); tell('data', __import__('resource').getrlimit(2))",
        policy=WORKSPACE + '[limits]\nmemory = "300MiB"\n',
    )
    if "limits.memory is measured" in notes(run):
        assert run.attempts["data"].value == [4 * (300 << 20)] * 2, run.explain()
        assert not run.attempts["map"].ok, run.explain()


def test_the_doctor_says_what_it_holds(world: World) -> None:
    said = world.ask("doctor").stdout
    (line,) = [line for line in said.splitlines() if "cgroup 2" in line]
    run = world.run("tell('ran', 1)", policy=WORKSPACE + '[limits]\nmemory = "1GiB"\n')
    held = "limits.memory is held by the kernel" in notes(run)
    has = "no cgroup" not in notes(run)
    assert ("memory and threads are held" in line) if held else ("partly" in line), line
    assert ("a run gets its own" in line) == has, line


def test_an_ordinary_user_gets_one_where_a_cgroup_was_handed_over(world: World) -> None:
    if os.getuid() != 0 or world.uid == 0:
        pytest.skip("that takes root to hand it over, and another user to get it")
    (top, *_) = hierarchies("cgroup2") or [None]
    if top is None:
        pytest.skip("cgroup 2 is not mounted here")
    given = top / f"given-{os.getpid()}"
    given.mkdir()
    try:
        for path in (
            given,
            given / "cgroup.procs",
            given / "cgroup.subtree_control",
            given / "cgroup.threads",
        ):
            os.chown(path, world.uid, world.uid)
        enter = ["/bin/sh", "-c", f'echo $$ > {given}/cgroup.procs && exec "$@"', "sh"]
        run = world.run("tell('own', open('/proc/self/cgroup').read())", policy=ALLOW_ALL, before=enter)
        assert cgroup(run).parent == given and not cgroup(run).exists(), run.explain()
        assert str(cgroup(run).name) in run.attempts["own"].value
        # The parent killed: here the guardian may remove it.
        line, _ = world.command(["/bin/sh", "-c", "echo up; sleep 60"], policy=ALLOW_ALL)
        process = subprocess.Popen(
            [*enter, *line], cwd=world.work, env=world.environ(), stdout=subprocess.PIPE
        )
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        (child,) = given.glob("failcore-*")
        process.kill()
        process.wait(TIMEOUT)
        end = time.monotonic() + 10
        while child.exists() and time.monotonic() < end:
            time.sleep(0.01)
        assert not child.exists(), "the guardian left it behind"
    finally:
        # The guardian itself is on its way out.
        end = time.monotonic() + 10
        while (given / "cgroup.procs").read_text() and time.monotonic() < end:
            time.sleep(0.01)
        given.rmdir()
