"""A socket is bound where it was judged to be, or nowhere, also by a path on which a descriptor of the program's own lies.

In /proc/PID/fd a name means what the program's descriptor stands for, and that changes without asking anybody (dup2).
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import WORKSPACE, World, only

PLACES = {
    # Below what is granted, and denied.
    "denied": ("work/denied", WORKSPACE + 'deny = ["./work/denied"]\n[net]\nlisten = ["unix:./work/**"]\n'),
    # Where runs are found by their owner: never the agent's, whatever is granted.
    "live": (
        "state/failcore/live",
        'version = 1\nextends = ["preset:python"]\n[fs]\nread = ["/**"]\nwrite = ["/**"]\n'
        '[net]\nlisten = ["unix:/**"]\n',
    ),
}


@only("kernel")
@pytest.mark.parametrize("place", PLACES)
def test_a_descriptor_on_the_way_changes(world: World, place: str) -> None:
    if not shutil.which("cc"):
        pytest.skip("there is no cc")
    program = world.base / "bind_race"
    source = Path(__file__).with_name("bind_race.c")
    subprocess.run(["cc", "-O1", "-pthread", "-o", program, source], check=True, timeout=60)
    below, policy = PLACES[place]
    kept = world.base / below
    kept.mkdir(parents=True, exist_ok=True)
    kept.chmod(0o700)
    world.hand_over()
    policy = policy.replace("unix:./work", f"unix:{world.work}")
    run = world.attack("", argv=[str(program), str(world.work), str(kept), "5000"], policy=policy)
    assert run.code == 0, run.explain()
    said = json.loads(run.out)
    assert said["straight"] and said["refused"] and run.denied("net.bind", kept / "straight"), run.explain()
    made = sorted(path.name for path in kept.iterdir())
    assert not made, (
        f"{len(made)} of {said['done']} sockets were bound where none may be: {made[:5]}\n{run.err}"
    )
    assert len(run.allowed("net.bind", world.work)) >= said["done"] + 1
