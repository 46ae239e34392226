"""URLs that lead inside, in every spelling of the public lists, asked for outright and by a redirect, by real clients.

The widest grant of names there is, `*:PORT`: every name, at its public addresses. A client may well find a spelling to be
nonsense; what counts is who is reached, which the servers say, and that the same client reaches what is granted.
"""

import json
import shutil
import subprocess
import sys
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.test_names_and_rebinding import METADATA, OTHER, PORT, PRIVATE, PUBLIC, UNSHARE
from tests.conftest import WORKSPACE, Run, World

HERE = Path(__file__).parent
LINES = [
    line.split(" ", 1) for line in (HERE / "ssrf.txt").read_text().splitlines() if not line.startswith("#")
]
URLS = {
    kind: [url.format(port=PORT).replace("\\t", "\t") for of, url in LINES if of == kind] for kind, _ in LINES
}
INSIDE = [
    "127.0.0.1",
    "::1",
    METADATA,
    PRIVATE,
    "fd00:ec2::254",
    "100.100.100.200",
    "168.63.129.16",
    "192.168.0.1",
]
NAMES = {
    "good.example": [[PUBLIC]],
    "two.example": [[OTHER]],
    "inside.example": [["127.0.0.1", "::1"]],
    "meta.example": [[METADATA]],
    "private.example": [[PRIVATE]],
    "mapped.example": [["::ffff:127.0.0.1", "64:ff9b::7f00:1"]],
    "mixed.example": [["127.0.0.1", METADATA, PRIVATE]],
}
POLICY = f'{WORKSPACE}[net]\nconnect = ["*:{PORT}", "*:80"]\n'

CLIENTS = """
import importlib.util, json, urllib.request
def urllib_(url):
    return urllib.request.urlopen(url, timeout=5).read().decode()
def requests_(url):
    return requests.get(url, timeout=5).text
def httpx_(url):
    return httpx.get(url, timeout=5, follow_redirects=True).text
def aiohttp_(url):
    import asyncio, aiohttp
    async def get():
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(5)) as session:
            async with session.get(url) as answer:
                return await answer.text()
    return asyncio.run(get())
clients = [urllib_]
for name in ("requests", "httpx", "aiohttp"):
    if importlib.util.find_spec(name):
        globals()[name] = __import__(name)
        clients.append(globals()[name + "_"])
tell("clients", [client.__name__ for client in clients])
for client in clients:
    for url in json.load(open("urls.json")):
        attempt(client.__name__ + " " + url, client, url)
"""


def lan(world: World) -> list[str]:
    """The beginning of a command that runs where somebody listens at every address that must not be reached."""
    if not shutil.which("unshare") or subprocess.run([*UNSHARE, "true"], capture_output=True).returncode:
        pytest.skip("this machine makes no network namespaces")
    quiet = [address for address in INSIDE if address not in ("127.0.0.1", "::1")]
    config: dict[str, Any] = {"names": NAMES, "addresses": [PUBLIC, OTHER], "quiet": quiet}
    config |= {"web": [*quiet, "::1"], "port": PORT}
    (world.base / "net.json").write_text(json.dumps(config))
    private = str(HERE / "private_net.py")
    files = [str(world.base / "net.json"), str(world.base / "net-report.json")]
    return [*UNSHARE, "--", sys.executable, private, *files, "--"]


def fetched(world: World, urls: list[str]) -> tuple[Run, dict[str, Any]]:
    (world.work / "urls.json").write_text(json.dumps(urls))
    run = world.run(CLIENTS, policy=POLICY, before=lan(world), timeout=300)
    return run, json.loads((world.base / "net-report.json").read_text())


def nobody_inside(run: Run, seen: dict[str, Any]) -> None:
    assert {address: seen["reached"][address] for address in INSIDE} == dict.fromkeys(INSIDE, 0), (
        run.explain()
    )
    pages = [one.value for one in run.attempts.values() if one.ok and "page of" in str(one.value)]
    assert all(PUBLIC in page or OTHER in page for page in pages), pages


@pytest.mark.parametrize("kind", URLS)
def test_outright(world: World, kind: str) -> None:
    good = f"http://good.example:{PORT}/"
    run, seen = fetched(world, [*URLS[kind], good])
    nobody_inside(run, seen)
    clients = run.attempts["clients"].value
    assert len(run.attempts) == 1 + len(clients) * len({*URLS[kind], good}), run.explain()
    if world.uid == 0:
        assert len(clients) == 4, "the virtual environment of the tests has them all"
    for client in clients:
        assert PUBLIC in run.attempts[f"{client} {good}"].value, run.explain()
    assert len(run.denied("net.*")) > 0


@pytest.mark.parametrize("kind", URLS)
def test_by_a_redirect(world: World, kind: str) -> None:
    through = [f"http://good.example:{PORT}/to/{urllib.parse.quote(url, safe='')}" for url in URLS[kind]]
    fine = f"http://good.example:{PORT}/to/http%3A%2F%2Ftwo.example%3A{PORT}%2F"
    run, seen = fetched(world, [*through, fine])
    nobody_inside(run, seen)
    clients = run.attempts["clients"].value
    for client in clients:
        assert OTHER in run.attempts[f"{client} {fine}"].value, run.explain()
    assert seen["reached"][PUBLIC] >= len(clients) * len(URLS[kind]), "each was sent on"


@pytest.mark.parametrize("way", ["outright", "redirect"])
def test_curl(world: World, way: str) -> None:
    if world.lane != "kernel":
        pytest.skip("curl is no Python: the runtime lane does not run it")
    if not shutil.which("curl"):
        pytest.skip("there is no curl")
    urls = [url for of in URLS.values() for url in of]
    good = f"http://good.example:{PORT}/"
    if way == "redirect":
        urls = [f"{good}to/{urllib.parse.quote(url, safe='')}" for url in urls]
        good = f"{good}to/http%3A%2F%2Ftwo.example%3A{PORT}%2F"
    config = "".join(f"url = {json.dumps(url, ensure_ascii=False)}\n" for url in [*urls, good])
    (world.work / "curl.txt").write_text(config)
    policy = POLICY + '[process]\nexec = ["curl *"]\n'
    argv = ["curl", "-q", "-s", "-g", "-L", "--max-time", "5", "-K", "curl.txt"]
    run = world.run("", argv=argv, policy=policy, before=lan(world), timeout=300)
    seen = json.loads((world.base / "net-report.json").read_text())
    assert {address: seen["reached"][address] for address in INSIDE} == dict.fromkeys(INSIDE, 0), (
        run.explain()
    )
    assert f"page of {OTHER if way == 'redirect' else PUBLIC}" in run.out, run.explain()
    assert "127.0.0.1" not in run.out and len(run.denied("net.*")) > 20
