"""A shell and a Python at a terminal feel as they do without the gate: line editing, Ctrl-C, Ctrl-Z, jobs, window size."""

import fcntl
import struct
import subprocess
import termios
import time

from tests.conftest import World, only
from tests.terminal import PROMPT, READY, terminal

POLICY = """
version = 1
extends = ["preset:native"]
[fs]
read = ["./work"]
[process]
exec = ["bash", "sleep", "cat", "stty", "tty"]
"""
BASH = ["/bin/bash", "--norc", "--noprofile", "-i"]
# linux/tty.h, not in `termios` before Python 3.14.
TIOCGPTN = 0x80045430

pytestmark = only("kernel")


def test_a_shell(world: World) -> None:
    line, trace = world.command(BASH, policy=POLICY, options=["--cwd", str(world.work)])
    with terminal(line, world) as shell:
        shell.type(PROMPT)
        before = shell.expect(READY)
        assert "job control" not in before and "terminal process group" not in before
        assert "sum 2" in shell.do("echo sum $((1 + 1))")
        (number,) = struct.unpack("I", fcntl.ioctl(shell.fd, TIOCGPTN, bytes(4)))
        assert f"/dev/pts/{number}" in shell.do("tty")
        fcntl.ioctl(shell.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
        # The shell draws its line again.
        shell.type("stty size\n")
        shell.expect("33 77")
        shell.expect(READY)
        # Ctrl-C ends what is in front, and only that.
        shell.type("sleep 100\n")
        shell.in_front("sleep")
        shell.type("\x03")
        shell.expect(READY)
        assert "code 130" in shell.do('echo code "$?"')
        # Ctrl-Z stops it; it goes on in the background and in front.
        shell.type("sleep 101\n")
        shell.in_front("sleep")
        shell.type("\x1a")
        assert "Stopped" in shell.expect(READY)
        assert "Stopped" in shell.do("jobs")
        shell.do("bg")
        assert "Running" in shell.do("jobs")
        shell.type("fg\n")
        shell.in_front("sleep")
        shell.type("\x03")
        shell.expect(READY)
        assert "sleep" not in shell.do("jobs")
        # Who reads in the background is stopped; the terminal's end of file is one.
        shell.do("cat &")
        shell.do("sleep 0.3")
        assert "Stopped" in shell.do("jobs")
        shell.do("kill %1; kill -CONT %1; wait")
        shell.type("cat\n")
        shell.in_front("cat")
        shell.type("said\n")
        shell.expect("said\r\nsaid\r\n")
        shell.type("\x04")
        shell.expect(READY)
        # A pipeline, a here document, a subshell's code.
        assert "HERE" in shell.do("cat <<< here | while read -r one; do echo ${one^^}; done")
        assert "code 3" in shell.do('(exit 3); echo code "$?"')
        shell.type("exit 7\n")
        assert shell.ended() == 7
    assert world.ask("trace", "verify", str(trace)).returncode == 0


def test_ctrl_z_stops_the_run_and_fg_goes_on_with_it(world: World) -> None:
    line, trace = world.command(["/bin/cat"], policy=POLICY, options=["--cwd", str(world.work)])
    with terminal([*world.as_user, *BASH], world) as shell:
        shell.type(PROMPT)
        shell.expect(READY)
        # setpriv was needed for the shell only.
        shell.type(subprocess.list2cmdline(line[len(world.as_user) :]) + "\n")
        shell.in_front("cat")
        shell.type("one\n")
        shell.expect("one\r\none\r\n")
        shell.type("\x1a")
        shell.expect("Stopped")
        shell.expect(READY)
        assert "Stopped" in shell.do("jobs")
        shell.type("fg\n")
        shell.in_front("cat")
        shell.type("two\n")
        shell.expect("two\r\ntwo\r\n")
        shell.type("\x04")
        shell.expect(READY)
        assert "code 0" in shell.do('echo code "$?"')
    assert world.ask("trace", "verify", str(trace)).returncode == 0


def test_a_python_prompt(world: World) -> None:
    policy = 'version = 1\nextends = ["preset:python"]\n'
    line, _ = world.command([world.python, "-q", "-i", "-c", "import os"], policy=policy)
    with terminal(line, world) as prompt:
        prompt.expect(">>> ")
        prompt.type("6 * 7\n")
        assert "42" in prompt.expect(">>> ")
        # A refusal is an exception like any other, and the session goes on.
        prompt.type(f"open({str(world.outside / 'secret.txt')!r})\n")
        assert "refused" in prompt.expect(">>> ")
        prompt.type("while True: pass\n\n")
        time.sleep(0.3)
        prompt.type("\x03")
        assert "KeyboardInterrupt" in prompt.expect(">>> ")
        prompt.type("raise SystemExit(5)\n")
        assert prompt.ended() == 5
