"""DNS names and rebinding: a granted name whose answer points inside, at once or at the second look.

Everything happens in a network namespace of its own, where a name server on loopback gives the answers.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import WORKSPACE, Run, World

PORT = 8080
PUBLIC, OTHER, METADATA, PRIVATE = "93.184.215.14", "93.184.215.15", "169.254.169.254", "10.1.2.3"
NAMES = {
    "good.example": [[PUBLIC]],
    "sub.good.example": [[PUBLIC]],
    "inside.example": [["127.0.0.1"]],
    "zero.example": [["0.0.0.0"]],
    "meta.example": [[METADATA]],
    "private.example": [[PRIVATE]],
    "mixed.example": [[PUBLIC, "127.0.0.1", METADATA]],
    "mixed-first.example": [["127.0.0.1", PUBLIC]],
    "rebind.example": [[PUBLIC], ["127.0.0.1"]],
    "other.example": [[OTHER]],
    "tracker.good.example": [[PUBLIC]],
}
GRANTED = [name for name in NAMES if name != "other.example"]
POLICY = (
    WORKSPACE
    + "\n[net]\nconnect = ["
    + ", ".join(f'"{name}:{PORT}"' for name in GRANTED)
    + ', "*.good.example:8080"]\ndeny = ["tracker.good.example"]\n'
)
UNSHARE = ["unshare", "--mount", "--net"] + ([] if os.getuid() == 0 else ["--map-root-user"])

PRELUDE = f"""
import socket, urllib.request
PORT, PUBLIC, OTHER, METADATA, PRIVATE = {PORT}, {PUBLIC!r}, {OTHER!r}, {METADATA!r}, {PRIVATE!r}
def fetch(host):
    return urllib.request.urlopen("http://%s:%d/" % (host, PORT), timeout=5).read().decode()
def dial(host, port=PORT):
    with socket.create_connection((host, port), 5) as peer:
        return peer.getpeername()[0]
def direct(host):
    with socket.socket() as peer:
        peer.settimeout(5)
        peer.connect((host, PORT))
        return peer.getpeername()[0]
"""


def inside(world: World, script: str, policy: str = POLICY) -> tuple[Run, dict[str, Any]]:
    """A run in the private internet, with what its servers saw."""
    if not shutil.which("unshare") or subprocess.run([*UNSHARE, "true"], capture_output=True).returncode:
        pytest.skip("this machine makes no network namespaces")
    config, report = world.base / "net.json", world.base / "net-report.json"
    config.write_text(
        json.dumps({"names": NAMES, "addresses": [PUBLIC, OTHER, METADATA, PRIVATE], "port": PORT})
    )
    lan = [*UNSHARE, "--", sys.executable, str(Path(__file__).with_name("private_net.py"))]
    run = world.attack(PRELUDE + script, policy=policy, before=[*lan, str(config), str(report), "--"])
    assert report.exists(), run.explain()
    return run, json.loads(report.read_text())


def test_a_granted_name_covers_its_public_addresses_only(world: World) -> None:
    run, seen = inside(
        world,
        """
for host in ("good.example", "sub.good.example", "GOOD.Example", "good.example.", "mixed.example", "mixed-first.example"):
    attempt("fetch " + host, fetch, host)
    attempt("dial " + host, dial, host)
attempt("direct good.example", direct, "good.example")
for host in ("inside.example", "zero.example", "meta.example", "private.example", "other.example", "tracker.good.example"):
    attempt("fetch " + host, fetch, host)
    attempt("dial " + host, dial, host)
    attempt("direct " + host, direct, host)
""",
    )
    for host in ("good.example", "sub.good.example", "GOOD.Example", "good.example."):
        run.worked(f"fetch {host}", f"dial {host}")
        assert PUBLIC in run.attempts[f"fetch {host}"].value
    run.worked("direct good.example")
    for host in (
        "mixed.example",
        "mixed-first.example",
    ):  # what is inside is dropped from the answer, or all is refused
        assert not run.attempts[f"dial {host}"].ok or PUBLIC in run.attempts[f"dial {host}"].value
    for host in (
        "inside.example",
        "zero.example",
        "meta.example",
        "private.example",
        "other.example",
        "tracker.good.example",
    ):
        for how in ("fetch", "dial", "direct"):
            assert not run.attempts[f"{how} {host}"].ok, run.explain()
    assert seen["reached"][PUBLIC] >= 9
    assert [seen["reached"][at] for at in ("127.0.0.1", METADATA, PRIVATE, OTHER)] == [0, 0, 0, 0]
    assert "other.example" not in seen["asked"] and "tracker.good.example" not in seen["asked"]
    assert run.denied("net.resolve", "other.example") and run.denied("net.resolve", "tracker.good.example")


def test_a_second_answer_that_points_inside_is_refused(world: World) -> None:
    run, seen = inside(
        world,
        """
attempt("first look", lambda: [one[4][0] for one in socket.getaddrinfo("rebind.example", PORT, type=socket.SOCK_STREAM)])
for i in range(4):
    attempt("fetch %d" % i, fetch, "rebind.example")
    attempt("direct %d" % i, direct, "rebind.example")
attempt("looked up, then by address", lambda: direct(socket.gethostbyname("rebind.example")))
attempt("loopback by address", direct, "127.0.0.1")
""",
    )
    assert PUBLIC in run.attempts["first look"].value
    assert seen["reached"]["127.0.0.1"] == 0, run.explain()
    assert not run.attempts["fetch 3"].ok or PUBLIC in run.attempts["fetch 3"].value
    run.refused("loopback by address")


def test_only_an_address_that_a_granted_name_gave_is_connected(world: World) -> None:
    run, seen = inside(
        world,
        """
attempt("not looked up", direct, PUBLIC)
attempt("look up", socket.gethostbyname, "good.example")
attempt("looked up", direct, PUBLIC)
attempt("looked up, another port", lambda: dial(PUBLIC, 54))
attempt("another public address", direct, OTHER)
attempt("metadata", direct, METADATA)
attempt("private", direct, PRIVATE)
attempt("mapped", lambda: socket.socket(socket.AF_INET6).connect(("::ffff:127.0.0.1", PORT)))
""",
    )
    run.refused(
        "not looked up", "looked up, another port", "another public address", "metadata", "private", "mapped"
    )
    run.worked("look up", "looked up")
    assert seen["reached"] == {"127.0.0.1": 0, PUBLIC: 1, OTHER: 0, METADATA: 0, PRIVATE: 0}
    assert run.denied("net.connect", METADATA) and run.denied("net.connect", OTHER)


def test_a_name_that_is_not_granted_is_not_even_asked_for(world: World) -> None:
    run, seen = inside(
        world,
        """
import _socket, asyncio
names = ["exfil-data.evil.example", "evil.example\\0.good.example", "good.example\\0", "evil.example#.good.example",
         "good.example.evil.example", "evil\\u3002example", "xn--80ak6aa92e.example", "a" * 64 + ".good.example",
         "good.example@evil.example", "..good.example", "-", "*.good.example", "*"]
for name in names:
    for module in (socket, _socket):
        attempt("%s getaddrinfo %s" % (module.__name__, ascii(name)), module.getaddrinfo, name, 80)
        attempt("%s gethostbyname %s" % (module.__name__, ascii(name)), module.gethostbyname, name)
        attempt("%s gethostbyname_ex %s" % (module.__name__, ascii(name)), module.gethostbyname_ex, name)
    attempt("bytes " + ascii(name), lambda: socket.getaddrinfo(name.encode(), 80))
attempt("reverse", socket.gethostbyaddr, OTHER)
attempt("nameinfo", lambda: socket.getnameinfo((OTHER, 80), 0))
attempt("asyncio", lambda: asyncio.run(asyncio.wait_for(asyncio.open_connection("evil.example", PORT), 5)))
query = b"\\x12\\x34\\x01\\0\\0\\x01\\0\\0\\0\\0\\0\\0\\x04evil\\x07example\\0\\0\\x01\\0\\x01"
attempt("ask the name server", lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(query, ("127.0.0.1", 53)))
attempt("connect to the name server", lambda: socket.socket(type=socket.SOCK_DGRAM).connect(("127.0.0.1", 53)))
attempt("granted", socket.getaddrinfo, "good.example", 80)
""",
    )
    run.worked("granted")
    to_the_server = ("ask the name server", "connect to the name server")
    if world.lane == "runtime":
        run.refused(*to_the_server)
    else:
        run.worked(*to_the_server)  # the broker answers in its place: there is no such name
    assert not [
        name
        for name, attempt in run.attempts.items()
        if attempt.ok and name not in ("granted", "nameinfo", *to_the_server)
    ], run.explain()
    assert set(seen["asked"]) <= {"good.example"}, seen["asked"]
    assert run.denied("net.resolve", "exfil-data.evil.example")


def test_an_address_entry_grants_what_a_name_does_not(world: World) -> None:
    policy = (
        WORKSPACE
        + f'\n[net]\nconnect = ["inside.example:{PORT}", "127.0.0.1:{PORT}", "10.1.0.0/16:{PORT}"]\n'
    )
    run, seen = inside(
        world,
        """
attempt("name and address", dial, "inside.example")
attempt("address", direct, "127.0.0.1")
attempt("network", direct, PRIVATE)
attempt("other", direct, METADATA)
""",
        policy=policy,
    )
    run.worked("name and address", "address", "network")
    run.refused("other")
    assert seen["reached"] == {"127.0.0.1": 2, PUBLIC: 0, OTHER: 0, METADATA: 0, PRIVATE: 1}
