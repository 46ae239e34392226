"""The memory that a process shares with its parent, written over: limits hold all the same under the supervisor."""

import errno
from collections.abc import Callable

from tests.conftest import WORKSPACE, Listener, World, only

POLICY = WORKSPACE + '\n[native]\nload = ["site-packages", "ctypes"]\n'
SCRIPT = """
import array, ctypes, socket, struct, threading, time
port = int(sys.argv[1])

# What the loaded hook maps, found by name ...
shared = [line.split() for line in open("/proc/self/maps") if "failcore-run" in line]
tell("mapped", len(shared))
starts = [int(line[0].split("-")[0], 16) for line in shared]
# ... and the same page asked for anew, as a descriptor, past the hook.
peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
at = struct.pack("=H", socket.AF_UNIX) + os.environ["FAILCORE_SOCKET"].encode() + b"\\0"
tell("dialled", ctypes.CDLL(None).connect(peer.fileno(), at, len(at)))
peer.send(b'{"attach":{}}')
data, ancillary, flags, _ = peer.recvmsg(1 << 18, 4096)
fds = [fd for _, _, packed in ancillary for fd in struct.unpack("%di" % (len(packed) // 4), packed)]
tell("given", len(fds))

# Imported before: whoever writes over the word that says whether the parent lives gets nothing recorded any more.
"name".encode("idna")
over = False
zeros = bytes(4096)
def scribble():
    while not over:
        for start in starts: ctypes.memmove(start, zeros, 64)
        for fd in fds[1:2]: os.pwrite(fd, zeros, 0)
threads = [threading.Thread(target=scribble) for n in range(2)]
for thread in threads: thread.start()
def dial():
    with socket.create_connection(("127.0.0.1", port), 5): pass
for n in range(8):
    attempt("connection %d" % n, dial)
    time.sleep(0.01)
opened = 0
try:
    while True: open("in.txt", "a").close(); opened += 1
except OSError as error:
    tell("then", error.errno)
over = True
for thread in threads: thread.join()
tell("opened", opened)
"""


@only("kernel")
def test_limits_hold_whatever_is_written_there(world: World, listen: Callable[..., Listener]) -> None:
    server = listen()
    limits = f'\n[net]\nconnect = ["127.0.0.1:{server.port}"]\n[limits]\nconnections = 3\noperations = 3000\n'
    run = world.run(SCRIPT, str(server.port), policy=POLICY + limits)
    assert "given" in run.attempts, run.explain()
    assert run.attempts["mapped"].value >= 1 and run.attempts["given"].value == 4, run.explain()
    run.worked("connection 0", "connection 1", "connection 2")
    # Whoever attaches anew hears the answers there, so that here they are plain errors.
    assert {run.attempts[f"connection {n}"].errno for n in range(3, 8)} == {errno.EDQUOT}, run.explain()
    assert run.attempts["then"].value == errno.EDQUOT, run.explain()
    assert 0 < run.attempts["opened"].value < 3000
    assert server.accepted == 3
    # Exactly as many as the policy says, however many workers decide.
    counted = [record for record in run.allowed() if record["request"]["context"]["lane"] != "broker"]
    assert len(counted) == 3000, (len(counted), run.explain())
