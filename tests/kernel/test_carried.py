"""Carried connections: requests are judged before any server hears of them, by whatever client they are made.

All happens in a private internet, with servers on addresses that look public and certificates of an authority that the
owner of the run trusts, and the programs only through the run's own.
"""

import json
import secrets
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run, World, only, wait_for
from tests.kernel.test_names import lan

pytestmark = only("kernel")

API, OTHER, PLAIN = "93.184.215.14", "93.184.215.15", "93.184.215.16"
HOSTS = {
    "api.test": API,
    "shared.test": API,
    "other.test": OTHER,
    "direct.test": OTHER,
    "plain.test": PLAIN,
    "old.test": PLAIN,
    "closed.test": API,
}
SECRET = "sk-carried-" + "5f1d7c" * 6

POLICY = """
version = 1
extends = ["preset:python"]
[fs]
write = ["./work"]
read = ["/etc/alternatives", "/usr/share/nodejs", "/etc/ssl", "/usr/share/git-core", "/etc/gitconfig", "/etc/node"]
[process]
exec = ["curl", "git", "/usr/lib/git-core/*", "/usr/local/libexec/git-core/*", "node", "/bin/sh"]
[env]
pass = ["PATH", "HOME", "LANG", "API_KEY", "HTTPS_PROXY"]
[native]
load = ["site-packages"]
[net]
connect = [{ host = "plain.test:443", carry = true }, "direct.test:443", { host = "old.test:80", carry = true }]
http = [
    "GET,HEAD api.test/repos/**",
    "POST api.test/repos/*/issues",
    "GET api.test/{events,socket}",
    "GET api.test/events/*",
    "GET api.test/big/*",
    "GET api.test/files/**",
    "GET closed.test:444/**",
    "GET untrusted.test:8443/**",
]
"""


@dataclass
class Net:
    """A private internet, and what was asked there."""

    world: World
    files: Path
    policy: str = POLICY
    env: dict[str, str] = field(default_factory=dict)

    def command(self) -> list[str]:
        """What a run in it begins with."""
        sites = [
            {"address": API, "port": 443, **self.pair("site")},
            {"address": OTHER, "port": 443, **self.pair("site")},
            {"address": PLAIN, "port": 443, **self.pair("site")},
            {"address": PLAIN, "port": 80},
            {"address": PLAIN, "port": 3128, "proxy": True},
            {"address": OTHER, "port": 8443, **self.pair("foreign")},
        ]
        config = {"log": str(self.files / "log"), "root": str(self.files / "root"), "sites": sites}
        (self.files / "servers.json").write_text(json.dumps(config))
        upstream = [
            sys.executable,
            str(Path(__file__).parent / "tls_upstream.py"),
            str(self.files / "servers.json"),
        ]
        names = {name: [[address]] for name, address in [*HOSTS.items(), ("untrusted.test", OTHER)]}
        return lan(self.world, names=names, addresses=[API, OTHER, PLAIN], servers=[upstream])

    def pair(self, name: str) -> dict[str, str]:
        return {"cert": str(self.files / f"{name}.pem"), "key": str(self.files / f"{name}.key")}

    def run(self, script: str, *args: str, argv: list[str] | None = None, **more: Any) -> Run:
        env = {"SSL_CERT_FILE": str(self.files / "ca.pem"), **self.env, **more.pop("env", {})}
        (self.files / "log").write_text("")
        before = self.command()
        return self.world.run(script, *args, argv=argv, policy=self.policy, before=before, env=env, **more)

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.files / "log").read_text().splitlines()]

    @property
    def asked(self) -> list[dict[str, Any]]:
        """Requests that reached a server."""
        return [line for line in self.log if "path" in line]


def openssl(*arguments: str, cwd: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=cwd, check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority that the owner trusts and another one, and a certificate of each for all hosts."""
    if not shutil.which("openssl"):
        pytest.skip("there is no openssl")
    files = tmp_path_factory.mktemp("authority")
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
    ca = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    for ca_name, name in [("ca", "site"), ("strange", "foreign")]:
        openssl(
            "req",
            "-x509",
            *new,
            "-keyout",
            f"{ca_name}.key",
            "-out",
            f"{ca_name}.pem",
            "-subj",
            f"/CN={ca_name}",
            *ca,
            cwd=files,
        )
        openssl(
            "req", *new[:-2], "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", "/CN=test", cwd=files
        )
        hosts = ",".join(f"DNS:{host}" for host in [*HOSTS, "untrusted.test"])
        (files / "ext").write_text(f"subjectAltName={hosts}\nbasicConstraints=CA:FALSE\n")
        signed = ["-CA", f"{ca_name}.pem", "-CAkey", f"{ca_name}.key", "-CAcreateserial", "-extfile", "ext"]
        openssl(
            "x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", "-days", "30", *signed, cwd=files
        )
    return files


@pytest.fixture
def net(world: World, authority: Path) -> Net:
    files = world.base / "net"
    shutil.copytree(authority, files)
    (files / "root").mkdir()
    return Net(world, files)


def values(run: Run) -> dict[str, Any]:
    """What came of the attempts of a run that came to its end."""
    assert run.code == 0, run.explain()
    return {name: attempt.value for name, attempt in run.attempts.items()}


URLLIB = """
import urllib.request, urllib.error
def ask(url, method="GET", data=None, headers={}):
    request = urllib.request.Request(url, data=data, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
"""


def test_requests_are_judged_before_they_leave(net: Net) -> None:
    run = net.run(
        URLLIB
        + """
tell("granted", ask("https://api.test/repos/a/b?page=2"))
tell("path", ask("https://api.test/user"))
tell("method", ask("https://api.test/repos/a", "DELETE"))
tell("issue", ask("https://api.test/repos/a/issues", "POST", b"title=x"))
tell("deeper", ask("https://api.test/repos/a/b/issues", "POST", b"title=x"))
attempt("name", ask, "https://other.test/repos/a")
"""
    )
    said = values(run)
    assert said["granted"][0] == 200 and json.loads(said["granted"][1])["path"] == "/repos/a/b?page=2", (
        run.explain()
    )
    assert said["issue"][0] == 200 and json.loads(said["issue"][1])["body"] == "title=x"
    for name, line in [
        ("path", "GET api.test/user"),
        ("method", "DELETE api.test/repos/a"),
        ("deeper", "POST api.test/repos/a/b/issues"),
    ]:
        status, text = said[name]
        assert status == 403 and "net.http" in text and f'to permit: [net] http = ["{line}"]' in text, text
        assert "permitted there: GET,HEAD api.test/repos/**" in text, text
    assert not run.attempts["name"].ok
    assert [one["path"] for one in net.asked] == ["/repos/a/b?page=2", "/repos/a/issues"], net.asked
    requests = run.decided("net.http")
    assert [record["decision"]["verdict"] for record in requests] == [
        "allow",
        "deny",
        "deny",
        "allow",
        "deny",
    ]
    assert {record["request"]["context"]["addresses"][0] for record in requests} == {API}
    connects = run.allowed("net.connect", API)
    assert connects and all(record["decision"]["obligations"] == ["carry"] for record in connects), (
        run.explain()
    )
    assert all("api.test" in record["request"]["context"]["names"] for record in connects)
    opened = run.records[0]["coverage"]
    assert {"verb": "net.http", "hold": "binding", "by": "relay"} in opened["verbs"], opened
    assert any("api.test/repos" in note for note in opened["notes"]), opened["notes"]


CLIENTS: dict[str, str] = {
    "urllib": URLLIB + "get = lambda url: ask(url)[1]",
    "requests": "import requests\nget = lambda url: requests.get(url, timeout=20).text",
    "httpx": "import httpx\nget = lambda url: httpx.get(url, timeout=20).text",
    "httpx http2": "import httpx\nclient = httpx.Client(http2=True, timeout=20)\nget = lambda url: client.get(url).text",
    "aiohttp": """
import aiohttp, asyncio
async def fetch(url):
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.text()
get = lambda url: asyncio.run(fetch(url))
""",
}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_python_client(net: Net, client: str) -> None:
    if client != "urllib" and net.world.prefix != Path(sys.prefix):
        pytest.skip("the interpreter that an ordinary user may read here has no such libraries")
    run = net.run(
        CLIENTS[client]
        + """
tell("granted", get("https://api.test/repos/a"))
tell("refused", get("https://api.test/user"))
tell("again", get("https://api.test/repos/b"))
tell("plain", get("https://plain.test/anything"))
"""
    )
    said = values(run)
    protocol = "HTTP/2" if client.endswith("http2") else "HTTP/1.1"
    assert json.loads(said["granted"])["protocol"] == protocol, run.explain()
    assert json.loads(said["again"])["path"] == "/repos/b"
    assert "refused" in said["refused"] and "[net] http" in said["refused"], said["refused"]
    assert json.loads(said["plain"])["path"] == "/anything"
    assert [one["path"] for one in net.asked] == ["/repos/a", "/repos/b", "/anything"], net.asked


@pytest.mark.parametrize("options", ["--http1.1", "--http2"])
def test_curl(net: Net, options: str) -> None:
    if not shutil.which("curl"):
        pytest.skip("there is no curl")
    script = net.world.work / "ask.sh"
    script.write_text(f"""
ask() {{ curl -s {options} -o - -w ' %{{http_code}}\\n' "$@"; }}
ask https://api.test/repos/a
ask https://api.test/user
ask -X POST -d title=x https://api.test/repos/a/issues
ask --data-binary @big https://api.test/repos/a/issues
ask -I https://api.test/repos/a
""")
    (net.world.work / "big").write_bytes(b"y" * 3_000_000)
    run = net.run("", argv=["/bin/sh", str(script)])
    codes = [line.rsplit(" ", 1)[-1] for line in run.out.splitlines() if line.rsplit(" ", 1)[-1].isdigit()]
    assert codes[-5:] == ["200", "403", "200", "200", "200"] or "403" in codes, run.explain()
    assert [one["length"] for one in net.asked] == [0, 7, 3_000_000, 0], run.explain()
    assert {one["protocol"] for one in net.asked} == {"HTTP/2" if options == "--http2" else "HTTP/1.1"}


def test_git(net: Net) -> None:
    if not shutil.which("git"):
        pytest.skip("there is no git")
    there = net.files / "there"
    me = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (
        ["init", "-q", str(there)],
        ["-C", str(there), *me, "commit", "-q", "--allow-empty", "-m", "first"],
        ["clone", "-q", "--bare", str(there), str(net.files / "root" / "repo.git")],
        ["-C", str(net.files / "root" / "repo.git"), "update-server-info"],
    ):
        subprocess.run(["git", *command], check=True, capture_output=True, timeout=60)
    net.policy = POLICY.replace('"LANG",', '"LANG", "GIT_TEMPLATE_DIR",')
    script = net.world.work / "clone.sh"
    script.write_text(
        "git clone -q https://api.test/files/repo.git copy && git -C copy log --format=%s\n"
        "git clone -q https://api.test/private/repo.git none || echo refused $?\n"
    )
    run = net.run("", argv=["/bin/sh", str(script)], env={"GIT_TEMPLATE_DIR": ""})
    assert run.out.splitlines() == ["first", "refused 128"], run.explain()
    assert "403" in run.err, run.explain()
    assert all(one["path"].startswith("/files/repo.git/") for one in net.asked)


GIT = """
me="-c user.name=a -c user.email=a@b"
git clone -q https://$1/git/repo.git copy && git -C copy log --format=%s
git -C copy $me commit -q --allow-empty -m second && git -C copy push -q origin HEAD && echo pushed || echo refused $?
git -C copy fetch -q && echo fetched
"""


@pytest.mark.parametrize("host", ["api.test", "direct.test"])
def test_git_by_its_smart_protocol(net: Net, host: str) -> None:
    """What a rule permits of it, which is to fetch; and all of it where the host is granted as it is."""
    if not shutil.which("git"):
        pytest.skip("there is no git")
    there, bare = net.files / "there", net.files / "root" / "repo.git"
    me = ["-c", "user.name=a", "-c", "user.email=a@b"]
    (net.files / "there").mkdir()
    (net.files / "there" / "large").write_bytes(secrets.token_bytes(3_000_000))
    for command in (
        ["init", "-q", str(there)],
        ["-C", str(there), "add", "."],
        ["-C", str(there), *me, "commit", "-q", "-m", "first"],
        ["clone", "-q", "--bare", str(there), str(bare)],
        ["-C", str(bare), "config", "http.receivepack", "true"],
    ):
        subprocess.run(["git", *command], check=True, capture_output=True, timeout=60)
    fetches = '"GET api.test/git/repo.git/info/refs", "POST api.test/git/repo.git/git-upload-pack",'
    net.policy = POLICY.replace('"LANG",', '"LANG", "GIT_TEMPLATE_DIR",').replace(
        "http = [", f"http = [{fetches}"
    )
    script = net.world.work / "git.sh"
    script.write_text(GIT)
    run = net.run("", argv=["/bin/sh", str(script), host], env={"GIT_TEMPLATE_DIR": ""})
    carried = host == "api.test"
    assert run.out.splitlines() == ["first", "refused 1" if carried else "pushed", "fetched"], run.explain()
    known = subprocess.run(
        ["git", "-c", "safe.directory=*", "-C", str(bare), "log", "--all", "--format=%s"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert known.stdout.split() == (["first"] if carried else ["second", "first"])
    packs = {one["path"].rsplit("/", 1)[-1] for one in net.asked if one["method"] == "POST"}
    assert packs == ({"git-upload-pack"} if carried else {"git-upload-pack", "git-receive-pack"})
    if carried:
        assert "403" in run.err, run.explain()
        assert (
            len(run.denied("net.http", "/git/repo.git/git-receive-pack")) == len(run.denied("net.http")) > 0
        )


def test_node(net: Net) -> None:
    if not shutil.which("node"):
        pytest.skip("there is no node")
    script = net.world.work / "ask.mjs"
    script.write_text("""
for (const path of ["repos/a", "user"]) {
  const answer = await fetch("https://api.test/" + path);
  console.log(answer.status, (await answer.text()).length > 0);
}
""")
    run = net.run("", argv=["node", str(script)])
    assert run.out.splitlines() == ["200 true", "403 true"], run.explain()
    assert [one["path"] for one in net.asked] == ["/repos/a"]


def test_what_is_streamed_is_not_gathered(net: Net) -> None:
    run = net.run("""
import http.client, time
peer = http.client.HTTPSConnection("api.test", timeout=20)
peer.request("GET", "/events")
answer = peer.getresponse()
late = []
while line := answer.readline():
    if line.startswith(b"data: "):
        late.append(time.time() - float(line.split()[2]))
tell("late", late)
peer.request("GET", "/big/50000000")
answer, size = peer.getresponse(), 0
while piece := answer.read(65536):
    size += len(piece)
tell("size", size)
""")
    late = run.attempts["late"].value
    # Gathered, the first would come with the last, 0.8 seconds later.
    assert len(late) == 5 and max(late) < 0.5, run.explain()
    assert run.attempts["size"].value == 50_000_000


def test_a_websocket_is_judged_once(net: Net) -> None:
    run = net.run("""
import socket, ssl
def open_socket(path):
    raw = ssl.create_default_context().wrap_socket(socket.create_connection(("api.test", 443), 20), server_hostname="api.test")
    raw.sendall(f"GET {path} HTTP/1.1\\r\\nHost: api.test\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\nSec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n\\r\\n".encode())
    head = b""
    while b"\\r\\n\\r\\n" not in head:
        head += raw.recv(4096)
    return raw, head.decode()
raw, head = open_socket("/socket")
tell("head", head)
for n in range(3):
    raw.sendall(b"\\x00 not http \\n" + bytes([n]))
    tell(f"echo {n}", raw.recv(4096).decode())
tell("refused", open_socket("/private")[1])
""")
    head = run.attempts["head"].value
    assert head.startswith("HTTP/1.1 101") and "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head, run.explain()
    assert [run.attempts[f"echo {n}"].value for n in range(3)] == [
        f"\x00 not http \n{chr(n)}" for n in range(3)
    ]
    assert run.attempts["refused"].value.startswith("HTTP/1.1 403"), run.explain()
    assert len(run.allowed("net.http")) == 1 and len(run.denied("net.http")) == 1


EVENTS = """
import http.client
peer = http.client.HTTPSConnection(sys.argv[1], timeout=40)
peer.request("GET", sys.argv[2])
answer, seen = peer.getresponse(), 0
tell("status", answer.status)
try:
    while line := answer.readline():
        if line.startswith(b"data: "):
            assert int(line.split()[1]) == seen, (line, seen)
            seen += 1
            open("ready", "w").close()
except (OSError, http.client.HTTPException):
    pass  # it was cut, which some take for the end
tell("seen", seen)
"""


def unread(pid: int, address: str) -> int:
    """Bytes that came from there to sockets in a process's network, and that nobody took yet."""
    octets = "".join(f"{int(octet):02X}" for octet in reversed(address.split(".")))
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return sum(int(row[4].split(":")[1], 16) for row in rows if row[2] == f"{octets}:01BB")


@pytest.mark.parametrize("host", ["api.test", "plain.test"])
def test_a_pause_holds_what_is_carried(net: Net, host: str) -> None:
    """Opened, and passed on: while the run stands still nothing is taken from the server, and nothing is lost."""
    (net.files / "log").write_text("")
    address = HOSTS[host]
    with net.world.under_way(
        EVENTS,
        host,
        "/events/30",
        policy=net.policy,
        before=["setsid", "--wait", *net.command()],
        env={"SSL_CERT_FILE": str(net.files / "ca.pem")},
    ) as run:
        run.ready()
        pid = int((run.status() or {})["pid"])
        run.order("pause")
        before = unread(pid, address)
        wait_for(lambda: unread(pid, address) > before, "the server's next event waits")
        waiting = unread(pid, address)
        wait_for(lambda: unread(pid, address) > waiting, "and the one after it")
        run.order("resume")
        wait_for(lambda: unread(pid, address) == 0, "it is taken")
        ended = run.ended()
    said = values(ended)
    assert said == {"status": 200, "seen": 30}, ended.explain()


@pytest.mark.parametrize("host", ["api.test", "plain.test"])
def test_what_is_carried_ends_with_its_grant(net: Net, host: str) -> None:
    """Opened, and passed on: it is cut, and what is asked afterwards is refused as expired."""
    ends = datetime.now(timezone.utc) + timedelta(seconds=8)
    until = f'until = "{ends.strftime("%Y-%m-%dT%H:%M:%SZ")}"'
    net.policy = f"""
version = 1
extends = ["preset:python"]
[fs]
write = ["./work"]
[net]
connect = [{{ host = "plain.test:443", carry = true, {until} }}]
http = [{{ request = "GET api.test/events/*", {until} }}]
"""
    run = net.run(
        EVENTS
        + """
try: http.client.HTTPSConnection(sys.argv[1], timeout=40).connect(); tell("later", "connected")
except OSError as error: tell("later", str(error))
""",
        host,
        "/events/1000",
    )
    said = values(run)
    assert said["status"] == 200 and 0 < said["seen"] < 1000, run.explain()
    assert time.time() >= ends.timestamp() - 1
    assert "the grant ended at" in said["later"], run.explain()
    (late,) = run.denied("net.resolve", host)
    assert late["decision"]["reason"] == "expired", late


CREDENTIAL = """
[[credential]]
host = "api.test"
header = "Authorization"
prefix = "Bearer "
"""


@pytest.mark.parametrize("source", ['env = "API_KEY"', 'file = "./net/key"'])
def test_a_credential_is_added_on_the_way_and_seen_nowhere(net: Net, source: str) -> None:
    net.policy = POLICY + CREDENTIAL + source + "\n"
    (net.files / "key").write_text(SECRET + "\n")
    run = net.run(
        URLLIB
        + """
tell("own", ask("https://api.test/repos/a", headers={"Authorization": "Bearer mine", "X-Own": "1"})[0])
tell("plain", ask("https://plain.test/repos/a")[0])
tell("refused", ask("https://api.test/user")[1])
tell("variable", os.environ.get("API_KEY"))
attempt("file", open, BASE + "/net/key")
""",
        env={"API_KEY": SECRET} if source.startswith("env") else {},
    )
    assert run.attempts["own"].value == run.attempts["plain"].value == 200, run.explain()
    asked = {one["headers"]["host"]: one["headers"] for one in net.asked}
    assert asked["api.test"]["authorization"] == f"Bearer {SECRET}" and asked["api.test"]["x-own"] == "1"
    assert "authorization" not in asked["plain.test"]
    if source.startswith("env"):
        assert run.attempts["variable"].value is None
    else:
        run.refused("file")
    assert SECRET not in run.out + run.err
    for path in run.trace.iterdir():
        assert SECRET.encode() not in path.read_bytes(), path


def test_a_credential_that_is_not_there_starts_nothing(net: Net) -> None:
    net.policy = POLICY + CREDENTIAL + 'env = "API_KEY"\n'
    run = net.run("tell('started', 1)")
    assert run.code == 126 and not run.attempts, run.explain()
    assert "`API_KEY`, which holds the credential for api.test, is not set" in run.err


def test_budgets(net: Net) -> None:
    net.policy = POLICY + 'request_bytes = "1KiB"\nresponse_bytes = 100000\n'
    run = net.run(
        URLLIB
        + """
import http.client
tell("small", ask("https://api.test/repos/a/issues", "POST", b"x" * 1024)[0])
tell("large", ask("https://api.test/repos/a/issues", "POST", b"x" * 1025))
tell("fits", len(ask("https://api.test/big/100000")[1]))
tell("long", ask("https://api.test/big/100001"))
def chunks():
    for _ in range(100):
        yield b"x" * 100
def unsaid():
    peer = http.client.HTTPSConnection("api.test", timeout=20)
    peer.request("POST", "/repos/a/issues", body=chunks(), encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
    return peer.getresponse().status
attempt("unsaid", unsaid)
"""
    )
    said = values(run)
    assert said["small"] == 200 and said["fits"] == 100_000, run.explain()
    assert said["large"][0] == 413 and "request_bytes = 1024" in said["large"][1], run.explain()
    assert said["long"][0] == 502 and "response_bytes = 100000" in said["long"][1], run.explain()
    assert said["unsaid"] != "200", run.explain()
    failed = [record["outcome"] for record in run.records if record["type"] == "concluded"]
    assert failed.count({"failed": 122}) == 3, failed
    assert all(one["length"] <= 1024 for one in net.asked)


RAW = """
import socket, ssl
def connect(host="api.test", sni="api.test", protocols=("http/1.1",), port=443):
    context = ssl.create_default_context()
    context.check_hostname = False
    context.set_alpn_protocols(list(protocols))
    raw = socket.create_connection((host, port), 20)
    return context.wrap_socket(raw, server_hostname=sni) if sni != "" else raw
def say(request, **where):
    peer = connect(**where)
    peer.sendall(request)
    peer.settimeout(2)
    answer = b""
    try:
        while piece := peer.recv(65536):
            answer += piece
    except TimeoutError:
        pass
    except OSError as error:
        answer += repr(error).encode()
    return answer.decode("latin-1")
"""
HOSTILE = {
    "both lengths": b"POST /repos/a/issues HTTP/1.1\r\nHost: api.test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked first": b"POST /repos/a/issues HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST /repos/a/issues HTTP/1.1\r\nHost: api.test\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "folded": b"GET /repos/a HTTP/1.1\r\nHost: api.test\r\nX: a\r\n b\r\n\r\n",
    "bare line feeds": b"GET /repos/a HTTP/1.1\nHost: api.test\n\n",
    "one bare line feed": b"GET /repos/a HTTP/1.1\r\nHost: api.test\r\nX: a\nY: b\r\n\r\n",
    "space before the colon": b"POST /repos/a/issues HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "other encoding": b"POST /repos/a/issues HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: xchunked\r\n\r\n",
    "chunk extension": b"POST /repos/a/issues HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\nx\r\n0\r\n\r\n",
    "two hosts": b"GET /repos/a HTTP/1.1\r\nHost: api.test\r\nHost: other.test\r\n\r\n",
    "no host": b"GET /repos/a HTTP/1.1\r\n\r\n",
    "another host": b"GET /repos/a HTTP/1.1\r\nHost: shared.test\r\n\r\n",
    "another port": b"GET /repos/a HTTP/1.1\r\nHost: api.test:8443\r\n\r\n",
    "host with a user": b"GET /repos/a HTTP/1.1\r\nHost: other.test@api.test\r\n\r\n",
    "an address": b"GET /repos/a HTTP/1.1\r\nHost: 93.184.215.14\r\n\r\n",
    "absolute": b"GET https://api.test/repos/a HTTP/1.1\r\nHost: api.test\r\n\r\n",
    "absolute elsewhere": b"GET http://other.test/repos/a HTTP/1.1\r\nHost: api.test\r\n\r\n",
    "connect": b"CONNECT other.test:443 HTTP/1.1\r\nHost: api.test\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: api.test\r\n\r\n",
    "small method": b"get /repos/a HTTP/1.1\r\nHost: api.test\r\n\r\n",
    "dots": b"GET /repos/../user HTTP/1.1\r\nHost: api.test\r\n\r\n",
    "encoded dots": b"GET /repos/%2e%2e/user HTTP/1.1\r\nHost: api.test\r\n\r\n",
    "dots with parameters": b"GET /repos/..;/user HTTP/1.1\r\nHost: api.test\r\n\r\n",
    "twice encoded": b"GET /repos/%252e%252e/user HTTP/1.1\r\nHost: api.test\r\n\r\n",
    "encoded slash": b"GET /repos/a%2f..%2fuser HTTP/1.1\r\nHost: api.test\r\n\r\n",
    "backslash": b"GET /repos/a\\..\\user HTTP/1.1\r\nHost: api.test\r\n\r\n",
    "two slashes": b"GET /repos//user HTTP/1.1\r\nHost: api.test\r\n\r\n",
    "leading slashes": b"GET //other.test/repos/a HTTP/1.1\r\nHost: api.test\r\n\r\n",
    "injected": b"GET /repos/a%0d%0aX:%20y HTTP/1.1\r\nHost: api.test\r\n\r\n",
    "nul": b"GET /repos/a HTTP/1.1\r\nHost: api.test\r\nX: a\0b\r\n\r\n",
    "another path in a field": b"GET /repos/a HTTP/1.1\r\nHost: api.test\r\nX-Original-URL: /user\r\n\r\n",
    "rewritten": b"GET /repos/a HTTP/1.1\r\nHost: api.test\r\nx-rewrite-url: /user\r\n\r\n",
    "another method in a field": b"GET /repos/a HTTP/1.1\r\nHost: api.test\r\nX-HTTP-Method-Override: DELETE\r\n\r\n",
    "http/2 in clear": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "old upgrade": b"GET /repos/a HTTP/1.1\r\nHost: api.test\r\nUpgrade: websocket\r\nContent-Length: 5\r\nConnection: upgrade\r\n\r\nhello",
}


def test_what_could_be_read_in_two_ways_is_carried_in_none(net: Net) -> None:
    run = net.run(RAW + f"for name, request in {HOSTILE!r}.items():\n    attempt(name, say, request)\n")
    for name in HOSTILE:
        said = run.attempts[name]
        assert said.ok and "HTTP/1.1 4" in said.value, f"{name}: {said}\n{run.explain()}"
    assert net.asked == []
    assert len(run.denied("unmapped")) >= len(HOSTILE) - 2, run.explain()


def test_smuggled_behind_a_sound_request(net: Net) -> None:
    sound = b"GET /repos/a HTTP/1.1\r\nHost: api.test\r\n\r\n"
    behind = {
        "in a body": b"POST /repos/a/issues HTTP/1.1\r\nHost: api.test\r\nContent-Length: 41\r\n\r\nGET /user HTTP/1.1\r\nHost: api.test\r\n\r\n!!!!"
        + sound,
        "pipelined": sound + b"GET /user HTTP/1.1\r\nHost: api.test\r\n\r\n" + sound,
    }
    run = net.run(
        RAW
        + f"for name, request in {behind!r}.items():\n    attempt(name, say, request.replace(b'\\r\\n\\r\\n', b'\\r\\n\\r\\n'))\n",
        timeout=120,
    )
    assert "/user" not in [one["path"] for one in net.asked], net.asked
    assert [one["path"] for one in net.asked][-2:] == ["/repos/a", "/repos/a"], run.explain()
    assert "HTTP/1.1 403" in run.attempts["pipelined"].value, run.explain()


def test_the_name_asked_for_is_the_name_granted(net: Net) -> None:
    run = net.run(
        RAW
        + """
request = b"GET /repos/a HTTP/1.1\\r\\nHost: %s\\r\\nConnection: close\\r\\n\\r\\n"
attempt("opened", say, request % b"shared.test", host="api.test", sni="shared.test")
attempt("not there", say, request % b"plain.test", host="api.test", sni="plain.test")
attempt("other for plain", say, request % b"old.test", host="plain.test", sni="old.test")
attempt("address for plain", say, request % b"plain.test", host="plain.test", sni=None)
attempt("no tls", say, b"\\x00\\x01hello\\r\\n\\r\\n", host="plain.test", sni="")
attempt("plain", say, request % b"plain.test", host="plain.test", sni="plain.test")
attempt("direct", say, request % b"direct.test", host="direct.test", sni="direct.test")
"""
    )
    for name in ("opened", "not there", "other for plain", "address for plain"):
        said = run.attempts[name]
        assert not said.ok and "SSL" in "".join(said.kinds), f"{name}: {said}\n{run.explain()}"
    assert run.attempts["no tls"].value == "''", run.explain()
    assert "HTTP/1.1 200" in run.attempts["plain"].value and "HTTP/1.1 200" in run.attempts["direct"].value
    assert [one["headers"]["host"] for one in net.asked] == ["plain.test", "direct.test"]
    assert run.denied("net.connect", API) and run.denied("net.connect", PLAIN), run.explain()
    assert not [one for one in run.allowed("net.connect", OTHER) if one["decision"].get("obligations")]


def test_plain_http_is_carried_where_it_is_granted(net: Net) -> None:
    run = net.run(
        URLLIB
        + RAW
        + """
tell("old", ask("http://old.test/page")[0])
attempt("another host", say, b"GET / HTTP/1.1\\r\\nHost: plain.test\\r\\nConnection: close\\r\\n\\r\\n", host="old.test", sni="", port=80)
"""
    )
    assert run.attempts["old"].value == 200, run.explain()
    assert "HTTP/1.1 403" in run.attempts["another host"].value or "421" in run.attempts["another host"].value
    assert [one["path"] for one in net.asked] == ["/page"]


def test_servers_are_verified_and_missing_ones_said(net: Net) -> None:
    run = net.run(
        URLLIB
        + """
tell("untrusted", ask("https://untrusted.test:8443/x"))
tell("closed", ask("https://closed.test:444/x"))
"""
    )
    status, text = run.attempts["untrusted"].value
    assert status == 502 and "certificate" in text, run.explain()
    status, text = run.attempts["closed"].value
    assert status == 502 and "refused" in text, run.explain()
    assert net.asked == []
    requests = [record["op"] for record in run.allowed("net.http")]
    ends = [
        record["outcome"]
        for record in run.records
        if record["type"] == "concluded" and record["op"] in requests
    ]
    assert len(requests) == 2 and {"failed": 111} in ends and len(ends) == 2, ends


def test_the_owners_proxy_is_gone_through_and_the_program_knows_nothing_of_it(net: Net) -> None:
    proxy = f"http://user:{SECRET}@{PLAIN}:3128"
    run = net.run(
        URLLIB
        + """
tell("opened", ask("https://api.test/repos/a")[0])
tell("passed", ask("https://plain.test/page")[0])
tell("without tls", ask("http://old.test/page")[0])
tell("by the same connection", ask("https://api.test/repos/b")[0])
tell("variables", [name for name in os.environ if name.lower().endswith("_proxy")])
""",
        env={"HTTPS_PROXY": proxy, "http_proxy": proxy, "NO_PROXY": "elsewhere.test"},
    )
    said = values(run)
    assert [said[name] for name in ("opened", "passed", "without tls", "by the same connection")] == [
        200
    ] * 4, run.explain()
    assert said["variables"] == []
    proxied = [line for line in net.log if "proxied" in line]
    assert [line["proxied"] for line in proxied] == [
        "CONNECT api.test:443",
        "CONNECT plain.test:443",
        "GET http://old.test/page",
    ], proxied
    assert all(line["headers"]["proxy-authorization"].startswith("Basic ") for line in proxied)
    assert SECRET not in run.out + run.err
    for path in run.trace.iterdir():
        assert SECRET.encode() not in path.read_bytes(), path


def test_a_tool_narrows_requests_too(net: Net) -> None:
    net.policy = (
        POLICY
        + """
[[tool]]
name = "reader"
net.http = ["GET api.test/repos/public/**"]
[[tool]]
name = "offline"
net.http = []
"""
    )
    run = net.run(
        URLLIB
        + """
import failcore
tell("outside", ask("https://api.test/repos/a")[0])
with failcore.scope("reader"):
    tell("inside", ask("https://api.test/repos/public/a")[0])
    tell("narrowed", ask("https://api.test/repos/a"))
with failcore.scope("offline"):
    attempt("nothing", ask, "https://api.test/repos/a")
"""
    )
    said = values(run)
    assert said["outside"] == said["inside"] == 200 and said["narrowed"][0] == 403, run.explain()
    assert "tool `reader` may not; permitted there: GET api.test/repos/public/**." in said["narrowed"][1]
    assert not run.attempts["nothing"].ok and "tool `offline` may not" in run.attempts["nothing"].text


@pytest.mark.parametrize("protocol", ["HTTP/1.1", "HTTP/2"])
def test_a_connection_to_a_server_is_used_again_for_it_alone(net: Net, protocol: str) -> None:
    """By later connections of programs to the same name; each request is judged all the same."""
    option = "--http2" if protocol == "HTTP/2" else "--http1.1"
    if not shutil.which("curl"):
        pytest.skip("there is no curl")
    net.policy = POLICY.replace("http = [", 'http = ["GET shared.test/repos/*",')
    script = net.world.work / "ask.sh"
    paths = [
        "api.test/repos/a",
        "api.test/user",
        "api.test/repos/b",
        "shared.test/repos/c",
        "api.test/repos/d",
    ]
    asks = [f"curl -s {option} -o /dev/null -w '%{{http_code}}\\n' https://{path}" for path in paths]
    script.write_text("\n".join(asks))
    run = net.run("", argv=["/bin/sh", str(script)])
    assert run.out.split() == ["200", "403", "200", "200", "200"], run.explain()
    assert [(one["path"], one["protocol"]) for one in net.asked] == [
        (path, protocol) for path in ("/repos/a", "/repos/b", "/repos/c", "/repos/d")
    ], net.asked
    # One for each name, though both are at one address.
    assert [line["connected"] for line in net.log if "connected" in line] == [API, API], net.log


def test_five_hundred_at_once(net: Net) -> None:
    run = net.run(
        """
import asyncio, json, ssl
context = ssl.create_default_context()
async def one(n):
    reader, writer = await asyncio.open_connection("api.test", 443, ssl=context)
    await gate.wait()
    path = f"/repos/{n}" if n % 2 else f"/private/{n}"
    writer.write(f"GET {path} HTTP/1.1\\r\\nHost: api.test\\r\\nConnection: close\\r\\n\\r\\n".encode())
    answer = await reader.read()
    writer.close()
    return answer[9:12].decode()
async def all_of_them():
    global gate
    gate = asyncio.Event()
    tasks = [asyncio.ensure_future(one(n)) for n in range(600)]
    await asyncio.sleep(0.5)
    gate.set()
    return await asyncio.gather(*tasks)
answers = asyncio.run(all_of_them())
tell("answers", [answers.count("200"), answers.count("403"), len(answers)])
""",
        timeout=120,
    )
    assert run.attempts["answers"].value == [300, 300, 600], run.explain()
    assert len(net.asked) == 300 and all(one["path"].startswith("/repos/") for one in net.asked)


TWO = """
import h2.config, h2.connection, h2.events, h2.exceptions
def say_two(fields, body=b""):
    peer = connect(protocols=("h2",))
    peer.settimeout(5)
    assert peer.selected_alpn_protocol() == "h2"
    loose = dict(validate_outbound_headers=False, normalize_outbound_headers=False, validate_inbound_headers=False)
    speaker = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8", **loose))
    speaker.initiate_connection()
    speaker.send_headers(1, [tuple(field) for field in fields], end_stream=not body)
    if body:
        speaker.send_data(1, body, end_stream=True)
    peer.sendall(speaker.data_to_send())
    while piece := peer.recv(65536):
        for event in speaker.receive_data(piece):
            if isinstance(event, h2.events.ResponseReceived):
                return dict(event.headers)[":status"]
            if isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)):
                return "reset"
        peer.sendall(speaker.data_to_send())
    return "closed"
"""
SOUND = {":method": "GET", ":scheme": "https", ":authority": "api.test", ":path": "/repos/a"}


def two(*more: tuple[str, str], **changed: str | None) -> list[tuple[str, str]]:
    fields = {**SOUND, **{f":{name}": value for name, value in changed.items()}}
    return [(name, value) for name, value in fields.items() if value is not None] + list(more)


def test_what_http2_could_hide_is_not_carried(net: Net) -> None:
    if net.world.prefix != Path(sys.prefix):
        pytest.skip("the interpreter that an ordinary user may read here has no such libraries")
    hostile = {
        "another authority": two(authority="other.test"),
        "another port": two(authority="api.test:8443"),
        "a user": two(authority="user@api.test"),
        "no authority": two(authority=None),
        "host instead": two(("host", "api.test"), authority=None),
        "host beside": two(("host", "other.test")),
        "without tls": two(scheme="http"),
        "no scheme": two(scheme=None),
        "no path": two(path=None),
        "empty path": two(path=""),
        "asterisk": two(path="*", method="OPTIONS"),
        "whole url": two(path="https://api.test/repos/a"),
        "dots": two(path="/repos/../user"),
        "encoded dots": two(path="/repos/%2e%2e/user"),
        "line end in path": two(path="/repos/a HTTP/1.1\r\nX: y"),
        "line end in method": two(method="GET / HTTP/1.1\r\nX: y"),
        "line end in a value": two(("x", "a\r\ny: b")),
        "connect": two(method="CONNECT"),
        "extended connect": two((":protocol", "websocket"), method="CONNECT"),
        "two paths": [*two(), (":path", "/user")],
        "late pseudo field": [("x", "a"), *two()],
        "unknown pseudo field": two((":x", "a")),
        "capitals": two(("X-A", "b")),
        "connection": two(("connection", "close, host")),
        "transfer encoding": two(("transfer-encoding", "chunked")),
        "false length": two(("content-length", "5")),
        "another method in a field": two(("x-http-method-override", "DELETE")),
    }
    run = net.run(
        RAW
        + TWO
        + f"tell('sound', say_two({two()!r}))\nfor name, fields in {hostile!r}.items():\n    attempt(name, say_two, fields)\n"
    )
    assert run.code == 0 and run.attempts["sound"].value == "200", run.explain()
    for name in hostile:
        said = run.attempts[name]
        assert not said.ok or not said.value.startswith("'2"), f"{name}: {said}\n{run.explain()}"
    assert [one["path"] for one in net.asked] == ["/repos/a"], net.asked
