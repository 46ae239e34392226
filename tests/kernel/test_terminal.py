"""A shell and a Python at a terminal feel as they do without the gate: line editing, Ctrl-C, Ctrl-Z, jobs, window size."""

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence

from tests.conftest import World, only

POLICY = """
version = 1
extends = ["preset:native"]
[fs]
read = ["./work"]
[process]
exec = ["bash", "sleep", "cat", "stty", "tty"]
"""
BASH = ["/bin/bash", "--norc", "--noprofile", "-i"]
# Also printed when a command was typed: told from its output by what the shell makes of it.
PROMPT = "PS1='re'ady'> '\n"
READY = "ready> "
PATIENCE = 60.0
# linux/tty.h, not in `termios` before Python 3.14.
TIOCGPTN = 0x80045430

pytestmark = only("kernel")


class Terminal:
    """A program at the other end of a pseudo-terminal (pty(7)), in a session of its own."""

    def __init__(self, argv: Sequence[str], world: World) -> None:
        environ = {**world.environ(), "TERM": "dumb"}
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(world.base)
            os.execvpe(argv[0], argv, environ)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def expect(self, what: str) -> str:
        """Everything up to `what`, which the program writes in time."""
        until = time.monotonic() + PATIENCE
        while what not in self.seen:
            readable, _, _ = select.select([self.fd], [], [], max(0.0, until - time.monotonic()))
            assert readable, f"no {what!r} in {self.seen!r}"
            try:
                self.seen += os.read(self.fd, 4096).decode(errors="replace")
            except OSError:
                raise AssertionError(f"it ended without {what!r}: {self.seen!r}") from None
        before, self.seen = self.seen.split(what, 1)
        return before

    def do(self, line: str) -> str:
        """What the shell says to a command, until it is ready for the next."""
        self.type(line + "\n")
        return self.expect(READY)

    def in_front(self, name: str) -> None:
        """Waits until a program of that name runs and is the terminal's foreground."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            group = os.tcgetpgrp(self.fd)
            with contextlib.suppress(OSError), open(f"/proc/{group}/stat") as stat:
                fields = stat.read()
                if f"({name})" in fields and fields.rsplit(") ", 1)[1][0] in "RS":
                    return
            time.sleep(0.02)
        raise AssertionError(f"{name} is not in front")

    def ended(self) -> int:
        """The exit code, once nothing holds the terminal any more."""
        with contextlib.suppress(OSError):
            while os.read(self.fd, 4096):
                pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@contextlib.contextmanager
def terminal(argv: Sequence[str], world: World) -> Iterator[Terminal]:
    at = Terminal(argv, world)
    try:
        yield at
    finally:
        os.close(at.fd)
        with contextlib.suppress(ProcessLookupError):
            os.kill(at.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(at.pid, 0)


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
