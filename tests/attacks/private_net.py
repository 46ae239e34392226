"""A private internet in a network namespace: names, answers that change, servers on "public" addresses.

    unshare --mount --net -- python private_net.py CONFIG REPORT -- COMMAND…

CONFIG is JSON: `names` maps a host name to its successive answers (the last one stays), each a list of addresses, in
which `=NAME` stands for an alias; `addresses` are put on loopback, and a web server listens on `port` of each, a name
server on port 53; of `quiet` ones there is nothing but the address, of `silent` ones somebody who never answers, and a web server at those
that `web` names. The web servers send whoever asks for `/to/URL`, quoted, to that URL. Where they are given, `hosts` are lines of /etc/hosts and `unix` paths in /run at which somebody
listens. REPORT gets what was asked and who got through to what. Nothing leaves the namespace: it has no other
interface.
"""

import ctypes
import errno
import fcntl
import ipaddress
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

SIOCSIFADDR, SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8916, 0x8913, 0x8914, 1
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000


def interface6(address: str) -> None:
    """Puts an IPv6 address on loopback: `struct in6_ifreq` of linux/ipv6.h."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as control:
        packed = struct.pack(
            "16sIi", socket.inet_pton(socket.AF_INET6, address), 128, socket.if_nametoindex("lo")
        )
        fcntl.ioctl(control, SIOCSIFADDR, packed)


def interface(name: str, address: str | None) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        if address:
            packed = struct.pack("16sHH4s8x", name.encode(), socket.AF_INET, 0, socket.inet_aton(address))
            fcntl.ioctl(control, SIOCSIFADDR, packed)
        flags = struct.unpack(
            "16sh", fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16sh", name.encode(), 0))
        )[1]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh", name.encode(), flags | IFF_UP))


def mount_over(path: str, text: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with tempfile.NamedTemporaryFile("w", delete=False) as file:
        file.write(text)
    os.chmod(file.name, 0o644)
    real = os.path.realpath(path)
    if libc.mount(file.name.encode(), real.encode(), None, MS_BIND, None) != 0:
        raise OSError(ctypes.get_errno(), f"cannot mount over {real}")
    os.unlink(file.name)


def label(name: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"


def serve_names(addresses: list[str], names: dict[str, list[list[str]]], asked: list[str]) -> None:
    turns: dict[str, int] = {}

    def answer(query: bytes) -> bytes:
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]])
            at += 1 + query[at]
        kind = struct.unpack("!H", query[at + 1 : at + 3])[0]
        question = query[12 : at + 5]
        name = b".".join(labels).decode("latin-1").lower()
        asked.append(name)
        if name not in names:
            return query[:2] + struct.pack("!HHHHH", 0x8183, 1, 0, 0, 0) + question
        turn = turns.get(name, 0)
        if kind == 1:
            turns[name] = turn + 1
        found = names[name][min(turn, len(names[name]) - 1)]
        owner, rows = b"\xc0\x0c", []
        for alias in (one[1:] for one in found if one.startswith("=")):
            rows.append(owner + struct.pack("!HHIH", 5, 1, 0, len(label(alias))) + label(alias))
            owner = label(alias)
        for one in found:
            if not one.startswith("=") and kind == (28 if ":" in one else 1):
                data = ipaddress.ip_address(one).packed
                rows.append(owner + struct.pack("!HHIH", kind, 1, 0, len(data)) + data)
        return query[:2] + struct.pack("!HHHHH", 0x8180, 1, len(rows), 0, 0) + question + b"".join(rows)

    def datagrams(server: socket.socket) -> None:
        while True:
            query, peer = server.recvfrom(4096)
            try:
                server.sendto(answer(query), peer)
            except (IndexError, struct.error):
                asked.append(repr(query))

    def streams(server: socket.socket) -> None:
        while True:
            peer, _ = server.accept()
            with peer:
                peer.settimeout(5)
                try:
                    reply = answer(peer.recv(4096)[2:])
                    peer.sendall(struct.pack("!H", len(reply)) + reply)
                except (IndexError, struct.error, OSError):
                    asked.append("a stream")

    for address in addresses:
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((address, 53))
        threading.Thread(target=datagrams, args=(server,), daemon=True).start()
        server = socket.create_server((address, 53))
        threading.Thread(target=streams, args=(server,), daemon=True).start()


def serve_unix(path: str, reached: dict[str, int]) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    os.chmod(path, 0o777)
    reached[path] = 0

    def loop() -> None:
        while True:
            server.accept()[0].close()
            reached[path] += 1

    threading.Thread(target=loop, daemon=True).start()


def listening(address: str, port: int, backlog: int) -> socket.socket:
    """A listening socket; the kernel may take a moment to have an IPv6 address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for _ in range(100):
        try:
            return socket.create_server((address, port), family=family, backlog=backlog)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            time.sleep(0.02)
    raise TimeoutError(address)


def serve_web(address: str, port: int, reached: dict[str, int]) -> None:
    server = listening(address, port, 1024)
    reached[address] = 0

    def loop() -> None:
        while True:
            peer, _ = server.accept()
            reached[address] += 1
            with peer:
                peer.settimeout(5)
                try:
                    path = peer.recv(65536).split(b" ")[1:2]
                    body = f"page of {address}".encode()
                    head = b"HTTP/1.1 200 OK\r\n"
                    if path and path[0].startswith(b"/to/"):
                        head = b"HTTP/1.1 302 Found\r\nLocation: %s\r\n" % urllib.parse.unquote_to_bytes(
                            path[0][4:]
                        )
                    peer.sendall(
                        b"%sConnection: close\r\nContent-Length: %d\r\n\r\n" % (head, len(body)) + body
                    )
                except OSError:
                    pass

    threading.Thread(target=loop, daemon=True).start()


def serve_silence(address: str, port: int) -> None:
    """A socket whose queue is full: the kernel drops whatever comes."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = listening(address, port, 0)
    waiting = [socket.socket(family) for _ in range(4)]
    for one in waiting:
        one.setblocking(False)
        one.connect_ex((address, port))
    KEPT.extend([server, *waiting])


KEPT: list[socket.socket] = []


def main() -> int:
    config, report, _, *command = sys.argv[1:]
    with open(config) as file:
        wanted = json.load(file)
    ctypes.CDLL(None).mount(None, b"/", None, MS_REC | MS_PRIVATE, None)
    interface("lo", None)
    for i, address in enumerate([*wanted["addresses"], *wanted.get("quiet", []), *wanted.get("silent", [])]):
        if ":" in address:
            interface6(address)
        else:
            interface(f"lo:{i}", address)
    mount_over("/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:2 attempts:1\n")
    mount_over("/etc/hosts", "127.0.0.1 localhost\n" + wanted.get("hosts", ""))
    asked: list[str] = []
    reached: dict[str, int] = {}
    serve_names(["127.0.0.1", *wanted["addresses"]], wanted["names"], asked)
    for address in ["127.0.0.1", *wanted["addresses"], *wanted.get("web", [])]:
        serve_web(address, wanted["port"], reached)
    for address in wanted.get("silent", []):
        serve_silence(address, wanted["port"])
    if wanted.get("unix"):
        ctypes.CDLL(None).mount(b"none", b"/run", b"tmpfs", 0, None)
    for path in wanted.get("unix", []):
        serve_unix(path, reached)
    code = subprocess.run(command, check=False).returncode
    with open(report, "w") as file:
        json.dump({"asked": asked, "reached": reached}, file)
    return code


if __name__ == "__main__":
    sys.exit(main())
