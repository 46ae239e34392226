"""A server that speaks HTTP/1.1 and HTTP/2 over TLS, and writes down what it was asked.

    python tls_upstream.py CONFIG

CONFIG is JSON: `log` gets a line of JSON for each request; each of `sites` is an `address`, a `port`, and `cert` and `key`
(none: without TLS), or a `proxy`. `root` is a directory that is served below /files/, and below /git/ by git's smart
protocol. /events/N are N events, five a second. It says `ready` once it listens.
"""

import base64
import hashlib
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

LOCK = threading.Lock()


class Site:
    def __init__(self, config: dict[str, Any], site: dict[str, Any]) -> None:
        self.log, self.root = Path(config["log"]), config.get("root")
        self.context: ssl.SSLContext | None = None
        if site.get("cert"):
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(site["cert"], site["key"])
            self.context.set_alpn_protocols(site.get("alpn", ["h2", "http/1.1"]))
        self.proxy = site.get("proxy", False)
        family = socket.AF_INET6 if ":" in site["address"] else socket.AF_INET
        self.socket = socket.create_server((site["address"], site["port"]), family=family, backlog=1024)
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            peer, _ = self.socket.accept()
            threading.Thread(target=self.speak, args=(peer,), daemon=True).start()

    def note(self, **said: Any) -> None:
        with LOCK, self.log.open("a") as log:
            log.write(json.dumps(said) + "\n")

    def speak(self, peer: socket.socket) -> None:
        try:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.proxy:
                return self.connect(peer)
            stream: socket.socket = peer
            if self.context:
                stream = self.context.wrap_socket(peer, server_side=True)
                self.note(connected=self.socket.getsockname()[0])
            if isinstance(stream, ssl.SSLSocket) and stream.selected_alpn_protocol() == "h2":
                speak_two(self, stream)
            else:
                One(stream, self)
        except (OSError, ssl.SSLError) as error:
            self.note(broken=repr(error))
        finally:
            peer.close()

    def connect(self, peer: socket.socket) -> None:
        """Connects whoever asks to whom it asks for, and passes on a request that names its server."""
        head = b""
        while b"\r\n\r\n" not in head:
            head += peer.recv(1)
        method, target, _ = head.decode().split(" ", 2)
        fields = [line.split(": ", 1) for line in head.decode().splitlines()[1:] if line]
        self.note(proxied=f"{method} {target}", headers={name.lower(): value for name, value in fields})
        host, _, port = target.removeprefix("http://").split("/")[0].partition(":")
        with socket.create_connection((host, int(port or 80)), 20) as far:
            if method == "CONNECT":
                peer.sendall(b"HTTP/1.1 200 connected\r\n\r\n")
            else:
                path = "/" + target.removeprefix("http://").partition("/")[2]
                far.sendall(head.replace(target.encode(), path.encode(), 1))
            back = threading.Thread(target=pump, args=(far, peer), daemon=True)
            back.start()
            pump(peer, far)
            back.join()

    def answer(self, asked: dict[str, Any], body: bytes) -> tuple[int, bytes, dict[str, str]]:
        """Status, body, and fields that are the answer's own."""
        if asked["path"].startswith("/git/") and self.root:
            self.note(**asked, length=len(body))
            return serve_git(Path(self.root), asked, body)
        return *self.page(asked, body), {}

    def page(self, asked: dict[str, Any], body: bytes) -> tuple[int, bytes]:
        self.note(**asked, length=len(body))
        path = asked["path"]
        if path.startswith("/big/"):
            return 200, b"x" * int(path.rsplit("/")[-1])
        if path.startswith("/files/") and self.root:
            file = Path(self.root) / path.split("?")[0].removeprefix("/files/")
            return (200, file.read_bytes()) if file.is_file() else (404, b"no such file")
        return 200, json.dumps({**asked, "body": body.decode("latin-1")}).encode()


def serve_git(root: Path, asked: dict[str, Any], body: bytes) -> tuple[int, bytes, dict[str, str]]:
    """As a web server does that has `git http-backend` for a CGI program (RFC 3875)."""
    path, _, query = asked["path"].removeprefix("/git").partition("?")
    fields = asked["headers"]
    environ = {
        "PATH": os.environ["PATH"],
        "GIT_PROJECT_ROOT": str(root),
        "GIT_HTTP_EXPORT_ALL": "1",
        # The files are the ordinary user's, who is not ours.
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
        "GIT_PROTOCOL": fields.get("git-protocol", ""),
        "REMOTE_ADDR": "127.0.0.1",
        "REQUEST_METHOD": asked["method"],
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "CONTENT_TYPE": fields.get("content-type", ""),
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_CONTENT_ENCODING": fields.get("content-encoding", ""),
    }
    done = subprocess.run(["git", "http-backend"], env=environ, input=body, capture_output=True, check=False)
    head, _, said = done.stdout.partition(b"\r\n\r\n")
    lines = [line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line]
    own = {name.lower(): value for name, value in lines}
    status = int(own.pop("status", "200 OK" if own else "500 nothing").split(" ")[0])
    return status, said or done.stderr, own


def pump(near: socket.socket, far: socket.socket) -> None:
    try:
        while said := near.recv(65536):
            far.sendall(said)
        far.shutdown(socket.SHUT_WR)
    except OSError:
        pass


class One(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, stream: socket.socket, site: Site) -> None:
        self.site = site
        super().__init__(stream, stream.getpeername(), None)  # type: ignore[arg-type]

    def log_message(self, *_: Any) -> None:
        pass

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline() not in (b"\r\n", b""):
                pass
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def handle_any(self) -> None:
        asked = {
            "method": self.command,
            "path": self.path,
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "protocol": self.request_version,
        }
        if self.path == "/socket" or self.path.startswith("/events"):
            (self.websocket if self.path == "/socket" else self.events)(asked)
            return
        body = self.body()
        status, said, own = self.site.answer(asked, body)
        self.send_response(status)
        for field in own.items():
            self.send_header(*field)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(said)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = handle_any

    def events(self, asked: dict[str, Any]) -> None:
        self.site.note(**asked)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for n in range(int(self.path.removeprefix("/events").strip("/") or 5)):
            event = f"data: {n} {time.time()}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
            self.wfile.flush()
            time.sleep(0.2)
        self.wfile.write(b"0\r\n\r\n")

    def websocket(self, asked: dict[str, Any]) -> None:
        self.site.note(**asked)
        key = self.headers.get("Sec-WebSocket-Key", "") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", accept)
        self.end_headers()
        self.close_connection = True
        while said := self.connection.recv(4096):
            self.connection.sendall(said)


def speak_two(site: Site, stream: ssl.SSLSocket) -> None:
    import h2.config
    import h2.connection
    import h2.events

    speaker = h2.connection.H2Connection(
        h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
    )
    speaker.initiate_connection()
    stream.sendall(speaker.data_to_send())
    asked: dict[int, dict[str, Any]] = {}
    bodies: dict[int, bytes] = {}
    due: dict[int, bytes] = {}

    def push() -> None:
        for number in list(due):
            while due[number]:
                room = min(speaker.local_flow_control_window(number), speaker.max_outbound_frame_size)
                if room <= 0:
                    break
                speaker.send_data(number, due[number][:room])
                due[number] = due[number][room:]
            if not due[number]:
                del due[number]
                speaker.end_stream(number)

    while said := stream.recv(65536):
        for event in speaker.receive_data(said):
            if isinstance(event, h2.events.RequestReceived):
                pairs = [(str(name), str(value)) for name, value in event.headers]
                asked[event.stream_id] = {
                    "method": dict(pairs)[":method"],
                    "path": dict(pairs)[":path"],
                    "headers": {name: value for name, value in pairs if not name.startswith(":")},
                    "authority": dict(pairs).get(":authority"),
                    "protocol": "HTTP/2",
                }
                bodies[event.stream_id] = b""
            elif isinstance(event, h2.events.DataReceived):
                bodies[event.stream_id] += event.data
                speaker.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                status, body, own = site.answer(asked.pop(event.stream_id), bodies.pop(event.stream_id))
                fields = [(":status", str(status)), ("content-length", str(len(body))), *own.items()]
                speaker.send_headers(event.stream_id, fields)
                due[event.stream_id] = body
        push()
        stream.sendall(speaker.data_to_send())


def main() -> None:
    config = json.loads(Path(sys.argv[1]).read_text())
    sites = [Site(config, site) for site in config["sites"]]
    print("ready", len(sites), flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
