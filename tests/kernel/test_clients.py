"""The clients that people use, none of which knows of FailCore, under a policy of names and addresses: they reach what it
grants and nothing else, and each record says what was asked for, where it went and by which rule."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run, only
from tests.kernel.test_carried import URLLIB, Net, authority, net  # noqa: F401 (fixtures)
from tests.kernel.test_names import can_answer_as_asked, lan, program

pytestmark = only("kernel")

API, DOCS, INSIDE, OUTSIDE, ELSEWHERE = (
    "93.184.215.14",
    "93.184.215.20",
    "10.1.2.3",
    "10.2.0.1",
    "93.184.215.21",
)
NAMES = {
    "api.test": API,
    "en.docs.test": DOCS,
    "docs.test": DOCS,
    "other.test": ELSEWHERE,
    "inside.docs.test": INSIDE,
}
POLICY = """
version = 1
extends = ["preset:python"]
[fs]
write = ["./work"]
read = ["./net/ca.pem", "/etc/alternatives", "/usr/share/nodejs", "/etc/ssl", "/etc/node", "/usr/share/git-core", "/etc/gitconfig"]
[process]
exec = ["curl", "git", "/usr/lib/git-core/*", "/usr/local/libexec/git-core/*", "node", "/bin/sh", "./work/*"]
[env]
pass = ["PATH", "HOME", "LANG", "SSL_CERT_FILE", "GIT_SSL_CAINFO", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE"]
[native]
load = ["site-packages"]
[net]
connect = ["api.test:443", "*.docs.test:80", "10.1.0.0/16:5432"]
"""
# Where each goes, and by which rule; nothing where it may not.
TARGETS: dict[str, tuple[str, int] | None] = {
    "https://api.test": (API, 0),
    "http://en.docs.test": (DOCS, 1),
    "http://10.1.2.3:5432": (INSIDE, 2),
    "http://api.test": None,
    "http://docs.test": None,
    "http://other.test": None,
    "https://other.test": None,
    "http://inside.docs.test": None,
    "http://10.2.0.1:5432": None,
    f"https://{API}:8443": None,
    f"http://{ELSEWHERE}": None,
}
FETCH = """
for url in sys.argv[1:]:
    try: print(url, "reached" if get(url + "/page")[:1] else "empty", flush=True)
    except Exception as error: print(url, type(error).__name__, flush=True)
"""
PYTHON = {
    "urllib": URLLIB + "get = lambda url: ask(url)[1]",
    "requests": "import requests\nget = lambda url: requests.get(url, timeout=20).text",
    "httpx": "import httpx\nget = lambda url: httpx.get(url, timeout=20).text",
    "aiohttp": """
import aiohttp, asyncio, ssl
async def fetch(url):
    known = aiohttp.TCPConnector(ssl=ssl.create_default_context())
    async with aiohttp.ClientSession(connector=known) as session, session.get(url) as response:
        return await response.text()
get = lambda url: asyncio.run(fetch(url))
""",
    "asyncio": """
import asyncio, ssl, urllib.parse
async def fetch(url):
    at = urllib.parse.urlsplit(url)
    secure = ssl.create_default_context() if at.scheme == "https" else None
    port = at.port or (443 if secure else 80)
    reader, writer = await asyncio.open_connection(at.hostname, port, ssl=secure)
    writer.write(f"GET {at.path} HTTP/1.1\\r\\nHost: {at.hostname}\\r\\nConnection: close\\r\\n\\r\\n".encode())
    answer = await reader.readline()
    writer.close()
    return answer.decode()
get = lambda url: asyncio.run(fetch(url))
""",
}
SHELL = {
    "curl": 'curl -q -s -o /dev/null --max-time 20 "$url/page"',
    "git": 'git ls-remote -q "$url/git/repo.git" >/dev/null',
}
NODE = """
for (const url of process.argv.slice(2)) {
  try { console.log(url, (await (await fetch(url + "/page")).text()).length > 0 ? "reached" : "empty"); }
  catch (error) { console.log(url, error.cause?.code ?? error.name); }
}
"""


def fetch(net: Net, client: str, **more: Any) -> tuple[Run, list[str]]:  # noqa: F811
    """A run in which that client asks for every target, and what it calls them."""
    world, names = net.world, list(TARGETS)
    if client in PYTHON:
        if client not in ("urllib", "asyncio") and world.prefix != Path(sys.prefix):
            pytest.skip("the interpreter that an ordinary user may read here has no such libraries")
        return in_the_net(net, PYTHON[client] + FETCH, names, **more), names
    if client in SHELL:
        if not shutil.which(client):
            pytest.skip(f"there is no {client}")
        script = world.work / "ask.sh"
        script.write_text(f'for url; do {SHELL[client]} && echo "$url" reached || echo "$url" $?; done\n')
        return in_the_net(net, "", names, "/bin/sh", str(script), **more), names
    if client == "node":
        if not shutil.which("node"):
            pytest.skip("there is no node")
        script = world.work / "ask.mjs"
        script.write_text(NODE)
        return in_the_net(net, "", names, "node", str(script), **more), names
    # C programs know no URLs.
    if client == "static C" and not can_answer_as_asked(world):
        pytest.skip("this user makes no namespaces, and musl takes no answer but the asked server's own")
    static = client == "static C"
    compiled = program(
        world, "fetch.c", *(["-static"] if static else []), compiler="musl-gcc" if static else "cc"
    )
    places = [url.partition("://")[2] for url in names]
    ports = {"http": 80, "https": 443}
    places = [
        at if ":" in at else f"{at}:{ports[url.split(':')[0]]}" for url, at in zip(names, places, strict=True)
    ]
    return in_the_net(net, "", places, compiled, **more), places


def in_the_net(net: Net, script: str, names: list[str], *argv: str, **more: Any) -> Run:  # noqa: F811
    (net.files / "log").write_text("")
    sites = [{"address": address, "port": 80} for address in (API, DOCS, ELSEWHERE)]
    sites += [{"address": INSIDE, "port": port} for port in (80, 5432)] + [{"address": OUTSIDE, "port": 5432}]
    sites += [{"address": address, "port": port, **net.pair("site")} for address, port in
              ((API, 443), (API, 8443), (ELSEWHERE, 443))]  # fmt: skip
    config = {"log": str(net.files / "log"), "root": str(net.files / "root"), "sites": sites}
    (net.files / "servers.json").write_text(json.dumps(config))
    bare = net.files / "root" / "repo.git"
    subprocess.run(["git", "init", "-q", "--bare", str(bare)], check=True, capture_output=True)
    server = [sys.executable, str(Path(__file__).parent / "tls_upstream.py"), str(net.files / "servers.json")]
    before = lan(
        net.world,
        names={name: [[address]] for name, address in NAMES.items()},
        addresses=[API, DOCS, ELSEWHERE, INSIDE, OUTSIDE],
        servers=[server],
    )
    ca = str(net.files / "ca.pem")
    told = ("SSL_CERT_FILE", "GIT_SSL_CAINFO", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE")
    if argv:
        more["argv"] = [*argv, *names]
    return net.world.run(
        script, *names, policy=POLICY, before=before, env=dict.fromkeys(told, ca), timeout=120, **more
    )


@pytest.mark.parametrize("client", [*PYTHON, *SHELL, "node", "C", "static C"])
def test_a_client_reaches_what_is_granted_and_nothing_else(net: Net, client: str) -> None:  # noqa: F811
    run, names = fetch(net, client)
    said = dict(line.split(" ", 1) for line in run.out.splitlines() if " " in line)
    assert list(said) == names, run.explain()
    granted = {name: target for name, target in zip(names, TARGETS.values(), strict=True) if target}
    assert {name for name, what in said.items() if what == "reached"} == granted.keys(), run.explain()
    records = run.allowed("net.connect")
    for name, (address, rule) in granted.items():
        host = name.partition("://")[2].partition(":")[0] if "://" in name else name.partition(":")[0]
        (*_, record) = [one for one in records if address in str(one["request"]["action"]["addr"])]
        assert record["decision"]["rules"] == [f"policy.toml#net.connect[{rule}]"], record
        named = [host] if host in NAMES else []
        assert record["request"]["context"].get("names", []) == named, record
    # Nobody else was reached, and where a name decides, none was looked up that no rule grants.
    assert {record["request"]["action"]["addr"] for record in records} <= {API, DOCS, INSIDE}, records
    for refused in ("docs.test", "other.test"):
        assert run.denied("net.resolve", refused), run.explain()
    assert run.denied("net.connect", OUTSIDE) and run.denied("net.connect", ELSEWHERE), run.explain()
