"""The default policy of the older package had no network check. Without a policy, nothing here goes out."""

from collections.abc import Callable

from tests.conftest import WORKSPACE, Listener, World

SCRIPT = """
import socket, urllib.request
port = int(sys.argv[1])
attempt("connect", lambda: socket.create_connection(("127.0.0.1", port), 5))
attempt("by name", lambda: socket.create_connection(("localhost", port), 5))
attempt("raw connect", lambda: socket.socket().connect(("127.0.0.1", port)))
attempt("connect_ex", lambda: socket.socket().connect_ex(("127.0.0.1", port)))
attempt("urllib", lambda: urllib.request.urlopen("http://127.0.0.1:%d/" % port, timeout=5).read())
attempt("datagram", lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", port)))
attempt("datagram connect", lambda: socket.socket(type=socket.SOCK_DGRAM).connect(("127.0.0.1", port)))
attempt("bind", lambda: socket.socket().bind(("127.0.0.1", 0)))
attempt("resolve", lambda: socket.getaddrinfo("example.com", 80))
attempt("gethostbyname", lambda: socket.gethostbyname("example.com"))
"""


def test_without_a_policy_nothing_is_connected(world: World, listen: Callable[..., Listener]) -> None:
    server = listen()
    run = world.attack(SCRIPT, str(server.port), policy=None)
    assert server.accepted == 0
    run.refused("connect", "raw connect", "datagram", "datagram connect", "bind")
    for name in ("by name", "urllib", "resolve", "gethostbyname"):
        assert not run.attempts[name].ok, run.explain()
    assert run.attempts["connect_ex"].value != "0"
    assert run.denied("net.connect", "127.0.0.1") and run.denied("net.resolve", "example.com")


def test_a_policy_that_says_nothing_about_the_network_grants_nothing_there(
    world: World, listen: Callable[..., Listener]
) -> None:
    server = listen()
    run = world.attack(SCRIPT, str(server.port))
    assert server.accepted == 0
    run.refused("connect", "raw connect", "datagram", "bind")


def test_a_granted_address_is_reached(world: World, listen: Callable[..., Listener]) -> None:
    server = listen()
    policy = f'{WORKSPACE}\n[net]\nconnect = ["127.0.0.1:{server.port}", "udp:127.0.0.1:{server.port}"]\nlisten = ["127.0.0.1:0"]\n'
    run = world.run(SCRIPT, str(server.port), policy=policy)
    run.worked("connect", "raw connect", "connect_ex", "urllib", "datagram", "datagram connect", "bind")
    assert run.attempts["urllib"].value == repr(b"hello")
    assert server.accepted >= 3
    assert run.allowed("net.connect", "127.0.0.1")
