"""Closing, exhausting and overwriting descriptors: the gate keeps none that the agent could take from it."""

from collections.abc import Callable

from tests.attacks.test_digging_in_memory import TRY, held
from tests.conftest import Listener, World


def test_all_descriptors_closed(world: World, listen: Callable[..., Listener]) -> None:
    server = listen()
    run = world.attack(
        TRY
        + """
os.closerange(3, 65536)
still("closed")
pid = os.fork()
if pid == 0:
    os.closerange(3, 65536)
    still("closed in a child")
    os._exit(0)
os.waitpid(pid, 0)
still("closed before the fork")
""",
        str(server.port),
    )
    assert server.accepted == 0
    held(run, "closed", "closed in a child", "closed before the fork")
    assert len(run.denied("fs.open", world.outside / "secret.txt")) == 6
    assert len(run.allowed("fs.open", world.work / "in.txt")) == 3


def test_descriptors_overwritten_and_written_to(world: World, listen: Callable[..., Listener]) -> None:
    server = listen()
    run = world.attack(
        TRY
        + """
null = os.open("mine.txt", os.O_CREAT | os.O_RDWR)
for descriptor in range(3, 256):
    if descriptor == null: continue
    try: os.fstat(descriptor)
    except OSError: continue
    for call in (lambda: os.write(descriptor, b"garbage" * 1000), lambda: os.ftruncate(descriptor, 0), lambda: os.lseek(descriptor, 0, 0),
                 lambda: os.write(descriptor, b"\\0" * 100000), lambda: os.dup2(null, descriptor)):
        try: call()
        except OSError: pass
still("overwritten")
import mmap
for descriptor in range(3, 256):
    try:
        with mmap.mmap(descriptor, 0) as memory: memory[:] = b"\\xff" * len(memory)
    except (OSError, ValueError): pass
still("mapped and overwritten")
""",
        str(server.port),
    )
    assert server.accepted == 0
    held(run, "overwritten", "mapped and overwritten")
    assert len(run.denied("fs.open", world.outside / "secret.txt")) == 4


def test_descriptors_exhausted(world: World, listen: Callable[..., Listener]) -> None:
    server = listen()
    run = world.attack(
        TRY
        + """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
kept = []
try:
    while True: kept.append(os.dup(1))
except OSError: pass
tell("held", len(kept))
for name, call in {"read": lambda: open(SECRET).read(), "os.open": lambda: os.open(SECRET, 0), "write": lambda: open(OUTSIDE + "/new.txt", "w"),
                   "mkdir": lambda: os.mkdir(OUTSIDE + "/new"), "rename": lambda: os.rename(KEEP, "x"), "remove": lambda: os.remove(KEEP),
                   "symlink": lambda: os.symlink("x", OUTSIDE + "/new"), "chmod": lambda: os.chmod(KEEP, 0o777), "truncate": lambda: os.truncate(KEEP, 0),
                   "spawn": lambda: os.posix_spawn("/bin/sh", ["sh", "-c", "echo x > " + OUTSIDE + "/new"], {}), "system": lambda: os.system("echo x > " + OUTSIDE + "/new")}.items():
    attempt("exhausted " + name, call)
for one in range(3): os.close(kept.pop())
attempt("three left", lambda: open(SECRET).read())
for one in kept: os.close(one)
still("freed")
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
attempt("none at all", lambda: open(SECRET).read())
attempt("none at all, mkdir", lambda: os.mkdir(OUTSIDE + "/new"))
""",
        str(server.port),
    )
    assert server.accepted == 0
    for name, attempt in run.attempts.items():
        assert not attempt.ok or "inside" in name or name == "held", run.explain()
    held(run, "freed")
