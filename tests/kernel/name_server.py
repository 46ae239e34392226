"""A name server that says whatever a test wants, by UDP, TCP, TLS and HTTPS.

    python name_server.py CONFIG REPORT -- COMMAND…

CONFIG is JSON: `answers` maps `NAME KIND` to what is answered, `address` is where it serves, and `key` and `cert` are
files, without which it serves no TLS. An answer is a list of records in the form of zone files, after it the words of
`HOW`; a name without any does not exist. REPORT gets what was asked, and by what.
"""

import json
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import h2.config
import h2.connection
import h2.events

HOW = {
    "SERVFAIL",
    "REFUSED",
    "NXDOMAIN",
    "silent",  # says nothing
    "slow",  # after a second
    "truncated",  # by UDP
    "another name",  # a question that was not asked
    "another number",  # an answer to nobody
    "no answer",  # the question back, as a question
    "cut",  # in the middle of a record
    "garbage",
    "circle",  # names that point at each other
    "endless",  # a name that is its own end
    "counts",  # records that are not there
    "closed",  # a stream that ends
    "long",  # a length that nothing follows
    "nul",  # an alias with a NUL in it
    "dotted",  # an alias with a dot in a label
}


class Server:
    def __init__(self, answers: dict[str, list[str]]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def answer(self, wire: bytes, by: str) -> list[bytes]:
        """The messages that are sent back."""
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked.append(f"{by} {name} {kind}")
        reply = dns.message.make_response(query, recursion_available=True)
        lines = self.answers.get(f"{name} {kind}", self.answers.get(name))
        if lines is None:
            reply.set_rcode(dns.rcode.NXDOMAIN)
            return [reply.to_wire()]
        hows = [line for line in lines if line in HOW]
        for line in (line for line in lines if line not in HOW):
            owner, ttl, kind, *data = line.split(None, 3)
            reply.answer.append(dns.rrset.from_text(owner, int(ttl), "IN", kind, *data))
        for how in hows:
            if how in ("SERVFAIL", "REFUSED", "NXDOMAIN"):
                reply.set_rcode(dns.rcode.from_text(how))
            elif how == "slow":
                time.sleep(1)
            elif how == "truncated" and by == "udp":
                reply.flags |= dns.flags.TC
                reply.answer.clear()
        if by == "udp" and len(reply.to_wire(max_size=65535)) > 1232:
            reply.flags |= dns.flags.TC
            reply.answer.clear()
        return self.spoil(reply, hows, wire)

    def spoil(self, reply: dns.message.Message, hows: list[str], query: bytes) -> list[bytes]:
        wire = reply.to_wire(max_size=65535)
        question = len(query.split(b"\0\0\x29")[0]) if b"\0\0\x29" in query else len(query)
        head, asked = wire[:12], wire[12:question]

        def with_answers(n: int) -> bytes:
            return head[:6] + struct.pack("!H", n) + head[8:10] + b"\0\0"

        def alias(target: bytes) -> bytes:
            record = b"\xc0\x0c\0\5\0\1\0\0\0\x09" + struct.pack("!H", len(target)) + target
            return with_answers(1) + asked + record

        for how in hows:
            match how:
                case "silent" | "closed" | "long":
                    return []
                case "another name":
                    return [head + asked.replace(b"\x04good", b"\x04evil") + wire[question:]]
                case "another number":
                    return [bytes([wire[0] ^ 0x55]) + wire[1:]]
                case "no answer":
                    return [query]
                case "cut":
                    return [wire[:-20]]
                case "garbage":
                    return [wire[:2] + b"\xff" * 60]
                case "circle":
                    at = len(head) + len(asked)
                    return [
                        with_answers(1)
                        + asked
                        + struct.pack("!HH", 0xC000 | at + 2, 0xC000 | at)
                        + b"\0\1\0\1\0\0\0\x09\0\4\5\5\5\5"
                    ]
                case "endless":
                    return [
                        with_answers(1)
                        + asked
                        + struct.pack("!H", 0xC000 | len(head) + len(asked))
                        + b"\0\1\0\1\0\0\0\x09\0\4\5\5\5\5"
                    ]
                case "counts":
                    return [head[:6] + b"\xff\xff\xff\xff\xff\xff" + wire[12:]]
                case "nul":
                    return [alias(b"\x05evil\0\x07example\0")]
                case "dotted":
                    return [alias(b"\x0cgood.example\0")]
        return [wire]

    def datagrams(self, address: str) -> None:
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((address, 53))
        lock = threading.Lock()

        def one(wire: bytes, peer: Any) -> None:
            for message in self.answer(wire, "udp"):
                with lock:
                    server.sendto(message, peer)

        def loop() -> None:
            while True:
                threading.Thread(target=one, args=server.recvfrom(65535), daemon=True).start()

        threading.Thread(target=loop, daemon=True).start()

    def streams(self, address: str, port: int, by: str, tls: ssl.SSLContext | None) -> None:
        server = socket.create_server((address, port))

        def one(peer: socket.socket) -> None:
            try:
                stream = tls.wrap_socket(peer, server_side=True) if tls else peer
                (self.http if by == "https" else self.framed)(stream, by)
            except (OSError, struct.error):
                pass
            finally:
                peer.close()

        def loop() -> None:
            while True:
                threading.Thread(target=one, args=(server.accept()[0],), daemon=True).start()

        threading.Thread(target=loop, daemon=True).start()

    def framed(self, stream: socket.socket, by: str) -> None:
        while head := stream.recv(2, socket.MSG_WAITALL) if by == "tcp" else stream.recv(2):
            (length,) = struct.unpack("!H", head)
            wire = b""
            while len(wire) < length:
                wire += stream.recv(length - len(wire))
            query = dns.message.from_wire(wire)
            name = query.question[0].name.to_text(omit_final_dot=True).lower()
            if "closed" in self.answers.get(name, []):
                return
            if "long" in self.answers.get(name, []):
                stream.sendall(b"\xff\xff" + wire)
                time.sleep(30)
            for message in self.answer(wire, by):
                stream.sendall(struct.pack("!H", len(message)) + message)

    def http(self, stream: socket.socket, by: str) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        stream.sendall(connection.data_to_send())
        bodies: dict[int, bytes] = {}
        paths: dict[int, str] = {}
        while data := stream.recv(65535):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    headers = (
                        {bytes(k).decode(): bytes(v).decode() for k, v in map(tuple, event.headers)}
                        if isinstance(event.headers[0][0], bytes)
                        else dict(event.headers)
                    )
                    paths[event.stream_id], bodies[event.stream_id] = headers[":path"], b""
                elif isinstance(event, h2.events.DataReceived):
                    bodies[event.stream_id] += event.data
                    connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    for message in self.answer(bodies[event.stream_id], f"https {paths[event.stream_id]}"):
                        kind = [
                            (":status", "200"),
                            ("content-type", "application/dns-message"),
                            ("content-length", str(len(message))),
                        ]
                        connection.send_headers(event.stream_id, kind)
                        connection.send_data(event.stream_id, message, end_stream=True)
            stream.sendall(connection.data_to_send())


def main() -> int:
    config, report, _, *command = sys.argv[1:]
    with open(config) as file:
        wanted = json.load(file)
    server = Server(wanted["answers"])
    address = wanted["address"]
    server.datagrams(address)
    server.streams(address, 53, "tcp", None)
    if "cert" in wanted:
        for port, by, alpn in ((853, "tls", []), (443, "https", ["h2"])):
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(wanted["cert"], wanted["key"])
            if alpn:
                tls.set_alpn_protocols(alpn)
            server.streams(address, port, by, tls)
    code = subprocess.run(command, check=False).returncode
    with open(report, "w") as file:
        json.dump(server.asked, file)
    return code


if __name__ == "__main__":
    sys.exit(main())
