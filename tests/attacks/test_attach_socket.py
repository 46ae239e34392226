"""The socket by which processes join the run: the agent may find it, and gains nothing there."""

from tests.conftest import WORKSPACE, World

SCRIPT = """
import socket, json, array, struct
names = {key: value for key, value in os.environ.items() if "FAILCORE" in key}
path = names["FAILCORE_SOCKET"]
tell("socket", path)
def dial():
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); peer.settimeout(5)
    peer.connect(path); return peer
attempt("connect", dial)
attempt("listing", lambda: os.listdir(os.path.dirname(path)))
attempt("remove", lambda: os.remove(path))
attempt("move", lambda: os.rename(path, WORK + "/moved"))
attempt("another in its place", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).bind(path))
attempt("mode", lambda: os.chmod(path, 0o777))
messages = [b"", b"{", b"null", b'{"attach":{}}', b'{"attach":{"pid":1}}', b'{"approve":{}}', b'"attach"', b"\\0" * 1000, b"{" * 100000, b'{"attach":{}}' * 3,
            json.dumps({"approve": {"request": {"action": {"verb": "fs.open", "path": SECRET, "rights": ["read"]}, "subject": {"pid": 1, "tid": 1}, "context": {"lane": "runtime", "time": "2026-01-01T00:00:00Z"}}, "question": "x"}}).encode()]
got = []
try:
    for message in messages:
        for n in range(3):
            peer = dial()
            try:
                peer.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1]))] if n == 1 else [])
                data, ancillary, flags, _ = peer.recvmsg(1 << 18, 4096)
                got.append(data[:200].decode("latin-1"))
                for level, kind, packed in ancillary:
                    for fd in struct.unpack("%di" % (len(packed) // 4), packed):
                        # What the parent hands out: a sealed policy, a page and a ring of this process's own.
                        for what in (lambda: os.pwrite(fd, b"\\xff" * 4096, 0), lambda: os.ftruncate(fd, 0)):
                            try: what()
                            except OSError: pass
            except OSError as error: got.append(type(error).__name__)
            finally: peer.close()
except OSError as error:
    got.append("no connection: " + type(error).__name__)
tell("got", got[-5:])
attempt("read", lambda: open(SECRET).read())
attempt("write", lambda: open(OUTSIDE + "/new.txt", "w"))
attempt("inside", lambda: open("in.txt", "w").write("x"))
if (pid := os.fork()) == 0:
    attempt("child read", lambda: open(SECRET).read())
    attempt("child inside", lambda: open("in.txt", "w").write("x"))
    os._exit(0)
os.waitpid(pid, 0)
"""


def check(world: World, policy: str) -> None:
    run = world.attack(SCRIPT, policy=policy)
    run.refused("read", "write", "child read")
    run.worked("inside", "child inside")
    assert run.denied("fs.open", world.outside / "secret.txt")
    for name in ("remove", "move", "another in its place", "mode"):
        assert name in run.attempts and not run.attempts[name].ok, f"{name}\n{run.explain()}"
    done = world.ask("trace", "verify", str(run.trace))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_agent_gains_nothing_from_the_socket(world: World) -> None:
    check(world, WORKSPACE)


def test_nor_where_every_unix_socket_is_granted(world: World) -> None:
    check(world, WORKSPACE + '\n[net]\nconnect = ["unix:/**"]\n')


def test_who_attaches_once_more_sheds_no_scope(world: World) -> None:
    (world.work / "a").mkdir()
    run = world.attack(
        """
import failcore, socket
@failcore.tool("only_a")
def narrowed():
    attempt("before", lambda: open(WORK + "/out", "w"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.settimeout(5)
        attempt("attach", lambda: (peer.connect(os.environ["FAILCORE_SOCKET"]), peer.send(b'{"attach":{}}'), peer.recv(1 << 16)))
    attempt("after", lambda: open(WORK + "/out", "w"))
    attempt("inside", lambda: open(WORK + "/a/in", "w").close())
narrowed()
attempt("outside of the tool", lambda: open(WORK + "/out", "w").close())
""",
        policy=WORKSPACE + '\n[[tool]]\nname = "only_a"\nfs.write = ["./work/a"]\n',
    )
    run.refused("before", "after")
    run.worked("inside", "outside of the tool")
