"""The cgroup of a run: born in it, unable to leave it, gone with it. Where none can be had, that is said."""

import contextlib
import errno as errno_of
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PRELUDE, TIMEOUT, WORKSPACE, World, only, wait_for

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


# By every way that leads to a file: what came of writing to it, and whether whoever was named is elsewhere then.
NATIVELY = """
import ctypes, signal
libc = ctypes.CDLL(None, use_errno=True)
TARGETS, AGENTS, PLACES = (one.split(":") if one else [] for one in sys.argv[1:4])
WORDS = dict(zip(("procs", "threads"), ("cgroup.procs", "cgroup.threads")))
OPENAT2 = 437

def where(pid="self"): return open("/proc/%s/cgroup" % pid).read()
def natively(name, opened, what):
    # In a child, which is gone afterwards wherever it went.
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0); return
    before = where()
    ctypes.set_errno(0)
    fd = opened()
    errno = ctypes.get_errno() if fd < 0 else 0
    if fd >= 0 and libc.write(fd, what, len(what)) < 0: errno = ctypes.get_errno()
    tell(name, [errno, where() != before])
    os._exit(0)
def another(name, opened):
    sleeper = os.fork()
    if sleeper == 0:
        signal.pause(); os._exit(0)
    before, what = where(sleeper), b"%d" % sleeper
    ctypes.set_errno(0)
    fd = opened()
    errno = ctypes.get_errno() if fd < 0 else 0
    if fd >= 0:
        if libc.write(fd, what, len(what)) < 0: errno = ctypes.get_errno()
        libc.close(fd)
    tell(name, [errno, where(sleeper) != before])
    os.kill(sleeper, 9); os.waitpid(sleeper, 0)
def by_directory(path):
    return libc.openat(libc.open(os.path.dirname(path), os.O_PATH), os.path.basename(path), os.O_WRONLY)
def anew(path):
    fd = os.open(path.decode(), os.O_RDONLY)
    return libc.open(b"/proc/self/fd/%d" % fd, os.O_WRONLY)
def by_path_alone(path):
    fd = libc.open(path, os.O_PATH)
    return libc.open(b"/proc/self/fd/%d" % fd, os.O_WRONLY)
def by_openat2(path): return libc.syscall(OPENAT2, -100, path, (ctypes.c_uint64 * 3)(os.O_WRONLY, 0, 0), 24)
def by_link(path):
    name = (WORK + "/leads-%d" % os.getpid()).encode()
    libc.symlink(path, name)
    return libc.open(name, os.O_WRONLY)
def from_there(path):
    libc.chdir(os.path.dirname(path))
    return libc.open(os.path.basename(path), os.O_WRONLY)
WAYS = {
    "open": lambda path: libc.open(path, os.O_WRONLY),
    "open to read and write": lambda path: libc.open(path, os.O_RDWR),
    "open and truncate": lambda path: libc.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CREAT, 0o600),
    "openat": by_directory,
    "openat2": by_openat2,
    "open again": anew,
    "open what was a path": by_path_alone,
    "by a link": by_link,
    "from there": from_there,
    "by root": lambda path: libc.open(b"/proc/self/root" + path, os.O_WRONLY),
    "by cwd": lambda path: (libc.chdir(os.path.dirname(path)), libc.open(b"/proc/thread-self/cwd/" + os.path.basename(path), os.O_WRONLY))[1],
}
for n, path in enumerate(TARGETS):
    for way, call in WAYS.items(): natively("moves %d %s" % (n, way), lambda: call(path.encode()), b"0")
    another("moves %d a child" % n, lambda: libc.open(path.encode(), os.O_WRONLY))
for n, path in enumerate(AGENTS):
    # With what is there already: nothing changes where it can be written.
    now = open(path).read().encode() or b"\\n"
    for way, call in WAYS.items(): natively("writes %d %s" % (n, way), lambda: call(path.encode()), now)

class Args(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in "flags pidfd child_tid parent_tid exit_signal stack stack_size tls set_tid set_tid_size cgroup".split()]
def born(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    args = Args(flags=0x200000000, exit_signal=17, cgroup=fd)
    ctypes.set_errno(0)
    pid = libc.syscall(435, ctypes.byref(args), ctypes.sizeof(args))
    if pid == 0: libc.pause(); os._exit(0)
    errno, elsewhere = ctypes.get_errno() if pid < 0 else 0, pid > 0 and where(pid) != where()
    if pid > 0: os.kill(pid, 9); os.waitpid(pid, 0)
    return [errno, elsewhere]
for n, path in enumerate(PLACES): tell("born %d" % n, born(path))
tell("handed", [os.path.exists("/proc/self/fd/9")])
tell("own", where())
"""
HANDED_OVER = (
    "cgroup.procs",
    "cgroup.threads",
    "cgroup.subtree_control",
    "tasks",
    "notify_on_release",
    "release_agent",
)
GIVEN = """
mount --make-rprivate / && mount --bind "$1" "$2/work/bound" && mount -t cgroup2 none "$2/two" &&
echo $$ > "$1/from/cgroup.procs" && exec 9> "$1/else/cgroup.procs" && shift 2 && exec "$@"
"""
OLD = """
mount --make-rprivate / && mount -t cgroup -o "none,name=$1" none "$2/one" && mkdir "$2/one/else" &&
for file in "$2"/one/tasks "$2"/one/release_agent "$2"/one/else/*; do chown "$3" "$file"; done &&
mount --bind "$2/one/else" "$2/work/bound"
if test $? = 0; then base="$2"; shift 3; "$@" 9> "$base/one/else/tasks"; code=$?; umount "$base/work/bound"; rmdir "$base/one/else"; umount "$base/one"; exit $code; fi
echo no hierarchy of version 1 can be made here; exit 77
"""
WRITABLE = 'version = 1\nextends = ["preset:python", "preset:native"]\n[fs]\nread = ["/**"]\nwrite = ["/**"]\n[native]\nload = ["ctypes", "/**"]\n'


def without(world: World, before: list[str], *args: str) -> dict[str, Any]:
    """What the same code comes to without FailCore."""
    script = world.work / "plain.py"
    script.write_text(PRELUDE + world.names() + NATIVELY)
    world.hand_over()
    plain = [*before, *world.as_user, world.python, str(script), *args]
    done = subprocess.run(
        plain, cwd=world.work, env=world.environ(), capture_output=True, text=True, timeout=TIMEOUT
    )
    if done.returncode == 77:
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    return {said["name"]: said["value"] for said in map(json.loads, done.stdout.splitlines())}


def nothing_leaves(world: World, policy: str, before: list[str], *args: str) -> None:
    """Nobody leaves the run's cgroup by code that leads elsewhere without FailCore."""
    plain = without(world, before, *args)
    run = world.run(NATIVELY, *args, policy=policy, before=before)
    assert run.code == 0, run.explain()
    came = {name: attempt.value for name, attempt in run.attempts.items()}
    assert set(came) == set(plain), run.explain()
    tried = [name for name in came if name.split()[0] in ("moves", "writes", "born")]
    assert len(tried) > 20
    for name in tried:
        errno, elsewhere = plain[name]
        assert errno == 0 and elsewhere == (not name.startswith("writes")), (
            f"{name} shows nothing: {plain[name]}"
        )
        errno, elsewhere = came[name]
        assert errno != 0 and not elsewhere, f"{name}: {came[name]}\n{run.explain()}"
        if not name.startswith("born"):
            assert errno == errno_of.EACCES, f"{name}: {came[name]}\n{run.explain()}"
    assert plain["handed"] == [True] and came["handed"] == [False], (
        "it was handed a descriptor by which it could leave"
    )
    assert len(run.denied("fs.open")) >= len([name for name in tried if not name.startswith("born")])


@pytest.mark.parametrize("policy", [WRITABLE, ALLOW_ALL], ids=["write", "allow-all"])
def test_native_code_does_not_leave_for_a_cgroup_that_its_user_was_given(world: World, policy: str) -> None:
    (top, *_) = hierarchies("cgroup2") or [None]
    if os.getuid() != 0 or top is None:
        pytest.skip("that takes root, and cgroup 2")
    given = top / f"given-{os.getpid()}"
    for name in ("from", "else"):
        (given / name).mkdir(parents=True)
    (world.base / "two").mkdir()
    (world.work / "bound").mkdir()
    try:
        for directory in (given, given / "from", given / "else"):
            for path in (
                directory,
                *(directory / name for name in HANDED_OVER if (directory / name).exists()),
            ):
                os.chown(path, world.uid, world.uid)
        before = ["unshare", "--mount", "/bin/sh", "-c", GIVEN, "sh", str(given), str(world.base)]
        places = [given / "else", world.work / "bound/else", world.base / "two" / given.name / "else"]
        targets = [place / "cgroup.procs" for place in places] + [given / "cgroup.procs"]
        args = (targets, [], places)
        nothing_leaves(world, policy, before, *(":".join(map(str, one)) for one in args))
    finally:
        end = time.monotonic() + 10
        while "populated 1" in (given / "cgroup.events").read_text() and time.monotonic() < end:
            time.sleep(0.01)
        for directory in (given / "from", given / "else", given):
            directory.rmdir()


@pytest.mark.parametrize("policy", [WRITABLE, ALLOW_ALL], ids=["write", "allow-all"])
def test_nor_for_one_of_version_1_nor_names_what_runs_when_one_is_empty(world: World, policy: str) -> None:
    if os.getuid() != 0:
        pytest.skip("that takes root")
    (world.base / "one").mkdir()
    (world.work / "bound").mkdir()
    name = world.base.name
    before = ["unshare", "--mount", "/bin/sh", "-c", OLD, "sh", name, str(world.base), str(world.uid)]
    one, bound = world.base / "one", world.work / "bound"
    targets = [one / "else/cgroup.procs", one / "else/tasks", bound / "cgroup.procs", bound / "tasks"]
    agents = [one / "else/notify_on_release", bound / "notify_on_release"]
    if world.uid == 0:
        # To others the kernel itself refuses this one.
        agents.append(one / "release_agent")
    try:
        nothing_leaves(world, policy, before, ":".join(map(str, targets)), ":".join(map(str, agents)), "")
    finally:
        gone(name, one)


def gone(name: str, point: Path) -> None:
    """Sees to it that a hierarchy of version 1 is no more: one that was left while its last cgroup went may stay."""
    again = f'mount -t cgroup -o "none,name={name}" none "$0" && umount "$0"'
    for _ in range(20):
        with contextlib.suppress(AssertionError):
            wait_for(lambda: f"name={name}:" not in Path("/proc/self/cgroup").read_text(), "it is gone", 2)
            return
        subprocess.run(["unshare", "--mount", "/bin/sh", "-c", again, str(point)], check=True)
    raise AssertionError(f"the hierarchy `{name}` stays")
