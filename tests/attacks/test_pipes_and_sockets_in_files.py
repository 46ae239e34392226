"""Named pipes and unix sockets: things with a name in the file system that are more than files."""

import os
import socket
import threading

from tests.conftest import WORKSPACE, World


def serve(path: str, got: list[bytes], secret: str) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    os.chmod(path.encode() if not path.startswith("\0") else b"/", 0o777) if not path.startswith(
        "\0"
    ) else None
    server.listen()

    def loop() -> None:
        while True:
            try:
                peer, _ = server.accept()
            except OSError:
                return
            got.append(path.encode())
            with peer:
                peer.sendall(secret.encode())

    threading.Thread(target=loop, daemon=True).start()
    return server


SCRIPT = """
import socket, _socket, array
out, inside, abstract = sys.argv[1:4]
abstract = "\\0" + abstract
def ask(path, make=socket.socket, kind=1):
    peer = make(socket.AF_UNIX, kind)
    peer.settimeout(5)
    peer.connect(path)
    return peer.recv(100)
attempt("unix outside", ask, out)
attempt("unix bytes", ask, os.fsencode(out))
attempt("unix _socket", ask, out, _socket.socket)
attempt("unix relative", ask, "../outside/socket")
os.symlink(out, "link")
attempt("unix through a link", ask, "link")
attempt("unix connect_ex", lambda: socket.socket(socket.AF_UNIX).connect_ex(out) == 0 or 1 / 0)
attempt("unix abstract", ask, abstract)
attempt("unix seqpacket", ask, out, socket.socket, socket.SOCK_SEQPACKET)
attempt("unix datagram", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", out))
attempt("unix datagram abstract", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", abstract))
attempt("unix bind outside", lambda: socket.socket(socket.AF_UNIX).bind(OUTSIDE + "/new"))
attempt("unix bind abstract", lambda: socket.socket(socket.AF_UNIX).bind(abstract + "-new"))
attempt("unix bind inside", lambda: socket.socket(socket.AF_UNIX).bind(WORK + "/bound"))
attempt("unix inside", ask, inside)
attempt("pair", lambda: [one.close() for one in socket.socketpair()])
attempt("asyncio", lambda: __import__("asyncio").run(__import__("asyncio").wait_for(__import__("asyncio").open_unix_connection(out), 5)))
"""


def test_unix_sockets(world: World) -> None:
    got: list[bytes] = []
    name = f"failcore-test-{os.getpid()}-{os.urandom(4).hex()}"
    servers = [
        serve(str(world.outside / "socket"), got, world.secret),
        serve("\0" + name, got, world.secret),
        serve(str(world.work / "mine"), [], "hello"),
    ]
    try:
        policy = WORKSPACE + '\n[net]\nconnect = ["unix:./work/*"]\nlisten = ["unix:./work/*"]\n'
        run = world.attack(
            SCRIPT, str(world.outside / "socket"), str(world.work / "mine"), name, policy=policy
        )
    finally:
        for server in servers:
            server.close()
    assert got == [], run.explain()
    run.worked("unix inside", "unix bind inside", "pair")
    for label, attempt in run.attempts.items():
        if label not in ("unix inside", "unix bind inside", "pair"):
            assert not attempt.ok, f"{label}\n{run.explain()}"
    run.refused("unix outside", "unix _socket", "unix through a link", "unix abstract", "unix bind outside")
    assert run.denied("ipc.connect", world.outside / "socket") and run.denied("ipc.connect", name)


def test_named_pipes(world: World) -> None:
    os.mkfifo(world.outside / "fifo")
    os.mkfifo(world.work / "fifo")
    world.hand_over()
    run = world.attack("""
attempt("read", lambda: os.open(OUTSIDE + "/fifo", os.O_RDONLY | os.O_NONBLOCK))
attempt("read and write", lambda: os.open(OUTSIDE + "/fifo", os.O_RDWR | os.O_NONBLOCK))
attempt("make outside", lambda: os.mkfifo(OUTSIDE + "/new"))
attempt("node outside", lambda: os.mknod(OUTSIDE + "/new"))
attempt("inside", lambda: os.open(WORK + "/fifo", os.O_RDWR | os.O_NONBLOCK))
attempt("make inside", lambda: os.mkfifo(WORK + "/made"))
import stat
attempt("device inside", lambda: os.mknod(WORK + "/null", stat.S_IFCHR | 0o666, os.makedev(1, 1)))
""")
    run.refused("read", "read and write", "make outside", "node outside")
    run.worked("inside", "make inside")
    assert (world.work / "made").is_fifo()
    assert run.denied("fs.create", world.outside / "new")
