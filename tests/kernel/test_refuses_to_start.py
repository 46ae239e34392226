"""Where the kernel lane does not hold, nothing of the program runs: it says what is missing, and leaves nothing behind."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run, World, only

pytestmark = only("kernel")

HERE = Path(__file__).parent
X86 = os.uname().machine == "x86_64"
SECCOMP, CONNECT, OPENAT = (317, 42, 257) if X86 else (277, 203, 56)
RESTRICT_SELF, CREATE_RULESET, ACCT = 446, 444, 163 if X86 else 89

RAN = 'os.write(1, b"it ran"); open("ran", "w").close()'


class WithoutLane(World):
    """A world whose runs ask for no lane."""

    def command(self, *args: Any, **kwargs: Any) -> tuple[list[str], Path]:
        line, trace = super().command(*args, **kwargs)
        at = line.index("--lane")
        return line[:at] + line[at + 2 :], trace


@pytest.fixture(params=["kernel", "default"])
def either(request: pytest.FixtureRequest, world: World) -> World:
    """The lane asked for, and the one that is taken where none is."""
    if request.param == "default":
        return WithoutLane(world.base / "default", world.prefix, world.as_user, world.uid, "auto")
    return world


def under(call: int, answer: int | str) -> list[str]:
    return [sys.executable, "-I", str(HERE / "outer_filter.py"), str(call), str(answer)]


def refused_to_start(world: World, run: Run, *said: str) -> None:
    assert run.code == 126, run.explain()
    text = " ".join(run.err.replace("│", " ").split())
    for words in said:
        assert words in text, f"`{words}` was not said\n{run.explain()}"
    assert "it ran" not in run.out and not (world.work / "ran").exists(), run.explain()
    assert not run.trace.exists(), run.explain()
    live = world.base / "state/failcore/live"
    assert not live.exists() or not list(live.iterdir()), "it is listed as a run"


def test_a_filter_of_another_call_is_in_nobodys_way(either: World) -> None:
    run = either.run(RAN, before=under(ACCT, errno.EPERM))
    assert run.code == 0 and "it ran" in run.out and (either.work / "ran").exists(), run.explain()
    assert run.allowed("fs.open", either.work / "ran")


@pytest.mark.parametrize("answer", [errno.ENOSYS, errno.EPERM])
def test_without_seccomp(either: World, answer: int) -> None:
    run = either.run(RAN, before=under(SECCOMP, answer))
    refused_to_start(either, run, "the kernel lane does not hold here", "allows seccomp(2)", "--lane runtime")


@pytest.mark.parametrize("answer", [errno.EPERM, 0])
def test_connects_that_never_come_to_the_supervisor(either: World, answer: int) -> None:
    """An answer of another filter goes before the question to ours (seccomp(2))."""
    run = either.run(RAN, before=under(CONNECT, answer))
    refused_to_start(either, run, "the gate does not hold", "a call that had to be refused was not")


def test_opens_that_never_come_to_the_supervisor(world: World) -> None:
    if not shutil.which("cc"):
        pytest.skip("there is no cc")
    made = world.base / "filter.so"
    source = HERE / "filter_after_fork.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-pthread", "-o", made, source], check=True, timeout=60)
    world.hand_over()
    run = world.run(RAN, env={"LD_PRELOAD": str(made)})
    refused_to_start(world, run, "the gate does not hold", "a call that had to be refused was not")


def test_a_landlock_that_does_nothing(either: World) -> None:
    if ctypes.CDLL(None).syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1) < 1:
        pytest.skip("this kernel has no Landlock")
    run = either.run(RAN, before=under(RESTRICT_SELF, 0))
    refused_to_start(either, run, "the gate does not hold", "Landlock let a forbidden file be opened")


def test_a_landlock_that_is_refused(either: World) -> None:
    run = either.run(RAN, before=under(RESTRICT_SELF, errno.E2BIG))
    refused_to_start(either, run, "cannot enter the Landlock domain")


def test_under_another_supervisor(either: World) -> None:
    run = either.run(RAN, before=under(ACCT, "notify"))
    refused_to_start(
        either, run, "is under a supervisor of system calls already", "outside of it", "--lane runtime"
    )


EVERYTHING = """
version = 1
extends = ["preset:python"]
[fs]
read = ["/**"]
write = ["./work"]
[net]
connect = ["unix:/**"]
# What its broker of names listens at.
listen = ["unix:/**", "127.0.0.1:0", "udp:127.0.0.1:0", "[::1]:0", "udp:[::1]:0"]
[process]
exec = ["/**"]
signal = "run"
[native]
load = ["/**"]
"""


def test_a_run_within_a_run(world: World) -> None:
    inner = world.work / "inner.toml"
    inner.write_text('version = 1\nextends = ["preset:native"]\n[fs]\nwrite = ["./work"]\n')
    state, trace = world.work / "state", world.work / "trace"
    command = [
        world.failcore,
        "run",
        "--lane",
        "kernel",
        "--trace",
        str(trace),
        "-p",
        str(inner),
        "--",
        "touch",
        "ran",
    ]
    run = world.run("", argv=["/usr/bin/env", f"XDG_STATE_HOME={state}", *command], policy=EVERYTHING)
    text = " ".join(run.err.replace("│", " ").split())
    assert run.code == 126 and "is under a supervisor of system calls already" in text, run.explain()
    assert not (world.work / "ran").exists() and not trace.exists(), run.explain()
