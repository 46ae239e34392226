"""The parent killed: nothing is allowed that nobody would write down."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from tests.conftest import PRELUDE, WORKSPACE, World, records

# The ring of a process holds 256 KiB, and no record of an open is this short.
MOST_LOST = (256 << 10) // 128
ENOUGH = 5000

SCRIPT = """
import time
done = 0
with open("pid", "w") as out: out.write(str(os.getpid()))
os.rename("pid", "ready")
while True:
    try:
        open(f"made-{done}", "w").close()
        done += 1
    except OSError as error:
        os.write(1, _dumps([done, error.errno, getattr(error, "reason", None), os.getppid()]).encode() + b"\\n")
        time.sleep(0.01)
"""


def lives(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def files_made(world: World) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in world.work.glob("made-*"))


def test_after_its_death_everything_is_refused_and_what_was_allowed_is_recorded(
    world: World, lane: str
) -> None:
    (world.work / "agent.py").write_text(PRELUDE + SCRIPT)
    world.hand_over()
    line, trace = world.command([world.python, str(world.work / "agent.py")], policy=WORKSPACE)
    # setpriv becomes failcore: its process id is the parent's.
    parent = subprocess.Popen(
        line, cwd=world.work, env=world.environ(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    ready = world.work / "ready"
    deadline = time.monotonic() + 60
    while not ready.exists():
        assert time.monotonic() < deadline and parent.poll() is None
        time.sleep(0.01)
    agent = int(ready.read_text())
    while not (world.work / f"made-{ENOUGH}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert parent.stdout is not None
    if lane == "runtime":
        try:
            said = [json.loads(parent.stdout.readline()) for _ in range(5)]
            made = files_made(world)
            time.sleep(0.3)
            assert files_made(world) == made
        finally:
            os.kill(agent, signal.SIGKILL)
        assert all(entry[1:3] == [5, "trace_unwritable"] for entry in said), said
        # The first may be refused while the parent is still on its way out.
        assert all(entry[3] != parent.pid for entry in said[1:]), said
    else:
        # It goes too. On its way out it may be refused: by the hook, or by the kernel as nobody is there to judge (ENOSYS).
        said = [json.loads(line)[1:3] for line in parent.stdout]
        assert all(entry in ([5, "trace_unwritable"], [38, None]) for entry in said), said
        while lives(agent):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        made = files_made(world)
    written = [
        json.dumps(record["request"]["action"]) for record in records(trace) if record["type"] == "decided"
    ]
    # What was in the memory that both shared when the parent died is lost with it: the last ones, and no more than it holds.
    text = "\n".join(written)
    lost = [number for number in made if f'/made-{number}"' not in text]
    assert lost == made[len(made) - len(lost) :], (len(made), lost)
    assert len(made) > ENOUGH > 2 * MOST_LOST and len(lost) <= MOST_LOST, (len(made), lost)
