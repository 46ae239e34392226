"""Workers that give way: they serve a task that makes many calls, and nobody waits for them where others want the processor."""

import contextlib
import os
from pathlib import Path

import pytest

from tests.conftest import WORKSPACE, World, only, processes_in, wait_for

pytestmark = only("kernel")

POLICY = WORKSPACE + '\n[process]\nsignal = "children"\n'

# Calls until there is a file `go`; then beside two busy processes for every processor, then alone again.
CALLER = """
import os, signal
made = 0
def calls(number):
    global made
    for _ in range(number):
        os.close(os.open("{file}", os.O_RDONLY))
    made += number
open("ready", "w").close()
while not os.path.exists("go"):
    calls(200)
busy = []
for _ in range(2 * len(os.sched_getaffinity(0))):
    pid = os.fork()
    if pid == 0:
        while True:
            pass
    busy.append(pid)
calls(3000)
for pid in busy:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
calls(3000)
print("made", made)
"""


def giving_way(world: World) -> list[int]:
    """The threads of the run that give way."""
    found = []
    for pid in processes_in(world.base):
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                name = (task / "comm").read_text()
                if name.startswith("failcore-") and os.sched_getscheduler(int(task.name)) == os.SCHED_IDLE:
                    found.append(int(task.name))
    return found


def test_one_who_makes_many_calls_is_served_by_who_gives_way_until_others_want_the_processor(
    world: World,
) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one processor: nobody moves to another")
    if tuple(int(part) for part in os.uname().release.split(".")[:2]) < (6, 6):
        pytest.skip("before Linux 6.6 the kernel does not run a supervisor in the task's place")
    (file := world.work / "file").write_text("x")
    with world.under_way(CALLER.format(file=file), policy=POLICY) as run:
        run.ready()
        try:
            wait_for(lambda: giving_way(world), "somebody gives way", timeout=20)
        except AssertionError:
            if os.getloadavg()[0] > len(os.sched_getaffinity(0)):
                pytest.skip("others want the processors: nobody gives way for long")
            raise
        (world.work / "go").touch()
        ended = run.ended(120)
    assert ended.code == 0, ended.explain()
    made = int(ended.out.split("made ")[1])
    assert made > 6000
    assert len(ended.allowed("fs.open", file)) == made, "each of them is recorded, once"


def test_several_tasks_that_make_many_calls(world: World) -> None:
    (file := world.work / "file").write_text("x")
    script = f"""
import os, threading
open("ready", "w").close()
def calls():
    for _ in range(3000):
        os.close(os.open("{file}", os.O_RDONLY))
threads = [threading.Thread(target=calls) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("done")
"""
    with world.under_way(script, policy=POLICY) as run:
        ended = run.ended(120)
    assert ended.code == 0 and "done" in ended.out, ended.explain()
    assert len(ended.allowed("fs.open", file)) == 12000
