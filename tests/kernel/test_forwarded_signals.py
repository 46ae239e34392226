"""A signal to `failcore` reaches the program, once, and none of what the program started."""

import os
import signal
from pathlib import Path

import pytest

from tests.conftest import UnderWay, World, only, wait_for

pytestmark = only("kernel")

PASSED_ON = ["SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2"]
NUMBERS = sorted(int(getattr(signal, name)) for name in PASSED_ON)
# No terminal, and no process between us and `failcore`.
ALONE = ["setsid"]

LISTENS = f"""
import signal, time
NUMBERS = {NUMBERS}
signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)
child = os.fork()
if child == 0:
    while not os.path.exists(WORK + "/over"): time.sleep(0.01)
    tell("child", sorted(signal.sigpending()))
    os._exit(0)
open(WORK + "/ready", "w").close()
for n in range(2 * len(NUMBERS)): tell("signal %d" % n, signal.sigwaitinfo(NUMBERS).si_signo)
open(WORK + "/over", "w").close()
os.waitpid(child, 0)
tell("more", sorted(signal.sigpending()))
"""


def send(run: UnderWay, number: int) -> None:
    pid = run.process.pid
    assert Path(os.readlink(f"/proc/{pid}/exe")).name == "failcore"
    os.kill(pid, number)


def test_each_comes_once_and_to_the_program_alone(world: World) -> None:
    with world.under_way(LISTENS, before=ALONE) as run:
        run.ready()
        for n, number in enumerate(NUMBERS):
            send(run, number)
            wait_for(lambda: f'"signal {n}"' in run.said(), f"signal {number} has come")
        for number in NUMBERS:
            send(run, number)
        ended = run.ended()
    assert ended.code == 0, ended.explain()
    came = [ended.attempts[f"signal {n}"].value for n in range(2 * len(NUMBERS))]
    assert came[: len(NUMBERS)] == NUMBERS and sorted(came[len(NUMBERS) :]) == NUMBERS, ended.explain()
    assert ended.attempts["child"].value == [] and ended.attempts["more"].value == [], ended.explain()


@pytest.mark.parametrize("name", PASSED_ON)
def test_a_program_that_ends_by_it(world: World, name: str) -> None:
    script = f"""
import signal, time
signal.signal(signal.{name}, signal.SIG_DFL)
open(WORK + "/ready", "w").close()
while True: time.sleep(60)
"""
    number = int(getattr(signal, name))
    with world.under_way(script, before=ALONE) as run:
        run.ready()
        send(run, number)
        ended = run.ended()
    assert ended.code == 128 + number, ended.explain()
    assert ended.records[-1]["type"] == "session.closed" and ended.records[-1]["exit"] == 128 + number


@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT", "SIGQUIT"])
def test_what_our_caller_ignores_the_program_ignores(world: World, name: str) -> None:
    script = f"""
import signal, time
tell("ignored", signal.getsignal(signal.{name}) == signal.SIG_IGN)
signal.signal(signal.{name}, lambda number, frame: tell("came", number))
signal.signal(signal.SIGUSR1, lambda number, frame: sys.exit(7))
open(WORK + "/ready", "w").close()
# A signal that comes as a sleep begins is seen to when it ends.
while True: time.sleep(0.05)
"""
    ignoring = ["sh", "-c", f"trap '' {name[3:]}; exec \"$@\"", "sh", *ALONE]
    with world.under_way(script, before=ignoring) as run:
        run.ready()
        send(run, int(getattr(signal, name)))
        send(run, signal.SIGUSR1)
        ended = run.ended()
    assert ended.code == 7 and ended.attempts["ignored"].value is True, ended.explain()
    assert "came" not in ended.attempts, ended.explain()
