"""Every way out of a machine that the kernel has, by raw calls: refused with its errno and recorded, or judged.

One row a way. Each is tried where nothing of it is granted; where a policy can grant it, once more with the grant, and
then it must come to what it comes to without FailCore, so that no way is refused for a wrong reason.
"""

import contextlib
import errno
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Run, World, only, wait_for

pytestmark = only("kernel")

SOURCE = Path(__file__).with_name("ways.c")
POLICY = """
version = 1
extends = ["preset:native"]
[fs]
read = ["./work"]
[process]
exec = ["./work/*"]
"""
REFUSED, NEVER, ABSENT = errno.EACCES, errno.EPERM, errno.ENOSYS
LOOPBACK = "127.0.0.1"
TCP, UDP, TCP6 = '"127.0.0.1:{port}"', '"udp:127.0.0.1:{port}"', '"[::1]:{port}"'


@dataclass
class Way:
    """One way out: what it comes to without a grant, the record of that, and what would grant it."""

    name: str
    verb: str
    about: str = ""
    code: int = REFUSED
    # Lines under `[net]`; nothing where no policy can grant it.
    grant: str | None = None
    # What it comes to with the grant, where that is not what it comes to without FailCore.
    granted: int | None = None
    address: str = LOOPBACK

    def __str__(self) -> str:
        return self.name if self.name != "socket" else self.address


def connects(*entries: str) -> str:
    return f"connect = [{', '.join(entries)}]"


TO = '"addr": "127.0.0.1"'
ANYWHERE = [
    Way("tcp", "net.connect", TO, grant=connects(TCP)),
    Way("tcp6", "net.connect", '"addr": "::1"', grant=connects(TCP6)),
    Way("tcp mapped", "net.connect", '"addr": "::ffff:127.0.0.1"', grant=connects(TCP)),
    Way("tcp scope id", "net.connect", '"zone": 1', grant=connects(TCP6)),
    Way("tcp link local", "net.connect", "fe80::1", grant=connects('"[fe80::1]:*"')),
    Way("tcp flow label", "net.connect", '"addr": "::1"', grant=connects(TCP6)),
    Way("tcp nonblocking", "net.connect", TO, grant=connects(TCP)),
    Way("fastopen sendto", "net.connect", TO, grant=connects(TCP)),
    Way("fastopen sendmsg", "net.connect", TO, grant=connects(TCP)),
    Way("fastopen connect", "net.connect", TO, grant=connects(TCP)),
    Way("zero", "net.connect", '"addr": "0.0.0.0"', grant=connects('"0.0.0.0:*"')),
    Way("splice", "net.connect", TO, grant=connects(UDP)),
    Way("sendfile", "net.connect", TO, grant=connects(TCP)),
    Way("udp connected", "net.connect", TO, grant=connects(UDP)),
    Way("udp sendto", "net.send", TO, grant=connects(UDP)),
    Way("udp sendmsg", "net.send", TO, grant=connects(UDP)),
    Way("udp mapped", "net.send", '"addr": "::ffff:127.0.0.1"', grant=connects(UDP)),
    Way("udp of the other family", "net.send", TO, grant=connects(UDP)),
    Way("broadcast", "net.send", "255.255.255.255", grant=connects('"udp:255.255.255.255:*"')),
    Way("multicast", "net.send", "239.1.2.3", grant=connects('"udp:239.1.2.3:*"')),
    Way("mptcp", "net.socket", '"protocol": 262', grant=f'{connects(TCP)}\nsocket = ["inet stream 262"]'),
    Way("udplite", "net.socket", '"protocol": 136', grant=f'{connects(UDP)}\nsocket = ["inet datagram 136"]'),
    Way("sctp", "net.socket", '"protocol": 132', grant='socket = ["inet stream 132"]'),
    Way("sctp seqpacket", "net.socket", '"protocol": 132', grant='socket = ["inet seqpacket 132"]'),
    Way("dccp", "net.socket", '"protocol": 33', grant='socket = ["inet 6 33"]'),
    Way("smc", "net.socket", '"protocol": 256', grant='socket = ["inet stream 256"]'),
    Way("bind", "net.bind", TO, grant=f"listen = [{TCP}]"),
    Way("bind, datagram", "net.bind", TO, grant=f"listen = [{UDP}]"),
    Way("bind any", "net.bind", '"addr": "0.0.0.0"', grant='listen = ["0.0.0.0:{port}"]'),
    Way("bind unspecified family", "net.bind", TO, grant=f"listen = [{TCP}]", granted=0),
    Way("listen unbound", "net.listen", '"addr": "0.0.0.0", "port": 0', grant='listen = ["0.0.0.0:0"]'),
    Way("received, then connect", "net.connect", TO, grant=connects(TCP)),
    Way("received, then sendto", "net.send", TO, grant=connects(UDP)),
    Way("duplicated in a child", "net.connect", TO, grant=connects(TCP)),
    Way("netlink", "net.socket", '"family": 16', grant='socket = ["netlink raw 0"]'),
    Way("pair", "net.socket", '"family": 30', grant='socket = ["tipc stream 0"]'),
    Way("join", "net.bind", "239.1.2.3", grant='listen = ["udp:239.1.2.3:*"]'),
    Way("join a source", "net.bind", "239.1.2.3", grant='listen = ["udp:239.1.2.3:*"]'),
    Way("join by IPv6", "net.bind", "ff02::1234", grant='listen = ["udp:[ff02::1234]:*"]'),
    Way("join either way", "net.bind", "239.1.2.3", grant='listen = ["udp:239.1.2.3:*"]'),
    Way("join either way by IPv6", "net.bind", "ff02::1234", grant='listen = ["udp:[ff02::1234]:*"]'),
    Way("join a source either way", "net.bind", "239.1.2.3", grant='listen = ["udp:239.1.2.3:*"]'),
    # Whoever connects must say where; mDNS and DNS over TLS are no DNS that the broker answers.
    Way("dns elsewhere, stream", "net.connect", '"port": 853', grant=connects('"127.0.0.1:853"')),
    Way("dns elsewhere, multicast", "net.send", '"port": 5353', grant=connects('"udp:224.0.0.251:5353"')),
    # Without a receiver the kernel itself has nowhere to send it; nothing is judged then.
    Way("udp unspecified family", "", code=errno.EINVAL),
    Way("splice unconnected", "", code=errno.EDESTADDRREQ),
    Way("sendfile unconnected", "", code=errno.EPIPE),
    Way("join nowhere", "", code=errno.EFAULT),
    Way("join too short", "", code=errno.EINVAL),
]

# Kinds of sockets that reach other machines, other rings or the kernel itself, each judged as `net.socket`.
KINDS = {
    "ax25": "3 5 0",
    "ipx": "4 2 0",
    "appletalk": "5 2 0",
    "x25": "9 5 0",
    "key": "15 3 2",
    "netlink generic": "16 3 16",
    "netlink route": "16 3 0",
    "netlink netfilter": "16 3 12",
    "packet": "17 3 768",
    "packet, datagram": "17 2 768",
    "packet, the old way": "2 10 768",
    "rds": "21 5 0",
    "pppox": "24 1 0",
    "wanpipe": "25 3 0",
    "llc": "26 1 0",
    "infiniband": "27 3 0",
    "mpls": "28 3 0",
    "can": "29 3 1",
    "tipc": "30 4 0",
    "bluetooth": "31 3 1",
    "bluetooth, streams": "31 1 3",
    "iucv": "32 1 0",
    "rxrpc": "33 2 2",
    "isdn": "34 3 0",
    "phonet": "35 2 0",
    "ieee802154": "36 2 0",
    "caif": "37 5 0",
    "alg": "38 5 0",
    "nfc": "39 5 0",
    "vsock": "40 1 0",
    "vsock, datagram": "40 2 0",
    "kcm": "41 2 0",
    "qipcrtr": "42 2 0",
    "smc": "43 1 0",
    "xdp": "44 3 0",
    "mctp": "45 2 0",
    "of the future": "60 1 0",
    "raw tcp": "2 3 6",
    "raw icmp": "2 3 1",
    "raw, any": "2 3 255",
    "raw icmp6": "10 3 58",
    "ping": "2 2 1",
    "ping6": "10 2 58",
    "l2tp": "2 2 115",
}

# What would carry a packet to somebody else than its address says, or changes what addresses mean, whatever is granted.
ALWAYS = {
    "setsockopt": [
        "source route",
        "routing header",
        "flow label lease",
        "interface",
        "interface by number",
        "interface for unicast",
        "mark",
        "transparent",
        "transparent by IPv6",
        "header of one's own",
        "sctp connects by an option",
        "anycast",
        "firewall",
    ],
    "sendmsg": [
        "source route, message",
        "routing header, message",
        "routing header, old message",
        "hop options, message",
        "flow label, message",
        "interface, message",
        "interface, message by IPv6",
        "mark, message",
    ],
    "ioctl": ["route", "address of an interface"],
    "unshare": ["another network, made", "another network, with a user"],
    "clone": ["another network, born in"],
    "setns": ["another network, entered"],
    "bpf": ["bpf"],
    "io_uring_setup": ["io_uring"],
}


@pytest.fixture(scope="module")
def compiled() -> Iterator[Path]:
    """The program, compiled once."""
    if not shutil.which("cc"):
        pytest.skip("there is no cc")
    with tempfile.TemporaryDirectory(prefix="failcore-ways-") as directory:
        made = Path(directory) / "ways"
        subprocess.run(["cc", "-O1", "-o", str(made), str(SOURCE)], check=True, timeout=60)
        yield made


class Server:
    """Takes what comes to one port of this machine: by IPv4 and IPv6, streams and datagrams."""

    def __init__(self) -> None:
        self.udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # A port that is free for both.
        while True:
            self.tcp = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
            self.port: int = self.tcp.getsockname()[1]
            with contextlib.suppress(OSError):
                self.udp.bind(("::", self.port))
                break
            self.tcp.close()
        self.streams = self.datagrams = 0
        for loop in (self._accept, self._receive):
            threading.Thread(target=loop, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.tcp.accept()[0].close()
                self.streams += 1

    def _receive(self) -> None:
        with contextlib.suppress(OSError):
            while self.udp.recv(100):
                self.datagrams += 1

    def close(self) -> None:
        for one in (self.tcp, self.udp):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@dataclass
class Tried:
    run: Run
    code: int


def attempt(world: World, compiled: Path, *args: str, net: str = "", fs: str = "", **kwargs: object) -> Tried:
    """Tries one way under a policy."""
    program = world.work / "ways"
    if not program.exists():
        shutil.copy(compiled, program)
    policy = POLICY.replace("[process]", f"{fs}\n[process]") + f"[net]\n{net}\n"
    run = world.run("", argv=[str(program), *args], policy=policy, **kwargs)  # type: ignore[arg-type]
    assert run.out.strip().isdecimal(), run.explain()
    return Tried(run, int(run.out))


def bare(world: World, compiled: Path, *args: str) -> int:
    """What a way comes to without FailCore, for somebody without privileges."""
    copy = world.base / "bare"
    shutil.copy(compiled, copy)
    plain = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"] if world.uid == 0 else []
    done = subprocess.run(
        [*plain, *world.as_user, str(copy), *args], capture_output=True, text=True, timeout=60, check=True
    )
    return int(done.stdout)


@pytest.mark.parametrize("way", ANYWHERE, ids=str)
def test_way(world: World, compiled: Path, server: Server, way: Way) -> None:
    port = str(free_port() if way.name.startswith("bind") else server.port)
    tried = attempt(world, compiled, way.name, way.address, port)
    assert tried.code == way.code, tried.run.explain()
    assert (server.streams, server.datagrams) == (0, 0)
    if way.verb:
        assert tried.run.denied(way.verb, way.about), tried.run.explain()
    if way.grant is not None:
        expected = bare(world, compiled, way.name, way.address, port) if way.granted is None else way.granted
        net = way.grant.replace("{port}", port)
        tried = attempt(world, compiled, way.name, way.address, port, net=net)
        assert tried.code == expected != REFUSED, tried.run.explain()
        assert tried.run.allowed(way.verb, way.about), tried.run.explain()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_kind_of_socket(world: World, compiled: Path, kind: str) -> None:
    tried = attempt(world, compiled, "socket", kind)
    assert tried.code == REFUSED, tried.run.explain()
    assert len(tried.run.denied("net.socket")) == 1, tried.run.explain()
    granted = attempt(world, compiled, "socket", kind, net=f'socket = ["{kind.replace(" 10 ", " 3 ")}"]')
    assert granted.code == bare(world, compiled, "socket", kind), granted.run.explain()
    assert granted.run.allowed("net.socket"), granted.run.explain()


@pytest.mark.parametrize(
    ("call", "way"), [(call, way) for call, ways in ALWAYS.items() for way in ways], ids=lambda one: str(one)
)
def test_always_refused(world: World, compiled: Path, server: Server, call: str, way: str) -> None:
    # Whatever is granted: everything is.
    everything = 'connect = ["any:*:*", "any:0.0.0.0/0:*", "any:[::]/0:*"]\nsocket = ["* * *"]\nlisten = ["any:0.0.0.0/0:*", "any:[::]/0:*"]'
    for net in ("", everything):
        tried = attempt(world, compiled, way, LOOPBACK, str(server.port), net=net)
        assert tried.code == (ABSENT if call == "io_uring_setup" else NEVER), tried.run.explain()
        denied = tried.run.denied("kernel.call", call)
        assert denied and denied[0]["decision"]["reason"] == "always", tried.run.explain()
    assert server.datagrams == 0


@pytest.mark.parametrize(
    "way",
    [
        "dissolve, then connect",
        "connected, then connect",
        "listening, then connect",
        "udp sendmmsg",
        "udp connected elsewhere",
        "received connected, then elsewhere",
        "fastopen connect, then sendto another",
    ],
)
def test_a_socket_that_was_used_for_what_is_granted(
    world: World, compiled: Path, server: Server, way: str
) -> None:
    other = Server()
    net = f'connect = ["any:127.0.0.1:{other.port}"]\nlisten = ["127.0.0.1:0"]'
    tried = attempt(world, compiled, way, LOOPBACK, str(server.port), str(other.port), net=net)
    assert tried.code == REFUSED, tried.run.explain()
    verb = "net.send" if way.endswith("elsewhere") or way == "udp sendmmsg" else "net.connect"
    assert tried.run.denied(verb, f'"port": {server.port}'), tried.run.explain()
    assert (server.streams, server.datagrams) == (0, 0)
    both = net.replace("connect = [", f'connect = ["any:127.0.0.1:{server.port}", ')
    tried = attempt(world, compiled, way, LOOPBACK, str(server.port), str(other.port), net=both)
    plain = bare(world, compiled, way, LOOPBACK, str(server.port), str(other.port))
    # Of two connects by one socket the kernel says that the first is under way, we that it is made.
    plain = errno.EISCONN if plain == errno.EALREADY else plain
    assert tried.code == plain != REFUSED, tried.run.explain()
    other.close()


UNIX = {
    "unix path": socket.SOCK_STREAM,
    "unix path through /proc": socket.SOCK_STREAM,
    "unix path, seqpacket": socket.SOCK_SEQPACKET,
    "unix path, datagram": socket.SOCK_DGRAM,
    "unix path, message": socket.SOCK_DGRAM,
    "unix hidden": socket.SOCK_STREAM,
    "unix hidden, datagram": socket.SOCK_DGRAM,
}


@pytest.mark.parametrize("way", UNIX)
def test_unix_socket(world: World, compiled: Path, way: str) -> None:
    hidden = way.startswith("unix hidden")
    name = f"@failcore-test-{os.getpid()}" if hidden else str(world.outside / "socket")
    with socket.socket(socket.AF_UNIX, UNIX[way]) as listener:
        listener.bind("\0" + name[1:] if hidden else name)
        if UNIX[way] != socket.SOCK_DGRAM:
            listener.listen()
        listener.setblocking(False)
        world.hand_over()
        tried = attempt(world, compiled, way, name)
        assert tried.code == REFUSED, tried.run.explain()
        assert tried.run.denied("ipc.connect", name[1:]), tried.run.explain()
        with pytest.raises(BlockingIOError):
            listener.recv(1) if UNIX[way] == socket.SOCK_DGRAM else listener.accept()
        granted = attempt(world, compiled, way, name, net=f'connect = ["unix:{name}"]')
        assert granted.code == 0, granted.run.explain()
        assert granted.run.allowed("ipc.connect", name[1:]), granted.run.explain()
        assert listener.recv(1) == b"x" if UNIX[way] == socket.SOCK_DGRAM else listener.accept()


@pytest.mark.parametrize("port", ["the service's", "0", "65535"])
def test_whoever_asks_for_a_route_reaches_nobody(
    world: World, compiled: Path, server: Server, port: str
) -> None:
    """C libraries connect a datagram socket to learn whether an address has a route: told, and connected to nobody."""
    net = connects(TCP).replace("{port}", str(server.port))
    asked = str(server.port) if port == "the service's" else port
    tried = attempt(world, compiled, "udp probe, then send", LOOPBACK, asked, net=net)
    assert tried.code == REFUSED and tried.run.denied("net.send", TO), tried.run.explain()
    assert server.datagrams == 0
    granted = attempt(
        world,
        compiled,
        "udp probe, then send",
        LOOPBACK,
        str(server.port),
        net=connects(UDP).replace("{port}", str(server.port)),
    )
    assert granted.code == 0, granted.run.explain()
    wait_for(lambda: server.datagrams == 2, "both came")


@pytest.mark.parametrize(
    ("way", "call"), [("interface of a link", "connect"), ("interface of a link, message", "sendto")]
)
def test_a_socket_that_a_link_has(world: World, compiled: Path, server: Server, way: str, call: str) -> None:
    """It was connected to an address of one link, which is granted, and then elsewhere, which is too."""
    net = connects('"udp:127.0.0.1:*"', '"udp:[fe80::1]:*"', '"udp:[ff02::1]:*"')
    tried = attempt(world, compiled, way, LOOPBACK, str(server.port), net=net)
    assert tried.code == NEVER and tried.run.denied("kernel.call", call), tried.run.explain()
    assert server.datagrams == 0


def test_accepting(world: World, compiled: Path) -> None:
    tried = attempt(world, compiled, "accept", LOOPBACK, "0", net='connect = ["127.0.0.1:*"]')
    assert tried.code == REFUSED and tried.run.denied("net.bind", TO), tried.run.explain()
    granted = attempt(
        world, compiled, "accept", LOOPBACK, "0", net='connect = ["127.0.0.1:*"]\nlisten = ["127.0.0.1:0"]'
    )
    assert granted.code == 0, granted.run.explain()
    assert granted.run.allowed("net.listen", TO), granted.run.explain()


def test_ping(world: World, compiled: Path) -> None:
    """In a network of its own, where everybody may have ping sockets."""
    before = ["unshare", "--net", *([] if os.getuid() == 0 else ["--map-root-user"]), "--", "sh", "-c"]
    before += [
        'ip link set lo up && echo "0 2147483647" >/proc/sys/net/ipv4/ping_group_range && exec "$0" "$@"'
    ]
    if not shutil.which("ip") or subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("this machine makes no network namespaces")
    for way, kind, address in (
        ("ping", "inet datagram 1", "127.0.0.1"),
        ("ping by IPv6", "inet6 datagram 58", "[::1]"),
    ):
        for net, code, verb in (
            ("", REFUSED, "net.socket"),
            (f'socket = ["{kind}"]', REFUSED, "net.send"),
            (f'socket = ["{kind}"]\nconnect = ["{address}:*", "udp:{address}:*"]', REFUSED, "net.send"),
            (f'socket = ["{kind}"]\nconnect = ["other:{address}:*"]', 0, None),
        ):
            tried = attempt(world, compiled, way, LOOPBACK, "0", net=net, before=before)
            assert tried.code == code, net + tried.run.explain()
            assert verb is None or tried.run.denied(verb), tried.run.explain()


def test_the_tunnel_device(world: World, compiled: Path) -> None:
    if not Path("/dev/net/tun").exists():
        pytest.skip("this machine has no /dev/net/tun")
    tried = attempt(world, compiled, "tun")
    assert tried.code == REFUSED and tried.run.denied("fs.open", "/dev/net/tun"), tried.run.explain()
    granted = attempt(world, compiled, "tun interface", fs='write = ["/dev/net/tun"]')
    if granted.run.allowed("fs.open", "/dev/net/tun") and not granted.run.denied("kernel.call"):
        pytest.skip("this user may not open /dev/net/tun")
    assert granted.code == NEVER and granted.run.denied("kernel.call", "ioctl"), granted.run.explain()


def test_a_program_for_a_socket_has_nowhere_to_come_from(world: World, compiled: Path) -> None:
    """SO_ATTACH_BPF takes a program that bpf(2) loaded, which nobody in a run can."""
    assert attempt(world, compiled, "attach a program").code == errno.EBADF


def test_sockets_that_failcore_was_started_with(world: World, compiled: Path, server: Server) -> None:
    """What is left open is closed; the standard streams are the owner's, and lead nowhere but where they were."""
    port = str(server.port)
    with socket.create_connection((LOOPBACK, server.port)) as left:
        os.set_inheritable(left.fileno(), True)
        tried = under(world, compiled, [left.fileno()], None, "left open", LOOPBACK, str(left.fileno()))
        assert tried.code == errno.EBADF, tried.run.explain()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as loose:
        tried = under(world, compiled, [], loose, "standard input", LOOPBACK, port)
        assert tried.code == REFUSED and tried.run.denied("net.send", f'"port": {port}'), tried.run.explain()
        loose.connect((LOOPBACK, server.port))
        assert under(world, compiled, [], loose, "standard input, connected", LOOPBACK, port).code == 0
    assert server.streams == 1


def under(world: World, compiled: Path, fds: list[int], stdin: socket.socket | None, *args: str) -> Tried:
    """As `attempt`, with descriptors left open and a socket as its input."""
    from tests.conftest import records

    shutil.copy(compiled, world.work / "ways")
    world.hand_over()
    line, trace = world.command([str(world.work / "ways"), *args], policy=POLICY)
    done = subprocess.run(
        line,
        cwd=world.work,
        env=world.environ(),
        stdin=stdin if stdin is not None else subprocess.DEVNULL,
        pass_fds=fds,
        capture_output=True,
        text=True,
        timeout=60,
    )
    run = Run(done.returncode, done.stdout, done.stderr, trace, records(trace))
    assert run.out.strip().isdecimal(), run.explain()
    return Tried(run, int(run.out))


def free_port() -> int:
    """A port at which nobody is."""
    with socket.socket() as one:
        one.bind((LOOPBACK, 0))
        return int(one.getsockname()[1])
