"""When something breaks in the middle: nothing is allowed, nothing hangs, nothing is left behind or leaks."""

import errno
import os
import signal
import time
from pathlib import Path

from tests.conftest import WORKSPACE, UnderWay, World, only, processes_in, wait_for

pytestmark = only("kernel")

POLICY = WORKSPACE.replace("[fs]", '[fs]\nread = ["./work"]')

# Forty threads and ten processes wait for calls that nobody ends.
WAITING = """
import signal, threading, time
for n in range(10):
    os.mkfifo(WORK + "/fifo%d" % n)
def wait(n):
    os.open(WORK + "/fifo%d" % (n % 10), os.O_RDONLY)
    os.open(OUTSIDE + "/made", os.O_CREAT | os.O_WRONLY)
for n in range(10):
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        wait(n)
        os._exit(0)
for n in range(40):
    threading.Thread(target=wait, args=(n,), daemon=True).start()
time.sleep(0.5)
open(WORK + "/beat", "a").close()
open(WORK + "/ready", "w").close()
while True:
    try: open(WORK + "/beat", "a").write("x")
    except OSError: pass
    time.sleep(0.01)
"""


def ours(run: UnderWay) -> tuple[int, int]:
    """The parent and the guardian, its child."""
    known = {}
    for pid in processes_in(run.world.base):
        if os.path.basename(os.readlink(f"/proc/{pid}/exe")) == "failcore":
            known[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    (guardian,) = [pid for pid, parent in known.items() if parent in known]
    return known[guardian], guardian


def nothing_is_left(world: World) -> None:
    wait_for(lambda: not processes_in(world.base), "everything has ended", 20)
    beat = world.work / "beat"
    size = beat.stat().st_size
    time.sleep(0.1)
    assert beat.stat().st_size == size
    assert not (world.outside / "made").exists()


def test_the_parent_is_killed_while_calls_wait(world: World) -> None:
    with world.under_way(WAITING, policy=POLICY) as run:
        run.ready()
        os.kill(ours(run)[0], signal.SIGKILL)
        nothing_is_left(world)


def test_the_guardian_is_killed_while_calls_wait(world: World) -> None:
    with world.under_way(WAITING, policy=POLICY) as run:
        run.ready()
        os.kill(ours(run)[1], signal.SIGKILL)
        nothing_is_left(world)
        assert run.process.wait(20) != 0, run.said()


def held(pid: int) -> tuple[int, int]:
    """How many descriptors and threads a process has."""
    return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))


FLOOD = """
import signal, socket, subprocess, threading, time
stages = iter(range(9))
def stage():
    n = next(stages)
    open(WORK + "/stage%d" % n, "w").close()
    while not os.path.exists(WORK + "/go%d" % n): time.sleep(0.01)
    time.sleep(0.1)
stage()
def flood(n):
    for i in range(20):
        for path in (WORK + "/f%d" % (n % 9), OUTSIDE + "/secret.txt", WORK + "/missing"):
            try: os.close(os.open(path, os.O_CREAT | os.O_WRONLY if "/f" in path else os.O_RDONLY))
            except OSError: pass
threads = [threading.Thread(target=flood, args=(n,)) for n in range(300)]
for one in threads: one.start()
for one in threads: one.join()
stage()
os.mkfifo(WORK + "/fifo")
children = []
for n in range(100):
    pid = os.fork()
    if pid == 0:
        os.open(WORK + "/fifo", os.O_RDONLY)
        os._exit(0)
    children.append(pid)
time.sleep(0.5)
for pid in children: os.kill(pid, signal.SIGKILL)
for pid in children: os.waitpid(pid, 0)
stage()
attempt("still works", lambda: open(WORK + "/after", "w").close())
attempt("still refused", lambda: open(OUTSIDE + "/secret.txt").read())
"""


def test_a_flood_and_callers_that_die_leave_nothing_in_the_parent(world: World) -> None:
    def reached(number: int) -> None:
        wait_for((world.work / f"stage{number}").exists, f"stage {number}")

    def settled(before: tuple[int, int]) -> bool:
        # Sixteen threads that wait for the next call are kept.
        descriptors, threads = held(parent)
        return descriptors <= before[0] + 4 and threads <= before[1] + 16

    with world.under_way(FLOOD, policy=POLICY) as run:
        reached(0)
        parent, _ = ours(run)
        before = held(parent)
        for number in (1, 2):
            (world.work / f"go{number - 1}").touch()
            reached(number)
            wait_for(lambda: settled(before), f"the parent is as it was: {before}", 20)
        (world.work / "go2").touch()
        ended = run.ended()
    ended.worked("still works")
    ended.refused("still refused")
    assert len(ended.denied("fs.open", "secret.txt")) == 6001, ended.explain()


SCARCE = """
import threading, time
os.mkfifo(WORK + "/fifo")
def wait():
    try: os.open(WORK + "/fifo", os.O_RDONLY)
    except OSError: pass
threads = [threading.Thread(target=wait) for n in range(100)]
for one in threads: one.start()
time.sleep(0.5)
errors, leaks = set(), 0
for n in range(100):
    try: os.close(os.open(WORK + "/file", os.O_CREAT | os.O_RDWR))
    except OSError as error: errors.add(error.errno)
    try: os.open(OUTSIDE + "/secret.txt", os.O_RDONLY); leaks += 1
    except OSError: pass
tell("leaks", leaks)
tell("errors", sorted(errors))
for one in threads: one.join()
attempt("goes on", lambda: os.write(os.open(WORK + "/after", os.O_CREAT | os.O_WRONLY), b"x"))
attempt("still refused", lambda: open(OUTSIDE + "/secret.txt").read())
"""


def test_a_parent_without_descriptors_refuses_and_goes_on(world: World) -> None:
    before = world.photograph()
    with world.under_way(SCARCE, policy=POLICY, before=["prlimit", "--nofile=160:160"]) as under_way:
        wait_for(
            lambda: '"errors"' in under_way.said() or under_way.process.poll() is not None, "it is refused"
        )
        # A writer from outside lets go those who wait, and with them what the parent holds for each.
        writer = os.open(world.work / "fifo", os.O_WRONLY | os.O_NONBLOCK)
        run = under_way.ended()
        os.close(writer)
    # What cannot be done is refused, and nothing that is not granted is done.
    assert run.code == 0, run.explain()
    assert run.attempts["errors"].value == [errno.EMFILE], run.explain()
    assert run.attempts["leaks"].value == 0 and not world.leaks(), run.explain()
    assert world.photograph() == before, run.explain()
    run.worked("goes on")
    run.refused("still refused")
    assert (world.work / "after").read_text() == "x"
    assert len(run.allowed("fs.open", world.work / "after")) == 1, run.explain()
    assert run.records[-1]["type"] == "session.closed" and run.records[-1]["exit"] == 0
    done = world.ask("trace", "verify", str(run.trace))
    assert done.returncode == 0, done.stdout + done.stderr
