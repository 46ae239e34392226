"""`2130706433`, `127.1`, `0`, `localhost.`: the spellings that reached loopback past the older package's check."""

from collections.abc import Callable

import pytest

from tests.conftest import WORKSPACE, Listener, World

SPELLINGS = [
    "2130706433",
    "127.1",
    "0",
    "localhost.",
    "localhost",
    "LOCALHOST",
    "LocalHost.",
    "0.0.0.0",
    "0x7f000001",
    "0x7f.1",
    "017700000001",
    "0177.0.0.1",
    "127.0.1",
    "127.0.0.1.",
    "00",
    "0x0",
    "127.000.000.001",
    "\N{FULLWIDTH DIGIT ONE}27.0.0.1",
    "127\N{IDEOGRAPHIC FULL STOP}0\N{IDEOGRAPHIC FULL STOP}0\N{IDEOGRAPHIC FULL STOP}1",
    "\N{CIRCLED DIGIT ONE}27.0.0.1",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
    "::",
    "::ffff:0.0.0.0",
    "0:0:0:0:0:0:0:1",
    "::1%lo",
    "127.0.0.2",
    "127.255.255.254",
    "good.example\0",
    "localhost\0.example.com",
    " 127.0.0.1",
    "127.0.0.1 ",
]

SCRIPT = """
import socket, json
port = int(sys.argv[1])
def connect(host):
    with socket.create_connection((host, port), 5) as peer:
        peer.sendall(b"hello")
def direct(host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as peer:
        peer.settimeout(5)
        peer.connect((host, port))
def bare(host):
    import _socket
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    peer = _socket.socket(family, socket.SOCK_STREAM)
    peer.settimeout(5)
    peer.connect((host, port))
def sent(host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as peer:
        peer.sendto(b"hello", (host, port))
def quick(host):
    with socket.socket() as peer:
        peer.sendto(b"hello", socket.MSG_FASTOPEN, (host, port))
for host in json.load(open("hosts.json")):
    for call in (connect, direct, bare, sent, quick):
        attempt(call.__name__ + " " + ascii(host), call, host)
"""


@pytest.mark.parametrize(
    "granted", ['"*:*"', '"*.com:*", "example.com:*"', ""], ids=["any public name", "some names", "nothing"]
)
def test_no_spelling_of_loopback_is_covered_by_a_name_or_by_public(
    world: World, listen: Callable[..., Listener], granted: str
) -> None:
    import json

    server = listen("0.0.0.0")
    if "*.com" in granted:
        granted = granted.replace('"*.com:*", ', "")
    (world.work / "hosts.json").write_text(json.dumps(SPELLINGS))
    run = world.attack(SCRIPT, str(server.port), policy=f"{WORKSPACE}\n[net]\nconnect = [{granted}]\n")
    assert server.accepted == 0, run.explain()
    got_through = [name for name, attempt in run.attempts.items() if attempt.ok]
    assert not got_through, run.explain()
    for host in ("127.0.0.1", "0.0.0.0"):
        assert run.denied("net.*", host), run.explain()


def test_the_address_that_is_granted_is_reached_however_it_is_written(
    world: World, listen: Callable[..., Listener]
) -> None:
    server = listen()
    policy = f'{WORKSPACE}\n[net]\nconnect = ["127.0.0.1:{server.port}", "localhost:{server.port}"]\n'
    (world.work / "hosts.json").write_text('["127.0.0.1", "localhost"]')
    run = world.run(SCRIPT, str(server.port), policy=policy)
    for host in ("'127.0.0.1'", "'localhost'"):
        run.worked(f"connect {host}", f"direct {host}")
    run.worked("bare '127.0.0.1'")
    assert server.accepted >= 4
