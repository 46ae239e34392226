"""Times connections and requests, under whatever stands around it, and prints JSON: nanoseconds each.

    https_client.py PLAIN TLS BYTES CROWD

PLAIN is a port of 127.0.0.1 that is only connected to (0: none is), TLS one of `https_server.py`, which is `localhost`.
It goes by `HTTPS_PROXY` and `SSL_CERT_FILE` as other clients do.
"""

import base64
import json
import os
import socket
import ssl
import sys
import threading
import time
import urllib.parse

CONNECTS, NEW, KEPT = 500, 100, 500
# Seconds that anything may take.
PATIENCE = 30
NAME = "localhost"


def opened(port: int) -> socket.socket:
    """A connection to the server, through a proxy where there is one."""
    proxy = urllib.parse.urlsplit(os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy") or "")
    if not proxy.hostname:
        return socket.create_connection(("127.0.0.1", port), PATIENCE)
    peer = socket.create_connection((proxy.hostname, proxy.port or 80), PATIENCE)
    head = f"CONNECT {NAME}:{port} HTTP/1.1\r\nHost: {NAME}:{port}\r\n"
    if proxy.username:
        user = f"{urllib.parse.unquote(proxy.username)}:{urllib.parse.unquote(proxy.password or '')}"
        head += f"Proxy-Authorization: Basic {base64.b64encode(user.encode()).decode()}\r\n"
    peer.sendall(f"{head}\r\n".encode())
    agreed(peer)
    return peer


def agreed(peer: socket.socket) -> bytes:
    """Reads an answer's head, which has to say 200; what came after it."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        said = peer.recv(16384)
        answer += said
        if not said:
            raise OSError(f"it ended after {answer!r}")
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0] + b" ":
        raise OSError(f"it answers {answer!r}")
    return body


def secure(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    peer = opened(port)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(peer, server_hostname=NAME)


def ask(stream: ssl.SSLSocket, port: int, length: int, room: memoryview) -> None:
    """One request, and all of its answer."""
    stream.sendall(f"GET /{length} HTTP/1.1\r\nHost: {NAME}:{port}\r\n\r\n".encode())
    left = length - len(agreed(stream))
    while left:
        got = stream.recv_into(room)
        if not got:
            raise OSError(f"{left} bytes are missing")
        left -= got


def timed(repeat: int, what) -> float:
    """Nanoseconds each."""
    since = time.perf_counter_ns()
    for _ in range(repeat):
        what()
    return (time.perf_counter_ns() - since) / repeat


def crowd(number: int, one) -> tuple[float, list[str]]:
    """As many at once, each in a thread of its own; nanoseconds each, and what failed."""
    begin, failed = threading.Barrier(number + 1), []

    def run() -> None:
        begin.wait()
        try:
            one()
        except OSError as error:
            failed.append(repr(error))

    threading.stack_size(256 << 10)
    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    begin.wait()
    since = time.perf_counter_ns()
    for thread in threads:
        thread.join()
    return (time.perf_counter_ns() - since) / number, failed


def main() -> None:
    plain, port, size, number = (int(one) for one in sys.argv[1:5])
    context, room = ssl.create_default_context(), memoryview(bytearray(1 << 18))
    context.set_alpn_protocols(["http/1.1"])

    def connect() -> None:
        with socket.socket() as peer:
            peer.connect(("127.0.0.1", plain))

    def request() -> None:
        with secure(port, context) as stream:
            ask(stream, port, 100, room)

    request()
    found = {}
    if plain:
        connect()
        found["connect"] = timed(CONNECTS, connect)
    found["new"] = timed(NEW, request)
    with secure(port, context) as stream:
        found["kept"] = timed(KEPT, lambda: ask(stream, port, 100, room))
    with secure(port, context) as stream:
        found["bytes"] = timed(1, lambda: ask(stream, port, size, room))
    took, failed = crowd(number, request)
    found |= {"failed": len(failed)} if failed else {"crowd": took}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
