"""The parent killed: nothing is allowed that nobody would write down."""

import json
import os
import signal
import subprocess
import time

from tests.conftest import PRELUDE, WORKSPACE, World, records

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


def test_after_its_death_everything_is_refused_and_what_was_allowed_is_recorded(world: World) -> None:
    (world.work / "agent.py").write_text(PRELUDE + SCRIPT)
    world.hand_over()
    line, trace = world.command([world.python, str(world.work / "agent.py")], policy=WORKSPACE)
    # setpriv becomes failcore: its process id is the parent's.
    parent = subprocess.Popen(
        line, cwd=world.work, env=world.environ(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    ready = world.work / "ready"
    deadline = time.monotonic() + 30
    while not ready.exists():
        assert time.monotonic() < deadline and parent.poll() is None
        time.sleep(0.01)
    agent = int(ready.read_text())
    time.sleep(0.1)
    try:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert parent.stdout is not None
        said = [json.loads(parent.stdout.readline()) for _ in range(5)]
        made = sorted(int(path.name.split("-")[1]) for path in world.work.glob("made-*"))
        time.sleep(0.3)
        assert len(list(world.work.glob("made-*"))) == len(made)
    finally:
        os.kill(agent, signal.SIGKILL)
    assert all(entry[1:3] == [5, "trace_unwritable"] and entry[3] != parent.pid for entry in said), said
    written = [
        json.dumps(record["request"]["action"]) for record in records(trace) if record["type"] == "decided"
    ]
    # What was in the memory that both shared when the parent died is lost with it; that is what fits into a moment.
    lost = [number for number in made if not any(f'/made-{number}"' in action for action in written)]
    assert len(made) > 10 and len(lost) < 50, (len(made), lost)
