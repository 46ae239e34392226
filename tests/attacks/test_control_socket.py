"""The socket by which a run is paused, stopped and answered is its owner's: the agent finds no way to it."""

from __future__ import annotations

import errno
from collections.abc import Mapping

from tests.conftest import WORKSPACE, Run, World, only, wait_for

# Everything that a careless policy could grant.
WIDE = """
version = 1
extends = ["preset:python"]
[fs]
read = ["/**"]
write = ["/**"]
[net]
connect = ["unix:/**", "unix:@**"]
listen = ["unix:/**", "unix:@**"]
[process]
exec = ["/**"]
[native]
load = ["ctypes"]
"""

SCRIPT = """
import socket, json, subprocess, shutil, time
open("ready", "w")
while not os.path.exists("path"): time.sleep(0.01)
path = open("path").read()
live, session = os.path.split(path)
STOP, SAY_YES = {"stop": {"grace": 0}}, {"answer": {"question": 1, "answer": "approved"}}

def order(at, what=STOP):
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); peer.settimeout(5)
    peer.connect(at)
    peer.send(json.dumps(what).encode())
    return peer.recv(65536).decode()

attempt("list", lambda: os.listdir(live))
attempt("list through a descriptor", lambda: os.listdir(os.open(live, os.O_RDONLY | os.O_DIRECTORY)))
attempt("path only", lambda: os.listdir("/proc/self/fd/%d" % os.open(live, os.O_PATH | os.O_DIRECTORY)))
attempt("read", lambda: open(path).read())
attempt("stop", lambda: order(path))
attempt("say yes", lambda: order(path, SAY_YES))
attempt("abstract", lambda: order("\\0" + path))
def relative():
    here = os.getcwd()
    try:
        os.chdir(live); return order(session)
    finally: os.chdir(here)
attempt("relative", relative)
attempt("dots", lambda: order(live + "/../live/" + session))
attempt("slashes", lambda: order("//" + path.replace("/", "//", 3)))
attempt("root", lambda: order("/proc/self/root" + path))
attempt("own directory", lambda: order("/proc/self/cwd/../" + os.path.relpath(path, BASE)))
def by_link(make, name):
    make(path, name)
    return order(name)
attempt("symlink", lambda: by_link(os.symlink, WORK + "/symlink"))
attempt("symlink to the directory", lambda: (os.symlink(live, WORK + "/live"), order(WORK + "/live/" + session))[1])
attempt("hard link", lambda: by_link(os.link, WORK + "/hard"))
attempt("move", lambda: by_link(os.rename, WORK + "/moved"))
attempt("move the directory", lambda: (os.rename(live, WORK + "/moved-live"), order(WORK + "/moved-live/" + session))[1])
attempt("move what it lies in", lambda: os.rename(os.path.dirname(live), WORK + "/moved-state"))
attempt("remove", lambda: os.remove(path))
attempt("remove the directory", lambda: shutil.rmtree(live))
attempt("mode", lambda: os.chmod(path, 0o777))
attempt("mode of the directory", lambda: os.chmod(live, 0o777))
attempt("owner", lambda: os.chown(path, os.getuid(), -1))
def impersonate(name):
    mine = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); mine.bind(name); mine.listen()
attempt("in its place", lambda: impersonate(path))
attempt("another run", lambda: impersonate(live + "/00000000-0000-7000-8000-000000000000"))
attempt("a file there", lambda: open(live + "/x", "w"))
attempt("a link there", lambda: os.symlink(path, live + "/y"))
FAILCORE = sys.argv[1]
def command(*argv):
    # Told where to look, as the owner's own are.
    where = {**os.environ, "XDG_STATE_HOME": os.path.dirname(os.path.dirname(live))}
    done = subprocess.run([FAILCORE, *argv], capture_output=True, text=True, env=where)
    tell("said by " + argv[0], [done.returncode, done.stdout, done.stderr])
for words in (["ps"], ["stop", session], ["approve", session, "1"]):
    attempt("failcore " + words[0], lambda: command(*words))
def datagrams():
    for _ in range(500):
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try: peer.connect(path)
        except OSError: continue
        peers.append(peer)
    return len(peers)
peers = []
tell("kept open", datagrams())
tell("done", True)
open("done", "w")
while not os.path.exists("end"): time.sleep(0.01)
"""
NEVER = [
    "list",
    "list through a descriptor",
    "path only",
    "read",
    "stop",
    "say yes",
    "relative",
    "dots",
    "slashes",
    "root",
    "own directory",
    "symlink",
    "symlink to the directory",
    "hard link",
    "move",
    "move the directory",
    "move what it lies in",
    "remove",
    "remove the directory",
    "mode",
    "mode of the directory",
    "owner",
    "in its place",
    "another run",
    "a file there",
    "a link there",
    "abstract",
]


def attacked(world: World, *script: str, policy: str, env: Mapping[str, str] | None = None) -> Run:
    """A run that tries everything on its own socket, and is over: the socket is as it was, the only one, and still listens to
    its owner."""
    live = world.base / "state/failcore/live"

    def found() -> tuple[object, ...]:
        of = path.stat()
        return of.st_ino, of.st_mode, of.st_mtime_ns, live.stat().st_mode

    with world.under_way(*script, policy=policy, env=env) as run:
        run.ready()
        path = live / run.session
        before = found()
        (world.work / "path.new").write_text(str(path))
        (world.work / "path.new").rename(world.work / "path")
        wait_for((world.work / "done").exists, "it has tried everything")
        assert found() == before and [entry.name for entry in live.iterdir()] == [run.session]
        assert (run.status() or {})["state"] == "running"
        run.order("pause")
        run.order("resume")
        (world.work / "end").touch()
        ended = run.ended()
    assert ended.code == 0, ended.explain()
    return ended


def check(world: World, policy: str) -> None:
    live = world.base / "state/failcore/live"
    ended = attacked(
        world, SCRIPT, world.failcore, policy=policy, env={"XDG_STATE_HOME": str(world.base / "state")}
    )
    session = ended.records[0]["session"]
    for name in NEVER:
        assert name in ended.attempts, f"`{name}` was never attempted\n{ended.explain()}"
        assert not ended.attempts[name].ok, f"`{name}` worked: {ended.attempts[name]}\n{ended.explain()}"
    if policy != WIDE:
        ended.refused("failcore ps", "failcore stop", "failcore approve")
    else:
        ended.worked("failcore ps", "failcore stop", "failcore approve")
        said = {name: ended.attempts[f"said by {name}"].value for name in ("ps", "stop", "approve")}
        asked = [
            record["request"]["action"]
            for record in ended.denied("fs.open", live)
            if record["request"]["subject"]["exe"].endswith("/failcore")
        ]
        codes = [said[name][0] for name in said]
        if world.lane == "kernel":
            assert codes == [0, 2, 2] and session not in said["ps"][1] + said["ps"][2], ended.explain()
            assert "no run under way is called" in said["stop"][2] + said["approve"][2], ended.explain()
            assert [action["path"] for action in asked] == [str(live)] * 3, ended.explain()
        else:
            # Nothing holds a program without the hook; whoever listens turns it away.
            assert codes == [0, 125, 125] and "silent" in said["ps"][1], ended.explain()
            notices = [record["text"] for record in ended.records if record["type"] == "notice"]
            assert any("turned away" in text for text in notices), notices
    assert ended.attempts["kept open"].value == 0
    assert not [record for record in ended.records if record["type"] in ("run.stopped", "approval")]
    assert ended.denied("ipc.connect", session) and ended.denied("fs.*", "live")


def test_the_agent_does_not_reach_it(world: World) -> None:
    check(world, WORKSPACE)


def test_nor_where_everything_is_granted(world: World) -> None:
    check(world, WIDE)


NATIVE = """
import ctypes, socket, struct, threading, time
open("ready", "w").close()
while not os.path.exists("path"): time.sleep(0.01)
path = open("path").read()
live, session = os.path.split(path)
libc = ctypes.CDLL(None, use_errno=True)
FDCWD, STOP, CONNECT = -100, b'{"stop":{"grace":0}}', {"x86_64": 42}.get(os.uname().machine, 203)

def native(name, call):
    ctypes.set_errno(0)
    done = call()
    tell(name, [done, ctypes.get_errno()])
def address(at): return struct.pack("H108s", 1, at.encode())
def unix(kind=5): return libc.socket(1, kind | 0o2000000, 0)
def connect(at, call=libc.connect):
    fd = unix()
    if call(fd, address(at), 110) != 0: return -1
    libc.send(fd, STOP, len(STOP), 0x4000)
    return fd
def raw(fd, where, length): return libc.syscall(CONNECT, fd, where, length)
def from_inside(call):
    home = os.open(".", os.O_PATH)
    done = libc.chdir(live.encode()) or call()
    error = ctypes.get_errno(); os.fchdir(home); ctypes.set_errno(error)
    return done
def in_child(call):
    # A process without a thread that the hook knows.
    read, write = os.pipe()
    pid = libc.fork()
    if pid == 0:
        done = call(); os.write(write, struct.pack("ii", done, ctypes.get_errno())); libc._exit(0)
    done, error = struct.unpack("ii", os.read(read, 8)); os.waitpid(pid, 0); ctypes.set_errno(error)
    return done

libc.symlink(live.encode(), b"live")
libc.symlink(path.encode(), b"socket")
native("connect", lambda: connect(path))
native("connect, raw", lambda: connect(path, raw))
native("connect by its name", lambda: from_inside(lambda: connect(session)))
native("connect by a link", lambda: connect("socket"))
native("connect by a link to the directory", lambda: connect("live/" + session))
native("connect by /proc", lambda: connect("/proc/self/root" + path))
native("connect with dots", lambda: connect(live + "/../live/./" + session))
native("connect from a child", lambda: in_child(lambda: connect(path)))
native("send", lambda: libc.sendto(unix(2), STOP, len(STOP), 0, address(path), 110))
native("bind", lambda: libc.bind(unix(), address(path), 110))
native("bind beside", lambda: libc.bind(unix(), address(live + "/00000000-0000-7000-8000-000000000000"), 110))
native("list", lambda: libc.open(live.encode(), os.O_RDONLY | os.O_DIRECTORY))
native("open", lambda: libc.open(path.encode(), os.O_RDWR))
native("file there", lambda: libc.open((live + "/x").encode(), os.O_CREAT | os.O_WRONLY, 0o600))
native("hard link", lambda: libc.link(path.encode(), b"hard"))
native("hard link by a descriptor", lambda: libc.linkat(libc.open(path.encode(), os.O_PATH), b"", FDCWD, b"hard", 0x1000))
native("move", lambda: libc.rename(path.encode(), b"moved"))
native("move the directory", lambda: libc.rename(live.encode(), b"moved-live"))
native("something over it", lambda: libc.rename(b"path", path.encode()))
native("remove", lambda: libc.unlink(path.encode()))
native("mode", lambda: libc.chmod(path.encode(), 0o777))
native("mode of the directory", lambda: libc.chmod(live.encode(), 0o777))
native("owner", lambda: libc.chown(path.encode(), os.getuid(), -1))
native("times", lambda: libc.utimensat(FDCWD, path.encode(), None, 0))

# The address changes while it is being judged.
mine = unix(); libc.bind(mine, address(WORK + "/own"), 110); libc.listen(mine, 128)
names = [address(WORK + "/own"), address(path)]
where, over = ctypes.create_string_buffer(names[0], 110), []
def flip():
    n = 0
    while not over:
        ctypes.memmove(where, names[n % 2], 110); n += 1
flipping = threading.Thread(target=flip); flipping.start()
reached = refused = elsewhere = 0
end = time.monotonic() + 20
while (reached < 20 or refused < 20) and time.monotonic() < end:
    fd = unix()
    if libc.connect(fd, where, 110) == 0:
        reached += 1
        if socket.socket(fileno=os.dup(fd)).getpeername() != WORK + "/own": elsewhere += 1; libc.send(fd, STOP, len(STOP), 0x4000)
        peer = libc.accept(mine, None, None); libc.close(peer)
    elif ctypes.get_errno() == 13: refused += 1
    libc.close(fd)
over.append(1); flipping.join()
tell("racing", [reached, refused, elsewhere])
open("done", "w").close()
while not os.path.exists("end"): time.sleep(0.01)
"""


@only("kernel")
def test_nor_does_native_code(world: World) -> None:
    live = world.base / "state/failcore/live"
    ended = attacked(world, NATIVE, policy=WIDE)
    tried = {name: said.value for name, said in ended.attempts.items() if name != "racing"}
    assert len(tried) == 24 and all(value == [-1, errno.EACCES] for value in tried.values()), tried
    reached, refused, elsewhere = ended.attempts["racing"].value
    assert reached >= 20 and refused >= 20 and elsewhere == 0, ended.explain()
    # It is the supervisor that saw all of it.
    denied = ended.denied(None, live)
    assert {record["request"]["context"]["lane"] for record in denied} == {"kernel"}
    connects = ended.denied("ipc.connect", live / ended.records[0]["session"])
    assert len(connects) >= 8 + refused, ended.explain()
    for verb in ("net.bind", "fs.open", "fs.link", "fs.rename", "fs.delete", "fs.attr"):
        assert ended.denied(verb, live), f"{verb}\n{ended.explain()}"
    assert not [record for record in ended.records if record["type"] in ("run.stopped", "approval")]
    notices = [record["text"] for record in ended.records if record["type"] == "notice"]
    assert not any("turned away" in text for text in notices), notices


@only("runtime")
def test_native_code_that_gets_to_it_is_turned_away(world: World) -> None:
    """Where nothing is binding, code beneath Python can call connect(2): who belongs to the run gives no orders."""
    script = """
import ctypes, struct, time
open("ready", "w")
while not os.path.exists("path"): time.sleep(0.01)
path = open("path").read()
libc = ctypes.CDLL(None, use_errno=True)
STOP = b'{"stop":{"grace":0}}'
def order():
    fd = libc.socket(1, 5 | 0o2000000, 0)
    address = struct.pack("H108s", 1, path.encode())
    assert libc.connect(fd, address, len(address)) == 0, ctypes.get_errno()
    libc.send(fd, STOP, len(STOP), 0x4000)
    answer = ctypes.create_string_buffer(1000)
    return libc.recv(fd, answer, 1000, 0), answer.raw[:50]
tell("itself", order()[0])
if not (child := os.fork()):
    tell("child", order()[0]); os._exit(0)
os.waitpid(child, 0)
# An orphan, and children that have ended by the time they are looked at.
if not (child := os.fork()):
    if not os.fork():
        os.setsid(); time.sleep(0.2)
        tell("orphan", order()[0])
        open("orphan", "w"); os._exit(0)
    os._exit(0)
os.waitpid(child, 0)
while not os.path.exists("orphan"): time.sleep(0.01)
for _ in range(200):
    if not (child := os.fork()):
        fd = libc.socket(1, 5 | 0o2000000, 0)
        address = struct.pack("H108s", 1, path.encode())
        libc.connect(fd, address, len(address))
        libc.send(fd, STOP, len(STOP), 0x4000)
        os._exit(0)
    os.waitpid(child, 0)
held = [libc.socket(1, 5 | 0o2000000, 0) for _ in range(300)]
address = struct.pack("H108s", 1, path.encode())
tell("held", len([fd for fd in held if libc.connect(fd, address, len(address)) == 0]))
open("done", "w")
while not os.path.exists("end"): time.sleep(0.01)
"""
    with world.under_way(script, policy=WORKSPACE + '\n[native]\nload = ["ctypes"]\n') as run:
        run.ready()
        path = world.base / "state/failcore/live" / run.session
        (world.work / "path.new").write_text(str(path))
        (world.work / "path.new").rename(world.work / "path")
        wait_for((world.work / "done").exists, "it has tried everything")
        assert (run.status() or {})["state"] == "running"
        (world.work / "end").touch()
        ended = run.ended()
    assert ended.code == 0, ended.explain()
    for name in ("itself", "child", "orphan"):
        assert ended.attempts[name].value <= 0, ended.explain()
    assert ended.attempts["held"].value > 0
    kinds = [record["type"] for record in ended.records]
    assert "run.stopped" not in kinds
    notices = [record["text"] for record in ended.records if record["type"] == "notice"]
    assert any("turned away" in text for text in notices), notices


def test_no_run_reaches_that_of_another(world: World) -> None:
    script = """
import socket
def stop():
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); peer.settimeout(5)
    peer.connect(sys.argv[1]); peer.send(b'{"stop":{"grace":0}}'); return peer.recv(1000)
attempt("stop", stop)
"""
    with world.under_way("import time; open('ready', 'w'); time.sleep(60)") as victim:
        victim.ready()
        path = world.base / "state/failcore/live" / victim.session
        attacker = world.run(script, str(path), policy=WIDE)
        attacker.refused("stop")
        assert (victim.status() or {})["state"] == "running"
        victim.order("stop")
        assert victim.ended().code == 137
    assert path.parent.is_dir() and not path.exists()
