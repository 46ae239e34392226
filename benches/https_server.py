"""A server for the benchmark of connections: what it is asked for, kept alive, over TLS.

    https_server.py CERTIFICATE KEY

It listens on a port of 127.0.0.1 and says which. `/N` is N bytes.
"""

import socket
import ssl
import sys
import threading

PIECE = bytes(1 << 20)


def serve(peer: socket.socket, context: ssl.SSLContext) -> None:
    try:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(peer, server_side=True) as stream:
            asked = b""
            while said := stream.recv(65536):
                asked += said
                while b"\r\n\r\n" in asked:
                    head, _, asked = asked.partition(b"\r\n\r\n")
                    answer(stream, int(head.split(b" ", 2)[1].rsplit(b"/", 1)[-1]))
    except OSError:
        peer.close()


def answer(stream: ssl.SSLSocket, length: int) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length
    first = min(length, 1024)
    stream.sendall(head + PIECE[:first])
    left = length - first
    while left:
        piece = min(left, len(PIECE))
        stream.sendall(memoryview(PIECE)[:piece])
        left -= piece


def main() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*sys.argv[1:3])
    context.set_alpn_protocols(["http/1.1"])
    server = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print(server.getsockname()[1], flush=True)
    threading.stack_size(1 << 20)
    while True:
        peer, _ = server.accept()
        threading.Thread(target=serve, args=(peer, context), daemon=True).start()


if __name__ == "__main__":
    main()
