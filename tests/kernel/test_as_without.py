"""What programs find out from the kernel, they find out under the supervisor as well: the same script, with and without."""

import pytest

from tests.conftest import WORKSPACE, World

# A directory that may be listed and not searched: what bears a name in it nobody learns, whatever the call.
UNSEARCHABLE = """
os.mkdir("d"); open("d/f", "w").close(); os.mkdir("d/g"); open("z", "w").close()
os.chmod("d", 0o400)
at = os.open("d", os.O_RDONLY)
for name in ("f", "g", "nope"):
    here = "d/" + name
    attempt("unlink " + name, os.unlink, here); attempt("unlinkat " + name, os.unlink, name, dir_fd=at)
    attempt("rmdir " + name, os.rmdir, here); attempt("rmdirat " + name, os.rmdir, name, dir_fd=at)
    attempt("rename from " + name, os.rename, here, "y"); attempt("rename to " + name, os.rename, "z", here)
    attempt("link from " + name, os.link, here, "y"); attempt("link to " + name, os.link, "z", here)
    attempt("mkdir " + name, os.mkdir, here); attempt("mkfifo " + name, os.mkfifo, here)
    attempt("symlink " + name, os.symlink, "z", here); attempt("chmod " + name, os.chmod, here, 0o700)
    attempt("open " + name, os.open, here, os.O_RDONLY)
    attempt("create " + name, os.open, here, os.O_CREAT | os.O_WRONLY)
attempt("list", lambda: sorted(os.listdir("d")))
attempt("dot", lambda: os.close(os.open("d/.", os.O_RDONLY)))
attempt("dots", lambda: os.close(os.open("d/..", os.O_RDONLY)))
os.chmod("d", 0o700); os.unlink("d/f"); os.rmdir("d/g"); os.rmdir("d")
attempt("file, dot", os.open, "z/.", os.O_RDONLY)
attempt("file, dots", os.open, "z/..", os.O_RDONLY)
attempt("nothing, dot", os.open, "nope/.", os.O_CREAT | os.O_WRONLY)
attempt("left", lambda: sorted(os.listdir(".")))
"""

# A child of a fork that does nothing shares nothing with the supervisor, and ends as it would.
FORKS = """
import threading
def fork():
    child = os.fork()
    if child == 0:
        return sys.exit(0)
    tell("status", os.waitpid(child, 0)[1])
open("z", "w").close()
fork()
def in_thread():
    open("z", "w").close()
    child = os.fork()
    if child != 0:
        tell("status of a thread's", os.waitpid(child, 0)[1])
thread = threading.Thread(target=in_thread)
thread.start(); thread.join()
"""


# Root searches every directory.
@pytest.mark.parametrize("world", ["ordinary"], indirect=True)
def test_a_directory_that_may_not_be_searched(world: World) -> None:
    without = {name: (a.ok, a.errno, a.value) for name, a in world.plain(UNSEARCHABLE).attempts.items()}
    assert len(without) == 3 * 14 + 7 and without["unlink nope"] == (False, 13, None), without
    policy = WORKSPACE.replace('write = ["./work"]', 'write = ["./work"]\nread = ["./work"]')
    run = world.run(UNSEARCHABLE, policy=policy)
    under = {name: (a.ok, a.errno, a.value) for name, a in run.attempts.items()}
    assert under == without, run.explain()
    assert not run.denied(), run.explain()


def test_a_fork_that_does_nothing(world: World) -> None:
    run = world.run(FORKS)
    assert run.code == 0, run.explain()
    assert run.attempts["status"].value == 0, run.explain()
    assert run.attempts["status of a thread's"].value == 0, run.explain()


# Signals keep coming, and whoever forks was never told that a fork may be interrupted.
STORM = """
import signal
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0003)
def fork():
    for _ in range(300):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
attempt("forks", fork)
"""


def test_forks_while_signals_come(world: World) -> None:
    run = world.run(STORM)
    run.worked("forks")


# Nor was whoever changes a name, or what is known of a file.
CHANGES = """
import signal
signal.signal(signal.SIGALRM, lambda *_: None)
open("f", "w").close()
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0003)
def names():
    for _ in range(1000):
        os.mkdir("d")
        os.rename("d", "e")
        os.rmdir("e")
def attributes():
    for _ in range(500):
        os.chmod("f", 0o600)
        os.utime("f", (1, 1))
        os.link("f", "g")
        os.unlink("g")
attempt("names", names)
attempt("attributes", attributes)
signal.setitimer(signal.ITIMER_REAL, 0)
"""


def test_changes_while_signals_come(world: World) -> None:
    run = world.run(CHANGES)
    run.worked("names")
    run.worked("attributes")
