"""`failcore step` at a terminal: what it shows of a real run, and how it leaves the terminal."""

import fcntl
import os
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Iterator

import pyte
import pytest

from tests.conftest import WORKSPACE, Run, World, only
from tests.terminal import PATIENCE, Terminal, closing

pytestmark = only("kernel")

SCRIPT = """
import failcore
with failcore.scope("look up", step="find the town"):
    print(open(WORK + "/towns.txt").read())
with failcore.scope("break \\x1b[2J out"):
    attempt("secret", open, SECRET)
"""


class Screen(Terminal):
    """A terminal of 100 columns and 40 lines whose screen can be read."""

    def __init__(self, world: World, *argv: str, before: tuple[str, ...] = ()) -> None:
        # As every new terminal is: once it runs, the program may have changed its own already.
        new = os.openpty()
        self.modes = termios.tcgetattr(new[0])
        for end in new:
            os.close(end)
        super().__init__([*world.as_user, *before, world.failcore, "step", *argv], world, "xterm-256color")
        self.screen = pyte.Screen(100, 40)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))

    def look(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display)

    def until(self, seen: Callable[[str], bool]) -> str:
        """The screen, once it shows what is waited for."""
        end = time.monotonic() + PATIENCE
        while not seen(self.look()):
            readable, _, _ = select.select([self.fd], [], [], max(0.0, end - time.monotonic()))
            assert readable, f"waited in vain:\n{self.look()}"
            try:
                read = os.read(self.fd, 65536)
            except OSError:
                raise AssertionError(f"it ended:\n{self.look()}\n{self.raw[-2000:]!r}") from None
            self.raw += read
            self.stream.feed(read)
        return self.look()

    def shows(self, *parts: str) -> str:
        return self.until(lambda screen: all(part in screen for part in parts))

    def press(self, keys: str, *parts: str) -> str:
        self.type(keys)
        return self.shows(*parts)

    def left(self) -> int:
        """How it ended; the terminal is as it was before."""
        try:
            while read := os.read(self.fd, 65536):
                self.raw += read
        except OSError:
            pass
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        entered, left = (self.raw.rfind(b"\x1b[?1049" + what) for what in (b"h", b"l"))
        assert 0 <= entered < left, self.raw[-500:]
        assert self.raw.rfind(b"\x1b[?25h") > self.raw.rfind(b"\x1b[?25l"), "the cursor is seen again"
        return code


@pytest.fixture
def run(world: World) -> Run:
    """A recorded run of an agent with tools."""
    (world.work / "towns.txt").write_text("Ulm\nBonn\n")
    run = world.run(SCRIPT, policy=WORKSPACE, options=["--record", "--run", "towns"])
    assert run.code == 0 and "Bonn" in run.out, run.explain()
    return run


@pytest.fixture
def screen(world: World, run: Run) -> Iterator[Screen]:
    with closing(Screen(world, str(run.trace))) as screen:
        yield screen


def test_a_run_is_gone_through(screen: Screen, run: Run, world: World) -> None:
    screen.shows("valid: ", "opened", "record 0 of")
    shown = screen.press("s", "find the town", "since")
    assert "look up" in shown
    screen.press("g/towns.txt (read)\r", "what came of it", "allowed  fs.open", f"{world.work}/towns.txt")
    screen.press("JJJ", "held (record", "Bonn")
    # What an agent calls itself is no order to the terminal.
    screen.press("Gs", "no further step")
    screen.press("S", "break \\u{1b}[2J out")
    assert b"\x1b[2J out" not in screen.raw
    refused = next(record for record in run.denied() if "secret.txt" in str(record))
    screen.press(f":{refused['seq']}\r", "denied  fs.open", "remedy   to permit: [fs] read")
    last = run.records[-1]["seq"]
    screen.press("G", f"record {last} of 0 to {last}", "exit code 0")
    screen.press("f", "which leaves this one out")
    screen.press("g", f"record {run.denied()[0]['seq']} of", "filter: --denied")
    screen.press("G", f"record {run.denied()[-1]['seq']} of")
    screen.press("?", "previous step", "quit")
    screen.type("q")
    assert screen.left() == 0
    assert termios.tcgetattr(screen.fd) == screen.modes


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_it_and_the_terminal_is_given_back(screen: Screen, number: signal.Signals) -> None:
    screen.shows("record 0 of", "? keys")
    assert termios.tcgetattr(screen.fd) != screen.modes
    os.kill(screen.pid, number)
    assert screen.left() == -number
    assert termios.tcgetattr(screen.fd) == screen.modes


def test_control_c_leaves(screen: Screen) -> None:
    screen.shows("record 0 of", "? keys")
    screen.type("\x03")
    assert screen.left() == 0


def test_another_size_is_filled(screen: Screen) -> None:
    screen.shows("record 0 of", "? keys")
    screen.screen.resize(60, 130)
    fcntl.ioctl(screen.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 130, 0, 0))
    screen.until(lambda _: "quit" in screen.screen.display[59])


def test_what_is_altered_is_not_shown(world: World, run: Run) -> None:
    trace = run.trace / "trace.jsonl"
    trace.write_text(trace.read_text().replace("secret.txt", "public.txt"))
    with closing(Terminal([*world.as_user, world.failcore, "step", str(run.trace)], world)) as at:
        at.expect("record was changed (record")
        assert at.ended() == 4


def test_without_a_terminal_it_says_what_to_do(world: World, run: Run) -> None:
    done = world.ask("step", str(run.trace))
    assert done.returncode == 2 and "failcore trace show" in done.stderr, done.stderr


def test_memory_does_not_grow_with_the_trace(world: World) -> None:
    trace = world.base / "long"
    trace.mkdir()
    number = 400_000
    with (trace / "trace.jsonl").open("w") as lines:
        for seq in range(number):
            path = f"/data/{seq}/" + "x" * 300
            lines.write(
                f'{{"v":1,"seq":{seq},"ts":"2026-01-01T00:00:00.000000000Z","session":"long","type":"input",'
                f'"path":"{path}","input":"absent"}}\n'
            )
    world.hand_over()
    least = 48 << 20
    assert (trace / "trace.jsonl").stat().st_size > 3 * least
    limit = ("prlimit", f"--data={least}")
    with closing(Screen(world, str(trace), before=limit)) as screen:
        screen.shows("these records carry no signature")
        screen.press("G", f"record {number - 1} of 0 to {number - 1}", f"/data/{number - 1}/")
        screen.press(":123456\r", "record 123456 of", "/data/123456/")
        screen.press("/data/300000/\r", "record 300000 of")
        screen.press("N", "no earlier match")
        screen.press("d", "no further refusal")
        screen.type("q")
        assert screen.left() == 0
