"""Many connections at once, peers that are slow or hostile, and clients that try both families of addresses."""

import json
import resource
import shutil
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.conftest import WORKSPACE, World, only
from tests.kernel.test_names import OTHER, PORT, PUBLIC, lan

pytestmark = only("kernel")

MANY = 1000


class Crowd:
    """Answers nobody until so many are there."""

    def __init__(self, size: int) -> None:
        self.size, self.most = size, 0
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port: int = self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        peers = []
        while len(peers) < self.size:
            peers.append(self.socket.accept()[0])
            self.most = len(peers)
        for peer in peers:
            peer.sendall(b"all")
            peer.close()


@pytest.fixture
def many_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 4 * MANY:
        pytest.skip("this machine lets nobody open so many files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4 * MANY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("how", ["asyncio", "threads"])
def test_a_thousand_at_once(world: World, many_files: None, how: str) -> None:
    crowd = Crowd(MANY)
    run = world.run(
        """
import asyncio, socket, threading
port, many, how = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
answers = []
async def one():
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answers.append(await reader.read())
    writer.close()
async def all_of_them():
    await asyncio.gather(*[one() for _ in range(many)])
def blocking():
    with socket.create_connection(("127.0.0.1", port)) as peer:
        answers.append(peer.recv(10))
if how == "asyncio":
    asyncio.run(all_of_them())
else:
    threading.stack_size(1 << 18)
    threads = [threading.Thread(target=blocking) for _ in range(many)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
tell("answers", [len(answers), answers.count(b"all")])
""",
        str(crowd.port),
        str(MANY),
        how,
        policy=f'{WORKSPACE}[net]\nconnect = ["127.0.0.1:{crowd.port}"]\n',
    )
    assert crowd.most == MANY, run.explain()
    assert run.attempts["answers"].value == [MANY, MANY], run.explain()
    # One decision each, and none lost.
    assert len(run.allowed("net.connect", f'"port": {crowd.port}')) == MANY


def test_who_never_answers_holds_nobody_up(world: World) -> None:
    """A hundred threads wait for peers that drop whatever comes; others connect and look names up meanwhile."""
    silent = [f"93.184.216.{n}" for n in range(1, 5)]
    policy = f'{WORKSPACE}[net]\nconnect = ["good.example:{PORT}", "93.184.216.0/24:{PORT}"]\n'
    run = world.run(
        f"""
import socket, threading, time
def hang(address):
    with socket.socket() as peer:
        peer.connect((address, {PORT}))
for n in range(100):
    threading.Thread(target=hang, args=({silent!r}[n % 4],), daemon=True).start()
time.sleep(0.5)
begun, worst = time.monotonic(), 0
for _ in range(50):
    before = time.monotonic()
    with socket.create_connection(("good.example", {PORT}), 10) as peer:
        peer.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        assert b"page of" in peer.recv(1000)
    worst = max(worst, time.monotonic() - before)
tell("worst", worst)
tell("hanging", threading.active_count() - 1)
os._exit(0)
""",
        policy=policy,
        before=lan(world, silent=silent),
    )
    assert run.attempts["hanging"].value == 100, run.explain()
    assert run.attempts["worst"].value < 5, run.explain()


def test_askers_that_never_finish_their_question_hold_nobody_up(world: World) -> None:
    """More streams to the name broker than it serves, each with half a question; names are found all the same."""
    run = world.run(
        f"""
import socket, time
slow = []
for n in range(100):
    peer = socket.create_connection(("9.9.9.9", 53), 5)
    try: peer.sendall(b"\\0")
    except OSError: pass
    slow.append(peer)
before = time.monotonic()
for _ in range(20):
    attempt("look up", socket.getaddrinfo, "good.example", 80)
tell("took", time.monotonic() - before)
def closed(peer):
    peer.settimeout(20)
    try: return peer.recv(1) == b""
    except ConnectionError: return True
tell("closed", sum(closed(peer) for peer in slow))
""",
        policy=f'{WORKSPACE}[net]\nconnect = ["good.example:{PORT}"]\n',
        before=lan(world),
    )
    run.worked("look up")
    assert run.attempts["took"].value < 10, run.explain()
    assert run.attempts["closed"].value == 100, "each ends, those that it had no room for at once"


def test_peers_that_are_hostile(world: World) -> None:
    """Resets, garbage and floods are the program's to bear: it gets what it would have got, and the run goes on."""
    server = socket.create_server(("127.0.0.1", 0))
    port: int = server.getsockname()[1]

    def serve() -> None:
        for n in range(30):
            peer, _ = server.accept()
            if n % 3 == 0:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            elif n % 3 == 1:
                peer.sendall(bytes(range(256)) * 4096)
            else:
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
            peer.close()

    threading.Thread(target=serve, daemon=True).start()
    run = world.run(
        """
import socket
port, outcomes = int(sys.argv[1]), []
for _ in range(30):
    try:
        with socket.create_connection(("127.0.0.1", port), 10) as peer:
            got = 0
            while more := peer.recv(65536): got += len(more)
            outcomes.append(got)
    except ConnectionError as error:
        outcomes.append(type(error).__name__)
tell("outcomes", outcomes)
attempt("still refused", lambda: socket.create_connection(("127.0.0.1", 9), 5))
""",
        str(port),
        policy=f'{WORKSPACE}[net]\nconnect = ["127.0.0.1:{port}"]\n',
    )
    outcomes = run.attempts["outcomes"].value
    assert outcomes[1::3] == [256 * 4096] * 10 and set(outcomes[0::3]) <= {0, "ConnectionResetError"}, (
        run.explain()
    )
    run.refused("still refused")


SIX, SILENT_SIX, GONE_SIX = "2606:4700::1111", "2606:4700::2222", "2606:4700::3333"
FAMILIES = {
    "both.example": [[SIX, PUBLIC]],
    "silent6.example": [[SILENT_SIX, PUBLIC]],
    "gone6.example": [[GONE_SIX, PUBLIC]],
    "silent4.example": [[SIX, "93.184.216.1"]],
    "only6.example": [[SIX]],
    "inside6.example": [["::1", "fd00:ec2::254", PUBLIC]],
}
BOTH = {"names": FAMILIES, "quiet": [SIX, GONE_SIX], "web": [SIX], "silent": [SILENT_SIX, "93.184.216.1"]}
HAPPY = (
    f'{WORKSPACE}[net]\nconnect = ["*.example:{PORT}", '
    + ", ".join(f'"{name}:{PORT}"' for name in FAMILIES)
    + "]\n"
)
HAPPY = HAPPY.replace(f'"*.example:{PORT}", ', "")


def test_happy_eyeballs_of_asyncio(world: World) -> None:
    run = world.run(
        f"""
import asyncio, time
async def dial(name):
    reader, writer = await asyncio.wait_for(asyncio.open_connection(name, {PORT}, happy_eyeballs_delay=0.1), 10)
    writer.write(b"GET / HTTP/1.0\\r\\n\\r\\n")
    page = await reader.read()
    writer.close()
    return page.decode().rsplit(None, 1)[-1]
for name in {list(FAMILIES)!r}:
    before = time.monotonic()
    attempt(name, lambda: asyncio.run(dial(name)))
    tell(name + " took", time.monotonic() - before)
""",
        policy=HAPPY,
        before=lan(world, **BOTH),
    )
    expected = {
        "both.example": {SIX, PUBLIC},
        "silent6.example": {PUBLIC},
        "gone6.example": {PUBLIC},
        "silent4.example": {SIX},
        "only6.example": {SIX},
        "inside6.example": {PUBLIC},
    }
    run.worked(*FAMILIES)
    for name, pages in expected.items():
        assert run.attempts[name].value.strip("'") in pages, run.explain()
        assert run.attempts[f"{name} took"].value < 5, run.explain()
    # Each attempt is a connect of its own, judged by the name that both addresses have.
    assert run.allowed("net.connect", SILENT_SIX) and run.allowed("net.connect", GONE_SIX)


@pytest.mark.parametrize("name", FAMILIES)
def test_happy_eyeballs_of_curl(world: World, name: str) -> None:
    if not shutil.which("curl"):
        pytest.skip("there is no curl")
    policy = HAPPY + '[process]\nexec = ["curl *"]\n'
    begun = time.monotonic()
    run = world.run(
        "",
        argv=["curl", "-q", "-sS", "--max-time", "10", f"http://{name}:{PORT}/"],
        policy=policy,
        before=lan(world, **BOTH),
    )
    assert run.out.startswith("page of "), run.explain()
    assert time.monotonic() - begun < 8
    seen = json.loads((world.base / "net-report.json").read_text())
    assert seen["reached"]["127.0.0.1"] == 0 and seen["reached"].get(OTHER, 0) == 0
