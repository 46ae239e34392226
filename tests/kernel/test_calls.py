"""System calls with and without the supervisor: the programs in `calls/` print the same, line by line.

They try the edges of every call that the supervisor makes for a program: which error comes first, what flags do, what is
on the way. The policy grants everything, so that what differs is the supervisor's doing. Root's program has none of
root's capabilities there, so it is compared with one that has none either.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, World, only

CALLS = Path(__file__).parent / "calls"
ALL = 'version = 1\nextends = ["preset:allow-all"]\n'
POWERLESS = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"]

# What comes out otherwise, each with its reason, as docs/kernel.md says: the beginning of the line, and how it is without
# FailCore.
PEER = "the peer of a socket is who connected it or listens at it, which is FailCore for the program: its user, not its number"
DIFFERENCES = {
    (
        'open("missing", 00) = ',
        "-1 EMFILE",
    ): "that no descriptor is free is seen when the file would be handed over",
    (
        "fexecve(memory, name, environ): ",
        "exit 0",
    ): "anonymous memory runs as no program (memfd_create seals it)",
    ("peer.pid == getpid() && peer.uid == getuid() is ", "1"): PEER,
    (
        "r && r->cmsg_type == SCM_CREDENTIALS && ((struct ucred *)CMSG_DATA(r))->pid == getpid() is ",
        "1",
    ): PEER,
}


@only("kernel")
@pytest.mark.parametrize("name", sorted(path.stem for path in CALLS.glob("*.c")))
def test_calls_come_out_as_without_us(world: World, name: str) -> None:
    if not shutil.which("cc"):
        pytest.skip("there is no cc")
    program = world.base / "program"
    options = ["-O0", "-w", "-pthread", f"-I{CALLS}"]
    subprocess.run(["cc", *options, "-o", program, CALLS / f"{name}.c"], check=True, timeout=60)
    before = POWERLESS if world.uid == 0 else world.as_user

    def fresh() -> None:
        subprocess.run(["chmod", "-R", "u+rwx", world.work], check=True)
        shutil.rmtree(world.work)
        world.work.mkdir()
        world.hand_over()

    fresh()
    plain = subprocess.run(
        [*before, program],
        cwd=world.work,
        env=world.environ(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    fresh()
    run = world.run("", argv=[str(program)], policy=ALL)
    assert plain.returncode == 0 and len(plain.stdout.splitlines()) > 50, plain.stdout[-500:] + plain.stderr
    assert run.code == 0, run.explain()
    ours, theirs = run.out.splitlines(), plain.stdout.splitlines()
    differ, section = [], ""
    for with_us, without in zip(ours, theirs, strict=False):
        section = without if without.startswith("== ") else section
        if with_us != without and not any(without == begin + end for begin, end in DIFFERENCES):
            differ.append(f"{section}\n  without: {without}\n  with:    {with_us}")
    assert not differ, "\n".join(differ) + "\n" + run.err[-500:]
    assert len(ours) == len(theirs)


def test_every_difference_is_documented() -> None:
    said = (ROOT / "docs" / "kernel.md").read_text()
    assert [reason for reason in DIFFERENCES.values() if f"| {reason} |" not in said] == []
