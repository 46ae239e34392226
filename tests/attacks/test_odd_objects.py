"""Objects that answer twice, lie about equality, or raise: what was judged is what is used, or nothing happens."""

from collections.abc import Callable

from tests.conftest import WORKSPACE, Listener, World


def test_paths_and_flags_of_odd_kinds(world: World) -> None:
    run = world.attack(
        """
open("in.txt", "w").write("inside")
class Liar(str):
    '''Equal to everything, hashed like the innocent, printed like the innocent.'''
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return hash(WORK + "/in.txt")
    def __str__(self): return WORK + "/in.txt"
    __repr__ = __str__
    def __fspath__(self): return WORK + "/in.txt"
    def encode(self, *a): return (WORK + "/in.txt").encode()
    def startswith(self, *a): return True
    def __getitem__(self, i): return "i"
    def __iter__(self): return iter(WORK + "/in.txt")
class LiarBytes(bytes):
    def __eq__(self, other): return True
    def __hash__(self): return 1
    def __fspath__(self): return WORK.encode() + b"/in.txt"
    def decode(self, *a): return WORK + "/in.txt"
    def __bytes__(self): return WORK.encode() + b"/in.txt"
class Raising:
    def __fspath__(self): raise KeyError("boom")
class Recursing:
    def __fspath__(self): return open(SECRET).read()
class OpeningMeanwhile:
    def __fspath__(self):
        attempt("open inside __fspath__", lambda: open(SECRET).read())
        return WORK + "/in.txt"
class Kind:
    def __fspath__(self): return Liar(SECRET)
for name, path in {"liar": Liar(SECRET), "liar bytes": LiarBytes(os.fsencode(SECRET)), "raising": Raising(), "recursing": Recursing(),
                   "liar from __fspath__": Kind(), "bytearray": bytearray(os.fsencode(SECRET)), "memoryview": memoryview(os.fsencode(SECRET))}.items():
    attempt("open " + name, lambda: open(path).read())
    attempt("os.open " + name, lambda: os.read(os.open(path, os.O_RDONLY), 99))
    attempt("rename " + name, lambda: os.rename(path, WORK + "/taken"))
    attempt("link " + name, lambda: os.link(path, WORK + "/taken"))
    attempt("truncate " + name, lambda: os.truncate(path, 0))
    attempt("chmod " + name, lambda: os.chmod(path, 0o777))
    attempt("listdir " + name, lambda: os.listdir(path))
attempt("fine", lambda: open(OpeningMeanwhile()).read())

class Flags(int):
    '''Read only when looked at, create and truncate when used; and the other way round.'''
    def __index__(self): return os.O_CREAT | os.O_TRUNC | os.O_WRONLY
    def __int__(self): return os.O_RDONLY
    def __and__(self, other): return 0
class Index:
    def __init__(self, *answers): self.answers = list(answers)
    def __index__(self): return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
for n in range(4):
    attempt("flags %d" % n, lambda: os.open(OUTSIDE + "/new.txt", Index(*[os.O_RDONLY] * n, os.O_CREAT | os.O_WRONLY)))
    attempt("keep flags %d" % n, lambda: os.open(KEEP, Index(*[os.O_RDONLY] * n, os.O_TRUNC | os.O_WRONLY)))
attempt("flags subclass", lambda: os.open(OUTSIDE + "/new.txt", Flags(0)))
class Mode(str):
    def __eq__(self, other): return other == "r"
    def __contains__(self, one): return one == "r"
    __hash__ = str.__hash__
attempt("mode subclass", lambda: open(KEEP, Mode("w")))
attempt("mode subclass inside", lambda: open("new.txt", Mode("w")).close())

here = os.open(WORK, os.O_RDONLY)
class Descriptor(int):
    def __index__(self): return here
attempt("dir_fd subclass", lambda: os.read(os.open("../outside/secret.txt", 0, dir_fd=Descriptor(here)), 99))
attempt("dir_fd index", lambda: os.read(os.open("../outside/secret.txt", 0, dir_fd=Index(here)), 99))
attempt("dir_fd turning", lambda: os.read(os.open("secret.txt", 0, dir_fd=Index(here, os.open("/", os.O_PATH))), 99))
attempt("dir_fd bool", lambda: os.read(os.open("../outside/secret.txt", 0, dir_fd=True), 99))
attempt("dir_fd inside", lambda: os.read(os.open("in.txt", 0, dir_fd=here), 99))

for name, path in {"nul": SECRET + "\\0" + WORK, "nul first": WORK + "/in.txt\\0/../" + SECRET, "long": "/" * 5000 + SECRET, "dots": SECRET + "/.",
                   "slashes": "//" + SECRET, "dot dot": WORK + "/../work/../outside/./secret.txt", "long component": "x" * 300 + "/../" + SECRET,
                   "missing/..": WORK + "/missing/../../outside/secret.txt", "trailing slash": SECRET + "/", "surrogate": WORK + "/\\udc2e\\udc2e/outside",
                   "empty": "", "not utf-8": os.fsencode(WORK) + b"/\\xff/../../outside/secret.txt"}.items():
    attempt("name " + name, lambda: open(path).read())
attempt("not utf-8 inside", lambda: open(os.fsencode(WORK) + b"/\\xff\\xfe", "w").write("x"))
attempt("not utf-8 outside", lambda: open(os.fsencode(OUTSIDE) + b"/\\xff\\xfe", "w").write("x"))

import codecs
codecs.register_error("surrogateescape", lambda error: (b"../outside/secret.txt", error.end))
codecs.register(lambda name: codecs.CodecInfo(lambda s, e="": (os.fsencode(WORK), len(s)), lambda b, e="": (WORK, len(b)), name=name))
attempt("evil error handler", lambda: open("\\udc80").read())
attempt("evil error handler directly", lambda: open(SECRET + "\\udc80").read())
attempt("still", lambda: open(SECRET).read())
"""
    )
    for name, attempt in run.attempts.items():
        if (
            name in ("fine", "mode subclass inside", "dir_fd inside", "not utf-8 inside")
            or attempt.value == "'inside'"
        ):
            assert attempt.ok, f"{name}\n{run.explain()}"
        else:
            assert not attempt.ok, f"{name}\n{run.explain()}"
    run.refused(
        "open inside __fspath__",
        "still",
        "open liar",
        "open liar bytes",
        "mode subclass",
        "not utf-8 outside",
    )
    assert os_has(world, b"\xff\xfe")
    assert run.allowed("fs.open", "hex")


def os_has(world: World, name: bytes) -> bool:
    import os

    return name in os.listdir(os.fsencode(world.work))


def test_a_path_that_raises_or_changes_leaves_the_good_one_alone(world: World) -> None:
    run = world.attack(
        """
class Once:
    '''Answers once, then explodes: fine for who asks once.'''
    def __init__(self, answer): self.answer, self.asked = answer, 0
    def __fspath__(self):
        self.asked += 1
        if self.asked > 1: raise RuntimeError("asked again")
        return self.answer
open("in.txt", "w").write("inside")
attempt("open", lambda: open(Once(WORK + "/in.txt")).read())
attempt("os.open", lambda: os.open(Once(WORK + "/in.txt"), 0))
attempt("rename", lambda: os.rename(Once(WORK + "/in.txt"), Once(WORK + "/out.txt")))
attempt("stat", lambda: os.stat(Once(WORK + "/out.txt")).st_size)
attempt("unlink", lambda: os.unlink(Once(WORK + "/out.txt")))
"""
    )
    run.worked("open", "os.open", "rename", "stat", "unlink")


def test_paths_that_no_event_tells_of(world: World) -> None:
    run = world.attack(
        """
import _posixshmem, sqlite3, ssl
class Second:
    '''No path at first, then one: what is asked once is used.'''
    def __init__(self, answer): self.answer, self.asked = answer, 0
    def __fspath__(self):
        self.asked += 1
        if self.asked == 1: raise KeyError("first")
        return self.answer
class Number(int):
    '''A number and a path.'''
    def __fspath__(self): return OUTSIDE + "/new"
class Index:
    def __init__(self, *answers): self.answers = list(answers)
    def __index__(self): return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
attempt("fifo second", os.mkfifo, Second(OUTSIDE + "/new"))
attempt("fifo number", os.mkfifo, Number(5))
attempt("node second", os.mknod, Second(OUTSIDE + "/new"))
attempt("node number", os.mknod, Number(5))
attempt("open second", lambda: os.read(os.open(Second(SECRET), os.O_RDONLY), 99))
context = ssl.create_default_context()
attempt("certificate second", context.load_cert_chain, Second(SECRET))
attempt("authorities second", context.load_verify_locations, Second(SECRET))
attempt("database second", sqlite3.connect, Second(OUTSIDE + "/new.db"))
name = "/fc-%d" % os.getpid()
for n in range(3):
    flags = Index(*[os.O_RDONLY] * n, os.O_CREAT | os.O_RDWR)
    attempt("shared memory %d" % n, _posixshmem.shm_open, name, flags, 0o600)
tell("shared memory", os.path.exists("/dev/shm" + name))
attempt("fifo inside", os.mkfifo, WORK + "/fifo")
""",
        policy=f"version = 1\n[fs]\nread = ['/usr', '/etc', '/lib', '{world.prefix}', '/root', '/proc']\n"
        f"write = ['./work']\n[native]\nload = ['/']\n",
    )
    for name, attempt in run.attempts.items():
        if name not in ("shared memory", "fifo inside"):
            assert not attempt.ok, f"{name}\n{run.explain()}"
    assert run.attempts["shared memory"].value is False
    run.refused("fifo number", "node number", "shared memory 0")
    run.worked("fifo inside")


def test_buffers_that_change_while_a_call_is_read(world: World) -> None:
    """CPython takes a `bytearray` for a path until 3.11, and runs code of the program before it says so."""
    run = world.attack(
        """
import warnings
warnings.simplefilter("ignore")
here = os.open(WORK, os.O_RDONLY)
inside, outside = os.fsencode(WORK + "/in.txt"), os.fsencode(OUTSIDE + "/keep.txt")
inside = inside.replace(b"/in.txt", b"/" * (len(outside) - len(inside)) + b"/in.txt")
class Turning:
    def __init__(self, buffer, to): self.buffer, self.to = buffer, to
    def __index__(self):
        self.buffer[:] = self.to
        return here
for first, then in ((inside, outside), (outside, inside)):
    label = "in first" if first == inside else "out first"
    open("in.txt", "w").close()
    def turning(): return (buffer := bytearray(first)), Turning(buffer, then)
    def one(call, *args):
        buffer, turn = turning()
        return call(buffer, *args, dir_fd=turn)
    attempt(label + " chmod", one, os.chmod, 0o600)
    attempt(label + " unlink", one, os.unlink)
    attempt(label + " mkdir", one, os.mkdir)
    attempt(label + " open", lambda: os.write(one(lambda path, dir_fd: os.open(path, os.O_WRONLY | os.O_TRUNC, dir_fd=dir_fd)), b"x"))
    buffer, turn = turning()
    attempt(label + " rename", lambda: os.rename(buffer, "taken", src_dir_fd=turn))
open("in.txt", "w").close()
tell("version", sys.version_info[:2])
for kind in (bytearray, memoryview):
    attempt("list outside " + kind.__name__, os.listdir, kind(os.fsencode(OUTSIDE)))
    attempt("list inside " + kind.__name__, os.listdir, kind(os.fsencode(WORK)))
"""
    )
    if tuple(run.attempts["version"].value) <= (3, 11):
        run.refused("out first chmod", "out first unlink", "out first open", "out first rename")
        run.refused("list outside bytearray", "list outside memoryview")
        run.worked("in first chmod", "in first unlink", "list inside bytearray", "list inside memoryview")


def test_addresses_of_odd_kinds(world: World, listen: Callable[..., Listener]) -> None:
    server, granted = listen(), listen()
    run = world.attack(
        """
import socket, _socket, encodings.idna, codecs
port, granted = int(sys.argv[1]), int(sys.argv[2])
class Turning:
    def __init__(self, *answers): self.answers = list(answers)
    def __index__(self): return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
class Host(str):
    def __eq__(self, other): return True
    def __hash__(self): return hash("good.example")
    def __str__(self): return "good.example"
    def encode(self, *a): return b"127.0.0.1"
class Address(tuple):
    def __getitem__(self, i): return ("127.0.0.1", granted)[i]
    def __iter__(self): return iter(("127.0.0.1", granted))
def tcp(): return socket.socket()
for make, kind in ((socket.socket, "socket"), (_socket.socket, "_socket")):
    for n in range(4):
        attempt("%s turning port %d" % (kind, n), lambda: make(2, 1).connect(("127.0.0.1", Turning(*[granted] * n, port))))
        attempt("%s turning port sendto %d" % (kind, n), lambda: make(2, 2).sendto(b"x", ("127.0.0.1", Turning(*[granted] * n, port))))
        attempt("%s turning port bind %d" % (kind, n), lambda: make(2, 1).bind(("127.0.0.1", Turning(*[0] * n, 1 + 40000))))
    attempt(kind + " address subclass", lambda: make(2, 1).connect(Address(("127.0.0.1", port))))
    attempt(kind + " host subclass", lambda: make(2, 1).connect((Host("127.0.0.1"), port)))
    attempt(kind + " list", lambda: make(2, 1).connect(["127.0.0.1", port]))
    attempt(kind + " bytes host", lambda: make(2, 1).connect((b"127.0.0.1", port)))
    attempt(kind + " bytearray host", lambda: make(2, 1).connect((bytearray(b"127.0.0.1"), port)))
    attempt(kind + " port beyond", lambda: make(2, 1).connect(("127.0.0.1", port + 65536)))
    attempt(kind + " family unspecified", lambda: make(0, 1).connect(("127.0.0.1", port)))
    attempt(kind + " v6 mapped", lambda: make(10, 1).connect(("::ffff:127.0.0.1", port)))
    attempt(kind + " mptcp", lambda: make(2, 1, 262).connect(("127.0.0.1", port)))
    attempt(kind + " fastopen", lambda: make(2, 1).sendto(b"x", 0x20000000, ("127.0.0.1", port)))
    attempt(kind + " sendmsg", lambda: make(2, 1).sendmsg([b"x"], [], 0x20000000, ("127.0.0.1", port)))
# The codec that turns a host name into bytes is Python, and anyone's to change.
codec = codecs.lookup("idna")
encodings.idna.Codec.encode = lambda self, text, errors="strict": (b"127.0.0.1", len(text))
encodings.idna.ToASCII = lambda label: b"127"
codecs.register(lambda name: codecs.CodecInfo(lambda text, errors="strict": (b"127.0.0.1", len(text)), codec.decode, name="idna") if name == "idna" else None)
for make, kind in ((socket.socket, "socket"), (_socket.socket, "_socket")):
    attempt(kind + " idna", lambda: make(2, 1).connect(("g\\u00f6\\u00f6d.example", port)))
    attempt(kind + " idna sendto", lambda: make(2, 2).sendto(b"x", ("g\\u00f6\\u00f6d.example", port)))
attempt("idna create_connection", lambda: socket.create_connection(("g\\u00f6\\u00f6d.example", port), 5))
real = socket.getaddrinfo
socket.getaddrinfo = lambda *a, **k: [(2, 1, 6, "", ("127.0.0.1", port))]
attempt("getaddrinfo replaced", lambda: socket.create_connection(("good.example", port), 5))
import asyncio
attempt("asyncio", lambda: asyncio.run(asyncio.wait_for(asyncio.open_connection("good.example", port), 5)))
socket.getaddrinfo = real
attempt("granted", lambda: tcp().connect(("127.0.0.1", granted)))
class Port(int): pass
attempt("granted, a kind of int", lambda: tcp().connect(("127.0.0.1", Port(granted))))
""",
        str(server.port),
        str(granted.port),
        policy=WORKSPACE
        + f'\n[net]\nconnect = ["*:*", "xn--gd-fkaa.example:*", "good.example:*", "127.0.0.1:{granted.port}", "udp:127.0.0.1:{granted.port}"]\n'
        + f'listen = ["127.0.0.1:0"]\n',
    )
    assert server.accepted == 0, run.explain()
    for name, attempt in run.attempts.items():
        if not name.startswith("granted") and " turning port" not in name:
            assert not attempt.ok, f"{name}\n{run.explain()}"
    run.worked("granted", "granted, a kind of int")
    assert granted.accepted >= 1
    assert run.denied("net.connect", f'"port": {server.port}')


def test_arguments_of_programs_that_change(world: World) -> None:
    run = world.attack(
        """
import subprocess
class Turning(list):
    '''A list that is another one at each look.'''
    def __init__(self, *looks): super().__init__(looks[0]); self.looks = list(looks)
    def __iter__(self): return iter(self.looks.pop(0) if len(self.looks) > 1 else self.looks[0])
    def __len__(self): return len(self.looks[0])
    def __getitem__(self, i): return (self.looks.pop(0) if len(self.looks) > 1 else self.looks[0])[i]
class TurningPath:
    def __init__(self, *answers): self.answers = list(answers)
    def __fspath__(self): return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
good, bad = ["/bin/echo", "hello"], ["/bin/cat", SECRET]
for n in range(1, 6):
    attempt("Popen %d" % n, lambda: subprocess.run(Turning(*[good] * n, bad), capture_output=True, check=True).stdout)
    attempt("Popen executable %d" % n, lambda: subprocess.run(["/bin/echo", SECRET], executable=TurningPath(*["/bin/echo"] * n, "/bin/cat"), capture_output=True, check=True).stdout)
    attempt("posix_spawn %d" % n, lambda: os.posix_spawn(TurningPath(*["/bin/echo"] * n, "/bin/cat"), ["/bin/echo", "hello"], {}))
    attempt("posix_spawn args %d" % n, lambda: os.posix_spawn("/bin/echo", ["/bin/echo", TurningPath(*["hello"] * n, SECRET)], {}))
attempt("cat", lambda: subprocess.run(bad, check=True))
attempt("echo else", lambda: subprocess.run(["/bin/echo", "else"], check=True))
attempt("cat called echo", lambda: subprocess.run(["/bin/echo", "hello"], executable="/bin/cat", check=True))
attempt("link called echo", lambda: (os.symlink("/bin/cat", "echo"), subprocess.run([WORK + "/echo", "hello"], check=True)))
attempt("path in environment", lambda: subprocess.run(["echo", "hello"], env={"PATH": WORK}, check=True))
attempt("echo", lambda: subprocess.run(good, check=True))
""",
        policy=WORKSPACE + '\n[process]\nexec = ["/bin/echo hello"]\n',
    )
    run.refused("cat", "echo else", "cat called echo", "link called echo", "path in environment")
    run.worked("echo")
    assert run.denied("process.exec", "cat") and run.allowed("process.exec", "echo")
    for record in run.allowed("process.exec", "echo"):
        assert "cat" not in str(record["request"]["action"]["argv"])
