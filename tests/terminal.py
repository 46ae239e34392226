"""A program at the other end of a pseudo-terminal (pty(7))."""

import contextlib
import os
import pty
import select
import signal
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from tests.conftest import World

PATIENCE = 60.0
# Also printed when a command was typed: told from its output by what the shell makes of it.
PROMPT = "PS1='re'ady'> '\n"
READY = "ready> "


class Terminal:
    """One, in a session of its own."""

    def __init__(self, argv: Sequence[str], world: World, kind: str = "dumb") -> None:
        environ = {**world.environ(), "TERM": kind}
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


T = TypeVar("T", bound=Terminal)


@contextlib.contextmanager
def terminal(argv: Sequence[str], world: World) -> Iterator[Terminal]:
    """A program at a terminal that knows nothing but lines."""
    with closing(Terminal(argv, world)) as at:
        yield at


@contextlib.contextmanager
def closing(at: T) -> Iterator[T]:
    """Ends what is left at a terminal."""
    try:
        yield at
    finally:
        os.close(at.fd)
        with contextlib.suppress(ProcessLookupError):
            os.kill(at.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(at.pid, 0)
