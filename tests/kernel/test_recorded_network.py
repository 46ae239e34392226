"""What others said to a recorded program is said to it again, with nobody there."""

import contextlib
import http.server
import itertools
import json
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import WORKSPACE, Run, World, only, records
from tests.kernel import test_clients as clients
from tests.kernel.test_carried import Net, authority, net, openssl  # noqa: F401 (fixtures)
from tests.kernel.test_recorded import RECORD, again, namespaces, same  # noqa: F401 (a fixture)

pytestmark = only("kernel")


def heard(run: Run) -> list[dict[str, Any]]:
    return [record for record in run.records if record["type"] == "heard"]


@pytest.mark.parametrize("client", [*clients.PYTHON, *clients.SHELL, "C", "static C"])
def test_a_client_hears_the_same_again(net: Net, client: str) -> None:  # noqa: F811
    run, _ = clients.fetch(net, client, options=RECORD)
    assert run.code == 0 and run.out.count("reached") == 3, run.explain()
    # The net is gone, and with it all who answered.
    same(run, again(net.world, run))


class Web(http.server.BaseHTTPRequestHandler):
    """Says something else each time."""

    protocol_version = "HTTP/1.1"
    count = itertools.count()

    def do_GET(self) -> None:
        body = f"{self.path} {next(self.count)}\n".encode() * (1000 if self.path == "/chunks" else 2)
        if self.path == "/secret":
            body = b"the key is sk-ant-api03-" + b"a1B2" * 23 + b"AA"
        if self.path == "/odd":
            self.send_response(404, "Gone Fishing")
        else:
            self.send_response(200)
        self.send_header("X-oDD-Case", "kept")
        if self.path == "/chunks":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for at in range(0, len(body), 999):
                piece = body[at : at + 999]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
            return
        if self.path == "/cut":
            self.send_header("Content-Length", str(len(body) + 1))
            self.close_connection = True
        elif self.path == "/until-the-end":
            self.close_connection = True
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(201)
        self.send_header("Content-Length", str(len(body) + 5))
        self.end_headers()
        self.wfile.write(b"%04d " % next(self.count) + body.upper())

    def log_message(self, *_: Any) -> None:
        pass


def words(peer: socket.socket) -> None:
    """A protocol of lines that is no HTTP."""
    with peer, peer.makefile("rwb", 0) as lines:
        for n, line in enumerate(lines):
            lines.write(b"+%d %s" % (n, line[::-1].strip() + b"\n"))


def greets(peer: socket.socket) -> None:
    """One where the server speaks first, and has the last word."""
    with peer, peer.makefile("rwb", 0) as lines:
        lines.write(b"220 welcome\n")
        lines.write(b"250 " + lines.readline())
        lines.readline()
        lines.write(b"221 bye\n")


@pytest.fixture
def others() -> Iterator[Callable[..., int]]:
    """Starts somebody on loopback who is gone by the end of the `with` that they are in."""
    with contextlib.ExitStack() as stack:

        def start(speak: Callable[[socket.socket], None], context: ssl.SSLContext | None = None) -> int:
            server = socket.create_server(("127.0.0.1", 0))
            stack.callback(server.close)
            stack.callback(server.shutdown, socket.SHUT_RDWR)

            def serve() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        threading.Thread(target=take, args=(server.accept()[0],), daemon=True).start()

            def take(peer: socket.socket) -> None:
                with contextlib.suppress(OSError):
                    speak(context.wrap_socket(peer, server_side=True) if context else peer)

            threading.Thread(target=serve, daemon=True).start()
            return int(server.getsockname()[1])

        start.close = stack.close  # type: ignore[attr-defined]
        yield start


def web(peer: socket.socket) -> None:
    with peer:
        Web(peer, peer.getpeername(), None)  # type: ignore[arg-type]


def granting(*ports: int) -> str:
    named = [f'"{host}:{port}"' for port in ports for host in ("127.0.0.1", "localhost")]
    return (
        WORKSPACE
        + f'\n[env]\npass = ["PATH", "HOME", "LANG", "SSL_CERT_FILE"]\n[net]\nconnect = [{", ".join(named)}]\n'
    )


HTTP = """
import http.client, urllib.error, urllib.request, sys, threading
base = f"http://127.0.0.1:{sys.argv[1]}"
peer = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
for method, path in [("GET", "/a"), ("HEAD", "/a"), ("GET", "/a?b=c"), ("GET", "/chunks"), ("GET", "/odd")]:
    peer.request(method, path)
    answer = peer.getresponse()
    print(answer.status, answer.reason, answer.getheaders(), answer.read())
for n in range(3):
    peer.request("POST", "/same", body=b"some words")
    print(peer.getresponse().read())
peer.request("POST", "/other", body=b"others " * 50_000)
print(peer.getresponse().read())
for path in "/cut", "/until-the-end":
    try: print(urllib.request.urlopen(base + path).read())
    except http.client.IncompleteRead as error: print("cut after", error.partial)
said = {}
def ask(n): said[n] = urllib.request.urlopen(f"{base}/thread/{n}").read()
threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sorted(said.items()))
"""


def test_requests_have_their_responses_again(world: World, others) -> None:
    port = others(web)
    run = world.run(HTTP, str(port), policy=granting(port), options=RECORD)
    assert run.code == 0 and "Gone Fishing" in run.out and "X-oDD-Case" in run.out, run.explain()
    assert "cut after" in run.out and b"/until-the-end" in run.out.encode(), run.explain()
    others.close()
    second = again(world, run)
    same(run, second)
    # Nothing but the record said it: without that it says nothing.
    assert len(heard(run)) > 20 and not heard(second)
    assert world.ask("diff", str(run.trace), str(second.trace)).returncode == 0


TALK = """
import asyncio, socket, sys
lines, greeter, nobody = map(int, sys.argv[1:])
with socket.create_connection(("127.0.0.1", lines)) as peer:
    for word in (b"PING\\n", b"SET a b\\n", b"x" * 200_000 + b"\\n"):
        peer.sendall(word)
        got = b""
        while not got.endswith(b"\\n"): got += peer.recv(65536)
        print(got)
with socket.create_connection(("127.0.0.1", greeter)) as peer, peer.makefile("rwb", 0) as words:
    print(words.readline())
    words.write(b"EHLO me\\n")
    print(words.readline())
    words.write(b"QUIT\\n")
    print(words.read())
async def talk():
    reader, writer = await asyncio.open_connection("127.0.0.1", lines)
    writer.write(b"a line\\n")
    print(await reader.readline())
    writer.close()
    try: await asyncio.open_connection("127.0.0.1", nobody)
    except OSError as error: print(error)
asyncio.run(talk())
try: socket.create_connection(("127.0.0.1", nobody))
except OSError as error: print(error)
"""


def test_conversations_of_other_protocols_are_played(world: World, others) -> None:
    lines, greeter = others(words), others(greets)
    with socket.create_server(("127.0.0.1", 0)) as server:
        nobody = server.getsockname()[1]
    ports = [lines, greeter, nobody]
    run = world.run(TALK, *map(str, ports), policy=granting(*ports), options=RECORD)
    assert "+0 GNIP" in run.out and "221 bye" in run.out and run.out.count("refused") == 2, run.explain()
    others.close()
    same(run, again(world, run))
    # Who says something else is somebody else.
    agent = world.work / "agent.py"
    agent.write_text(agent.read_text().replace("SET a b", "SET a c"))
    second = again(world, run, world.python, str(agent), *map(str, ports))
    assert second.code == 5, second.explain()
    assert f"diverged: conversation with 127.0.0.1:{lines} goes on in another way" in second.err


def test_another_request_is_named_and_goes_nowhere(world: World, others) -> None:
    port, asked = others(web), Web.count
    script = "import sys, urllib.request as web\nprint(web.urlopen(f'http://127.0.0.1:{sys.argv[1]}/report/1').read())"
    run = world.run(script, str(port), policy=granting(port), options=RECORD)
    assert run.code == 0, run.explain()
    before = repr(asked)
    agent = world.work / "agent.py"
    text = agent.read_text()
    for there, nearest in (("/report/2", "/report/1"), ("/report/1', b'words", "/report/1")):
        agent.write_text(text.replace("/report/1", there))
        second = again(world, run, world.python, str(agent), str(port))
        assert second.code == 5, second.explain()
        url = f"http://127.0.0.1:{port}"
        assert f"{url}{there.split(chr(39))[0]} with a body of" in second.err, second.err
        assert f"most like it is GET {url}{nearest} with" in second.err and "at agent.py:" in second.err
    # More often than it was asked is another run too.
    agent.write_text(text + "\n" + text.splitlines()[-1])
    second = again(world, run, world.python, str(agent), str(port))
    assert second.code == 5 and "once, and not again" in second.err, second.explain()
    assert repr(asked) == before


def test_a_secret_that_was_heard_is_not_kept(world: World, others) -> None:
    port = others(web)
    script = "import sys, urllib.request as web\nprint(len(web.urlopen(f'http://127.0.0.1:{sys.argv[1]}/secret').read()))"
    run = world.run(script, str(port), policy=granting(port), options=RECORD)
    assert run.code == 0, run.explain()
    kept = b"".join(file.read_bytes() for file in run.trace.rglob("*") if file.is_file())
    assert b"a1B2a1B2" not in kept
    assert [one["payload"]["kept"] for one in heard(run) if "payload" in one] == [False]
    second = again(world, run)
    assert second.code == 5 and "there is a secret in it" in second.err, second.explain()


@pytest.fixture
def certified(world: World) -> Path:
    """A certificate of an authority that only some believe, for localhost and 127.0.0.1."""
    files = world.work / "tls"
    files.mkdir()
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=here"]
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-days", "30", cwd=files)
    openssl("req", *new, "-keyout", "key.pem", "-out", "request.pem", cwd=files)
    (files / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names", "-days", "30"]
    openssl("x509", "-req", "-in", "request.pem", "-out", "cert.pem", *signed, cwd=files)
    world.hand_over()
    return files


def server_side(files: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files / "cert.pem", files / "key.pem")
    return context


def test_tls_is_opened_to_be_kept(world: World, others, certified: Path) -> None:
    port, lines = others(web, server_side(certified)), others(words, server_side(certified))
    script = """
import socket, ssl, sys, urllib.request as web
for host in "localhost", "127.0.0.1":
    answer = web.urlopen(f"https://{host}:{sys.argv[1]}/a")
    print(answer.headers["X-oDD-Case"], answer.read())
peer = ssl.create_default_context().wrap_socket(socket.create_connection(("127.0.0.1", int(sys.argv[2]))), server_hostname="localhost")
peer.sendall(b"hello\\n")
print(peer.recv(100), peer.version())
"""
    policy = granting(port, lines)
    env = {"SSL_CERT_FILE": str(certified / "ca.pem")}
    run = world.run(script, str(port), str(lines), policy=policy, options=RECORD, env=env)
    assert run.code == 0 and "+0 olleh" in run.out, run.explain()
    others.close()
    same(run, again(world, run))


def test_tls_that_cannot_be_opened_passes_and_ends_the_second_run(
    world: World, others, certified: Path
) -> None:
    port = others(web, server_side(certified))
    # It believes nobody but this one, whatever it is told.
    script = f"""
import ssl, sys, urllib.request as web
for _ in range(2):
    try: print(web.urlopen("https://localhost:{port}/a", context=ssl.create_default_context(cafile={str(certified / "ca.pem")!r})).status)
    except OSError as error: print("not believed")
"""
    policy = granting(port)
    # Whom the owner does not believe either, nobody here could speak with in its place.
    run = world.run(script, policy=policy, options=RECORD)
    assert run.out == "200\n200\n", run.explain()
    assert any("passed as it is" in str(record.get("text")) for record in run.records)
    second = again(world, run)
    assert second.code == 5 and "TLS with localhost" in second.err and "not in the record" in second.err
    # Whom the owner believes is spoken with, and the program takes us for somebody else, once.
    run = world.run(script, policy=policy, options=RECORD, env={"SSL_CERT_FILE": str(certified / "ca.pem")})
    assert run.out == "not believed\n200\n", run.explain()
    second = again(world, run)
    assert second.code == 5 and "not in the record" in second.err, second.explain()


NODE = r"""
const fs = require('fs'), http = require('http'), { execFileSync } = require('child_process');
const { Worker, isMainThread, parentPort } = require('worker_threads');
// The loop asks the clock that only goes on as often as something wakes it, so that is told before anything is waited for.
const ticks = () => [performance.now(), process.hrtime.bigint(), process.uptime()];
const date = () => [Date.now(), new Date().toISOString()];
if (!isMainThread) return parentPort.postMessage(date());
const [port, dir] = process.argv.slice(2);
console.log(ticks(), date(), fs.readFileSync(dir + '/data.txt', 'utf8'), fs.readdirSync(dir), fs.statSync(dir + '/data.txt').mtime);
console.log(execFileSync('/bin/date', ['+%s.%N'], { encoding: 'utf8' }));
http.get({ host: '127.0.0.1', port, path: '/chunks' }, reply => {
  let heard = '';
  reply.on('data', piece => heard += piece).on('end', () => {
    console.log(reply.headers, heard.length, date());
    new Worker(__filename).on('message', said => {
      console.log(said);
      setTimeout(() => console.log('later', date()), 30);
    });
  });
});
"""


def test_node_says_what_it_said(world: World, others) -> None:
    if not shutil.which("node"):
        pytest.skip("there is no node")
    port = others(web)
    (world.work / "data.txt").write_text("here")
    (world.work / "main.js").write_text(NODE)
    policy = f"""
version = 1
extends = ["preset:native"]
[fs]
read = ["./work", "/usr/share/nodejs", "/usr/share/node_modules"]
[process]
exec = ["node", "/bin/date"]
[net]
connect = ["127.0.0.1:{port}"]
"""
    argv = ["node", str(world.work / "main.js"), str(port), str(world.work)]
    run = world.run("", argv=argv, policy=policy, options=RECORD)
    assert run.code == 0 and "later" in run.out, run.explain()
    shutil.rmtree(world.work)
    world.work.mkdir()
    same(run, again(world, run))


def test_another_response_is_put_in_place_of_what_was_heard(world: World, others) -> None:
    port = others(web)
    script = (
        "import sys, urllib.request as web\nprint(web.urlopen(f'http://127.0.0.1:{sys.argv[1]}/a').read())"
    )
    run = world.run(script, str(port), policy=granting(port), options=RECORD)
    (seq,) = [one["seq"] for one in heard(run) if "request" in one["asked"]]
    to = str(world.base / "set")
    second = world.ask("replay", str(run.trace), "--set", f"{seq}=another answer", "--trace", to)
    assert (second.returncode, second.stdout) == (0, "b'another answer'\n"), second.stderr


def test_what_is_let_happen_happens_and_nothing_else(world: World, others, certified: Path) -> None:
    plain, secure, lines = others(web), others(web, server_side(certified)), others(words)
    (world.work / "live.txt").write_text("then")
    (world.work / "kept.txt").write_text("then")
    script = f"""
import socket, urllib.request as web
print(web.urlopen("http://127.0.0.1:{plain}/a").read())
print(web.urlopen("https://localhost:{secure}/b").read())
with socket.create_connection(("127.0.0.1", {lines})) as peer:
    peer.sendall(b"hello\\n")
    print(peer.recv(100))
print(open(WORK + "/live.txt").read(), open(WORK + "/kept.txt").read())
with open(WORK + "/live.txt", "a") as file: file.write(" and after")
with open(WORK + "/kept.txt", "a") as file: file.write(" and after")
"""
    policy = f"""
version = 1
extends = ["preset:python"]
[fs]
read = ["./work/agent.py"]
write = [{{ path = "./work/live.txt", id = "live" }}, "./work/kept.txt"]
[env]
pass = ["PATH", "HOME", "LANG", "SSL_CERT_FILE"]
[net]
connect = ["127.0.0.1:{plain}", "localhost:{secure}", "127.0.0.1:{secure}", "127.0.0.1:{lines}"]
http = ["GET localhost:{secure}/**"]
"""
    env = {"SSL_CERT_FILE": str(certified / "ca.pem")}
    run = world.run(script, policy=policy, options=RECORD, env=env)
    assert run.code == 0, run.explain()
    for file in ("live.txt", "kept.txt"):
        (world.work / file).write_text("now")
    world.hand_over()

    def replay(*live: str) -> list[str]:
        world.runs += 1
        options = [word for rule in live for word in ("--live", rule)]
        to = str(world.base / f"again-{world.runs}")
        done = subprocess.run(
            [*world.as_user, world.failcore, "replay", str(run.trace), "--trace", to, *options],
            env=world.environ(env), cwd=world.base, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        coverage = json.dumps(records(Path(to))[0])
        assert ("nothing outside is reached, whatever is decided" in coverage) == (not live)
        assert ("but by these rules, by which it really is: " in coverage) == bool(live)
        return done.stdout.splitlines()

    then = run.out.splitlines()
    assert replay() == then
    for live, differ in [
        (["net.connect[0]"], {0}),
        (["policy.toml#net.http[0]"], {1}),
        (["net.connect[1]", "net.connect[2]"], {1}),
        (["net.connect[3]"], set()),
        (["net.connect[0]", "net.http[0]"], {0, 1}),
    ]:
        now = replay(*live)
        assert {n for n in range(len(then)) if now[n] != then[n]} == differ, (live, now)
    assert (world.work / "live.txt").read_text() == (world.work / "kept.txt").read_text() == "now"
    assert replay("live")[3] == "now then"
    assert (world.work / "live.txt").read_text() == "now and after"
    assert (world.work / "kept.txt").read_text() == "now"
    nowhere = world.ask("replay", str(run.trace), "--live", "net.connect[9]")
    assert nowhere.returncode == 126 and "no rule `net.connect[9]`" in nowhere.stderr, nowhere.stderr
