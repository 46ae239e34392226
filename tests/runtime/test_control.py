"""`failcore ps`, `pause`, `resume`, `stop` and `tail`: a run under way does what its owner wants."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import WORKSPACE, UnderWay, World, processes_in, state, wait_for

# Every kind of process that could be forgotten. Each beats on a descriptor it has, which nobody mediates.
MENAGERIE = """
import ctypes, signal, threading, time
libc = ctypes.CDLL(None)
EXIT = {"x86_64": 60}.get(os.uname().machine, 93)

def beat(name):
    fd = os.open(WORK + "/beat-" + name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    while True:
        os.write(fd, b".")
        time.sleep(0.002)

def start(name, then=None):
    if os.fork() == 0:
        try: (then or beat)(name)
        finally: os._exit(1)

def daemon(name):
    os.setsid()
    if os.fork() == 0:
        if os.fork() == 0: beat(name)
        os._exit(0)
    os._exit(0)

def ignores(name):
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    beat(name)

def goes_on(name):
    # Whoever stops it by a signal is undone by the next tick.
    event, timer = (ctypes.c_int * 16)(0, 0, signal.SIGCONT, 0), ctypes.c_void_p()
    assert libc.timer_create(1, event, ctypes.byref(timer)) == 0
    assert libc.timer_settime(timer, 0, (ctypes.c_long * 4)(0, 1000000, 0, 1000000), None) == 0
    beat(name)

def headless(name):
    # Its first thread ends before the others, which makes it look like a zombie.
    threading.Thread(target=beat, args=(name,)).start()
    libc.syscall(EXIT, 0)

def sleeper(name):
    stopped = open(WORK + "/stopped", "w"); stopped.write(str(os.getpid())); stopped.close()
    os.kill(os.getpid(), signal.SIGSTOP)
    beat(name)

start("child"); start("daemon", daemon); start("ignores", ignores); start("goes-on", goes_on)
start("headless", headless); start("sleeper", sleeper)
threading.Thread(target=beat, args=("thread",), daemon=True).start()
"""
BEATS = {"child", "daemon", "ignores", "goes-on", "headless", "thread", "main"}
NATIVE = WORKSPACE + '\n[native]\nload = ["ctypes"]\n'
ENDLESS = MENAGERIE + 'beat("main")\n'


def beats(world: World) -> dict[str, int]:
    return {path.name[5:]: path.stat().st_size for path in world.work.glob("beat-*")}


def all_beat(world: World) -> None:
    """Waits until each of them has gone on."""
    wait_for((world.work / "stopped").exists, "all have begun")
    before = beats(world)

    def going() -> bool:
        now = beats(world)
        return now.keys() >= BEATS and all(now[name] > before.get(name, 0) for name in BEATS)

    wait_for(going, f"all of {BEATS} beat, and not only {beats(world)}")


def threads(world: World) -> dict[str, str]:
    """The program's threads with their states: those of `failcore` itself are called after it."""
    found = {}
    for pid in processes_in(world.base):
        for task in Path(f"/proc/{pid}/task").glob("*"):
            try:
                name = (task / "comm").read_text().strip()
            except OSError:
                continue
            if not name.startswith(("failcore", "setsid")):
                found[f"{name} {task.name}"] = state(task)
    return found


def stands_still(world: World) -> None:
    assert threads(world)
    before = beats(world)
    time.sleep(0.3)
    assert beats(world) == before


def nothing_is_left(world: World, run: UnderWay) -> None:
    left = [pid for pid in processes_in(world.base) if pid != run.process.pid]
    names = [Path(f"/proc/{pid}/comm").read_text() if Path(f"/proc/{pid}").exists() else "" for pid in left]
    assert not [name for name in names if name and not name.startswith(("failcore", "setsid"))], names


def kinds(run_records: list[dict[str, object]]) -> list[object]:
    return [record["type"] for record in run_records if str(record["type"]).startswith("run.")]


def test_ps_tells_how_a_run_is(world: World) -> None:
    script = """
import time
attempt("inside", lambda: open("in.txt", "w"))
attempt("outside", lambda: open(OUTSIDE + "/new.txt", "w"))
child = os.fork()
if not child: time.sleep(60)
open("ready", "w")
time.sleep(60)
"""
    options = ["--agent", "tester", "--run", "nightly"]
    with world.under_way(script, options=options, policy='name = "narrow"\n' + WORKSPACE) as run:
        run.ready()
        said = wait_for(lambda: (now := run.status()) and now["processes"] == 2 and now, "both are counted")
        assert (said["agent"], said["run"], said["lane"]) == ("tester", "nightly", world.lane)
        assert (said["state"], said["policy"], said["waiting"]) == ("running", "narrow", [])
        assert said["allowed"] > 1 and said["refused"] >= 1 and said["command"][0] == world.python
        shown = world.ask("ps").stdout
        assert said["session"] in shown and "nightly" in shown and "narrow" in shown and "running" in shown
        # Named by its label, its session and the beginning of that.
        for name in ("nightly", said["session"], said["session"][:-1]):
            assert world.ask("pause", name).returncode == 0
            assert world.ask("resume", name).returncode == 0
        for name in ("weekly", "nightl", said["session"] + "0"):
            missing = world.ask("pause", name)
            assert missing.returncode == 2 and "no run under way" in missing.stderr
        run.order("stop")
        assert run.status() is None
        assert run.ended().code == 137
    assert world.ask("ps").stdout == ""
    assert not list((world.base / "state/failcore/live").iterdir())


def test_two_runs_are_told_apart(world: World) -> None:
    script = "import time; time.sleep(60)"
    with (
        world.under_way(script, options=["--run", "twin"]) as one,
        world.under_way(script, options=["--run", "twin"]) as two,
    ):
        sessions = {one.session, two.session}
        for name in ("twin", "0"):
            unclear = world.ask("stop", name)
            assert unclear.returncode == 2 and all(session in unclear.stderr for session in sessions)
        one.order("stop")
        assert one.ended().code == 137
        assert two.status() is not None and world.ask("stop", "twin").returncode == 0
        assert two.ended().code == 137


def test_what_was_killed_is_cleared_away(world: World) -> None:
    with world.under_way("import time; open('ready', 'w'); time.sleep(60)", before=()) as run:
        run.ready()
        status = wait_for(run.status, "the run is found")
        socket = world.base / "state/failcore/live" / status["session"]
        assert socket.is_socket()
        os.kill(status["pid"], signal.SIGKILL)
        run.process.wait(20)
        assert socket.exists()
        assert world.ask("ps").stdout == ""
        assert not socket.exists()
        assert "no run under way" in world.ask("stop", status["session"]).stderr
        # What somebody else keeps there stays.
        other = socket.parent / "notes.txt"
        other.write_text("x")
        assert world.ask("ps").stdout == "" and other.exists()


def test_the_runtime_directory_is_used_where_it_is_the_users_own(world: World) -> None:
    mine, shared = world.base / "runtime", world.base / "shared-runtime"
    mine.mkdir(mode=0o700)
    shared.mkdir()
    shared.chmod(0o777)
    script = "import time; time.sleep(60)"
    for directory, place in ((mine, mine / "failcore"), (shared, world.base / "state/failcore/live")):
        with world.under_way(script, env={"XDG_RUNTIME_DIR": str(directory)}) as run:
            wait_for(lambda place=place: list(place.glob("*")), f"its socket is in {place}")
            assert place.stat().st_mode & 0o777 == 0o700
            assert not list(shared.iterdir())
            done = subprocess.run(
                [*world.as_user, world.failcore, "stop", "0"],
                env=world.environ({"XDG_RUNTIME_DIR": str(directory)}),
                cwd=world.base,
                check=False,
            )
            assert done.returncode == 0 and run.ended().code == 137
        assert not list(place.glob("*"))


def test_a_place_that_others_can_enter_is_not_used(world: World) -> None:
    live = world.base / "state/failcore/live"
    live.mkdir(parents=True)
    world.hand_over()
    live.chmod(0o770)
    run = world.run("")
    assert run.code == 126 and str(live) in run.err and not run.trace.exists(), run.explain()


def test_a_paused_run_stands_still_and_goes_on(world: World) -> None:
    with world.under_way(ENDLESS, policy=NATIVE) as run:
        all_beat(world)
        stopped = Path("/proc") / wait_for((world.work / "stopped").read_text, "one has stopped itself")
        wait_for(lambda: state(stopped) == "T", "one has stopped itself")
        for _ in range(3):
            run.order("pause")
            assert (run.status() or {})["state"] == "paused"
            stands_still(world)
            assert "already" in run.order("pause")
            run.order("resume")
            all_beat(world)
            # Whoever was stopped before still is.
            wait_for(lambda: state(stopped) == "T", "it stands as before")
        assert "sleeper" not in beats(world)
        assert "already" in run.order("resume")
        run.order("pause")
        run.order("stop")
        nothing_is_left(world, run)
        ended = run.ended()
    assert ended.code == 137
    assert kinds(ended.records) == ["run.paused", "run.resumed"] * 3 + ["run.paused", "run.stopped"]
    who = {record["who"] for record in ended.records if str(record["type"]).startswith("run.")}
    assert len(who) == 1 and f"uid {world.uid}" in who.pop()
    shown = world.ask("trace", "show", str(ended.trace)).stdout
    assert "paused  by" in shown and "resumed by" in shown and "stopped by" in shown
    assert world.ask("trace", "verify", str(ended.trace)).returncode == 0


def test_those_born_while_pausing_stand_still_too(world: World) -> None:
    script = """
import time
for _ in range(3): os.fork()
mine = os.open(WORK + "/beat-%d" % os.getpid(), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
while True:
    children = []
    for _ in range(3):
        if not (child := os.fork()):
            os.setsid()
            for _ in range(20): os.write(mine, b"."); time.sleep(0.001)
            os._exit(0)
        children.append(child)
    for child in children: os.waitpid(child, 0)
"""
    with world.under_way(script) as run:
        for _ in range(8):
            before = beats(world)
            wait_for(lambda before=before: len(beats(world)) == 8 and beats(world) != before, "they fork")
            run.order("pause")
            stands_still(world)
            run.order("resume")
        run.order("stop")
        nothing_is_left(world, run)
        assert run.ended().code == 137


def test_nothing_is_done_for_a_paused_run(world: World) -> None:
    """What waits in the kernel in its place is taken back, and is tried again afterwards."""
    fifo = world.work / "fifo"
    os.mkfifo(fifo, 0o666)
    script = """
open("ready", "w")
attempt("fifo", lambda: open("fifo").read())
"""
    with world.under_way(script) as run:
        run.ready()

        def reader() -> bool:
            try:
                os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
            except OSError:
                return False
            return True

        if world.lane == "kernel":
            time.sleep(0.3)
            run.order("pause")
            for _ in range(20):
                assert not reader(), "somebody opens the FIFO in its place"
                time.sleep(0.01)
            run.order("resume")
        wait_for(reader, "it reads again")
        ended = run.ended()
    assert ended.code == 0 and ended.attempts["fifo"].ok, ended.explain()


def test_a_pause_takes_no_time_of_the_run(world: World) -> None:
    script = """
import time
open("ready", "w")
while not os.path.exists("go"): time.sleep(0.01)
attempt("after", lambda: open("in.txt", "w"))
"""
    with world.under_way(script, policy=WORKSPACE + '\n[limits]\nwall_time = "20s"\n') as run:
        run.ready()
        run.order("pause")
        time.sleep(21)
        assert (run.status() or {})["state"] == "paused"
        (world.work / "go").touch()
        run.order("resume")
        ended = run.ended()
    assert ended.code == 0, ended.explain()
    ended.worked("after")
    assert "wall_time" not in ended.err


def test_nothing_survives_a_stop(world: World) -> None:
    with world.under_way(ENDLESS, policy=NATIVE) as run:
        all_beat(world)
        said = run.order("stop")
        before = beats(world)
        nothing_is_left(world, run)
        ended = run.ended()
        time.sleep(0.2)
        assert beats(world) == before
    # All that beat, and the one that sleeps.
    counted = re.search(r"is stopped: (\d+) processes ended", said)
    assert counted and int(counted[1]) == len(BEATS), said
    assert ended.code == 137 and "stopped by" in ended.err, ended.explain()
    assert kinds(ended.records) == ["run.stopped"] and ended.records[-1]["exit"] == 137
    assert world.ask("trace", "verify", str(ended.trace)).returncode == 0


def test_a_fork_bomb_is_stopped(world: World) -> None:
    script = """
import time
def fork():
    try: return os.fork()
    except BlockingIOError: return 1   # nobody else may have a process more either
open("ready", "w")
for _ in range(5): fork()
# Not for ever: other tests need processes too, and who ends it may have to wait for a processor.
for _ in range(50):
    if not fork():
        for _ in range(2): fork()
        os._exit(0)
    time.sleep(0.05)
    try:
        while os.waitpid(-1, os.WNOHANG)[0]: pass
    except ChildProcessError: pass
time.sleep(600)
"""
    with world.under_way(script) as run:
        run.ready()
        wait_for(lambda: len(processes_in(world.base)) > 32, "there are many")
        run.order("stop")
        nothing_is_left(world, run)
        assert run.ended().code == 137


GRACEFUL = """
import signal, time
def leave(*_):
    open("left", "w").write("in order")
    raise SystemExit(7)
signal.signal(signal.SIGTERM, leave)
open("ready", "w")
while True: time.sleep(0.01)
"""


def test_with_a_grace_it_may_end_by_itself(world: World) -> None:
    for paused in (False, True):
        with world.under_way(GRACEFUL) as run:
            run.ready()
            if paused:
                run.order("pause")
            run.order("stop", "--grace", "30s")
            nothing_is_left(world, run)
            ended = run.ended()
        assert ended.code == 7 and (world.work / "left").read_text() == "in order", ended.explain()
        assert kinds(ended.records) == ["run.paused", "run.resumed"] * paused + ["run.stopped"]
        for name in ("left", "ready"):
            (world.work / name).unlink()


def test_a_grace_ends_and_can_be_cut_short(world: World) -> None:
    deaf = 'import signal, time\nsignal.signal(15, signal.SIG_IGN); open("ready", "w")\nwhile True: time.sleep(1)'
    with world.under_way(deaf) as run:
        run.ready()
        run.order("stop", "--grace", "300ms")
        assert run.ended().code == 137
    (world.work / "ready").unlink()
    with world.under_way(deaf) as run:
        run.ready()
        patient = subprocess.Popen(
            [*world.as_user, world.failcore, "stop", "--grace", "10m", run.session],
            env=world.environ(),
            cwd=world.base,
        )
        wait_for(lambda: (run.status() or {}).get("state") == "stopping", "it is being stopped")
        assert "is being stopped" in run.order("pause", code=2)
        run.order("stop")
        assert patient.wait(20) == 0 and run.ended().code == 137


def test_a_run_whose_parent_is_stopped_can_be_ended(world: World) -> None:
    with world.under_way("import time; open('ready', 'w'); time.sleep(60)") as run:
        run.ready()
        status = wait_for(run.status, "the run is found")
        os.kill(status["pid"], signal.SIGSTOP)
        listed = [json.loads(line) for line in world.ask("--json", "ps").stdout.splitlines()]
        assert listed == [{"session": status["session"], "state": "silent"}]
        done = world.ask("stop", status["session"])
        assert done.returncode == 0, done.stderr
        nothing_is_left(world, run)
        assert run.ended().code == 137


def test_a_paused_run_whose_program_is_killed_ends(world: World) -> None:
    with world.under_way(ENDLESS, policy=NATIVE) as run:
        all_beat(world)
        pid = int(wait_for((world.work / "stopped").read_text, "one has stopped itself"))
        main = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        run.order("pause")
        before = beats(world)
        os.kill(main, signal.SIGKILL)
        ended = run.ended()
        nothing_is_left(world, run)
        assert beats(world) == before, "something ran again"
    assert ended.code == 137


def test_a_paused_run_whose_parent_is_killed_leaves_nothing(world: World) -> None:
    if world.lane == "runtime":
        pytest.skip("without a supervisor the program outlives its parent, and is refused everything")
    with world.under_way(ENDLESS, policy=NATIVE) as run:
        all_beat(world)
        run.order("pause")
        os.kill((run.status() or {})["pid"], signal.SIGKILL)
        wait_for(lambda: not threads(world), "all are gone", 20)


def test_tail_follows_until_the_end(world: World) -> None:
    script = """
import time
open("ready", "w")
while not os.path.exists("go"): time.sleep(0.01)
open("last.txt", "w")
"""
    with world.under_way(script, options=["--run", "followed"]) as run:
        run.ready()
        tail = subprocess.Popen(
            [*world.as_user, world.failcore, "--json", "tail", "followed"],
            env=world.environ(),
            cwd=world.base,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert tail.stdout is not None
        first = json.loads(tail.stdout.readline())
        assert first["type"] == "session.opened"
        (world.work / "go").touch()
        rest = [json.loads(line) for line in tail.stdout]
        assert rest[-1]["type"] == "session.closed" and tail.wait(20) == 0
        assert any("last.txt" in json.dumps(record) for record in rest)
        ended = run.ended()
    assert [record["seq"] for record in ended.records] == list(range(len(rest) + 1))
    # What has ended is named as its trace is.
    assert world.ask("tail", str(ended.trace)).returncode == 0
    assert world.ask("tail", "followed").returncode == 2


def test_another_user_gives_no_orders_and_root_does(world: World) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root, to be somebody else")
    other = ["setpriv", "--reuid=65533", "--regid=65533", "--clear-groups", "--"]
    with world.under_way("import time; open('ready', 'w'); time.sleep(60)") as run:
        session = run.session
        live = world.base / "state/failcore/live" / session
        for path in (live.parents[2], live.parents[1]):
            path.chmod(0o755)
        probe = (
            "import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect(sys.argv[1]);"
            's.send(b\'{"stop":{"grace":0}}\'); print(s.recv(1000))'
        )
        python = next(p for p in ("/usr/bin/python3", "/usr/local/bin/python3") if Path(p).exists())
        tried = subprocess.run(
            [*other, python, "-c", probe, str(live)], capture_output=True, text=True, check=False
        )
        assert "PermissionError" in tried.stderr, tried
        # Even where the directory lets it in, it is not who may.
        live.parent.chmod(0o755)
        live.chmod(0o777)
        tried = subprocess.run(
            [*other, python, "-c", probe, str(live)], capture_output=True, text=True, check=False
        )
        assert "PermissionError" not in tried.stderr and "{" not in tried.stdout, tried
        live.parent.chmod(0o700)
        assert run.status() is not None
        stopped = subprocess.run(
            [world.failcore, "stop", session],
            env=world.environ(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert stopped.returncode == 0, stopped.stderr
        ended = run.ended()
    assert [r["who"] for r in ended.records if r["type"] == "run.stopped"] == ["root (uid 0)"]
