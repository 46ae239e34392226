"""Memory, stack, file size and processes run out in the middle of a decision: what cannot be decided is refused."""

from tests.conftest import World


def test_no_memory(world: World) -> None:
    run = world.attack(
        """
import resource
open("in.txt", "w").write("inside")
with open("/proc/self/status") as file:
    used = next(int(line.split()[1]) for line in file if line.startswith("VmSize")) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 20), resource.getrlimit(resource.RLIMIT_AS)[1]))
hoard, outcomes = [], set()
size = 1 << 20
while size >= 16:
    try:
        hoard.append(bytearray(size))
    except MemoryError:
        size //= 2
        for call in (lambda: open(SECRET), lambda: os.open(SECRET, 0), lambda: os.mkdir(OUTSIDE + "/new"), lambda: os.remove(KEEP)):
            try:
                call()
                outcomes.add("PERMITTED")
            except BaseException as error:
                outcomes.add(type(error).__name__)
hoard.clear()
tell("outcomes", sorted(outcomes))
attempt("afterwards", lambda: open(SECRET).read())
attempt("inside", lambda: open("in.txt").read())
"""
    )
    if run.code < 0 or "outcomes" not in run.attempts:
        # The interpreter itself may abort without memory: fail-stop, and nothing was done.
        assert run.code != 0, run.explain()
        return
    assert "PERMITTED" not in run.attempts["outcomes"].value, run.explain()
    run.refused("afterwards")
    run.worked("inside")


def test_no_stack(world: World) -> None:
    run = world.attack(
        """
outcomes = set()
def deeper(n, call):
    try:
        deeper(n + 1, call)
    except RecursionError:
        pass
    try:
        call()
        outcomes.add("PERMITTED")
    except BaseException as error:
        outcomes.add(type(error).__name__)
for call in (lambda: open(SECRET), lambda: os.open(SECRET, 0), lambda: os.mkdir(OUTSIDE + "/new"), lambda: os.rename(KEEP, "x")):
    sys.setrecursionlimit(300)
    deeper(0, call)
sys.setrecursionlimit(1000)
tell("outcomes", sorted(outcomes))
attempt("inside", lambda: open("in.txt", "w").write("x"))
"""
    )
    assert "PERMITTED" not in run.attempts["outcomes"].value, run.explain()
    run.worked("inside")


def test_no_file_size_and_no_processes(world: World) -> None:
    run = world.attack(
        """
import resource, signal, subprocess
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
attempt("read", lambda: open(SECRET).read())
attempt("inside", lambda: open("in.txt", "w").close())
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
attempt("spawn", lambda: subprocess.run(["/bin/cat", SECRET], check=True))
attempt("read again", lambda: open(SECRET).read())
attempt("inside again", lambda: open("in2.txt", "w").close())
resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, 1 << 20))
attempt("small stack", lambda: open(SECRET).read())
"""
    )
    run.refused("read", "spawn", "read again", "small stack")
    run.worked("inside", "inside again")
    assert len(run.denied("fs.open", world.outside / "secret.txt")) == 3
