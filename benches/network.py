"""Measures what connections cost, direct and carried, beside doing without and others.

Writes docs/benchmarks-network.md.

    make bench                            everything
    benches/network.py --rounds 3         quicker
    benches/network.py --bytes 1073741824 a transfer of 1 GiB

The contenders take turns in every round, in a shuffled order, each in a fresh process. A ratio is the median over the
rounds of that round's ratio to doing without. What cannot run here is left out, and said with why.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from run import FAILCORE, ROOT, arguments, cell, listener, machine

HERE = ROOT / "benches"
PLACE = ROOT / ".venv-bench-network"
POLICY = """
version = 1
extends = ["preset:python"]

[fs]
read = ["{benches}", "{directory}"]
write = ["{directory}/work"]

[env]
pass = ["PATH", "HOME", "SSL_CERT_FILE"]

[net]
{net}
"""
WAYS = {
    "FailCore, direct": 'connect = ["localhost:{plain}", "localhost:{tls}"]',
    "FailCore, carried": 'connect = [{{ host = "localhost:{plain}", carry = true }}, '
    '{{ host = "localhost:{tls}", carry = true }}]',
    "FailCore, opened": 'http = ["GET localhost:{plain}/**", "GET localhost:{tls}/**"]',
}
# What is not opened, and what is.
PASSED = ["bare", "FailCore, direct", "sandlock, direct", "FailCore, carried", "sandbox-runtime"]
OPENED = ["bare", "FailCore, opened", "sandlock", "sandbox-runtime, opened", "mitmproxy"]
ROWS = {
    "connect + close": "connect",
    "HTTPS request, a connection each": "new",
    "HTTPS request, kept alive": "kept",
    "a transfer of {bytes}": "bytes",
    "HTTPS request, {crowd} at once": "crowd",
}


class Bench:
    """A directory with certificates and policies, a server, and the ways to run the client."""

    def __init__(self, directory: Path, plain: int, size: int, crowd: int) -> None:
        self.directory, self.plain, self.size, self.crowd, self.traces = directory, plain, size, crowd, 0
        (directory / "work").mkdir()
        self.certificates()
        argv = [sys.executable, HERE / "https_server.py", "site.pem", "site.key"]
        self.server = subprocess.Popen(argv, cwd=directory, stdout=subprocess.PIPE, text=True)
        assert self.server.stdout
        self.tls = int(self.server.stdout.readline())
        for name, net in WAYS.items():
            text = POLICY.format(benches=HERE, directory=directory, net=net.format(plain=plain, tls=self.tls))
            self.policy(name).write_text(text)
        self.missing: dict[str, str] = {}
        self.python = PLACE / "bin/python"
        self.ways = ["bare", *WAYS]
        self.others()

    def policy(self, name: str) -> Path:
        return self.directory / f"{name.split()[-1]}.toml"

    def certificates(self) -> None:
        """An authority that everybody believes, what it says of `localhost`, and one for those that open TLS."""
        new = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-newkey"]
        curve, rsa = ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], ["rsa:2048"]
        authority = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
        site = ["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"]
        site += ["-CA", "ca.pem", "-CAkey", "ca.key"]
        # sandbox-runtime takes no other key than RSA.
        for name, key, more in [("ca", curve, authority), ("opener", rsa, authority), ("site", curve, site)]:
            argv = [
                *new,
                *key,
                "-keyout",
                f"{name}.key",
                "-out",
                f"{name}.pem",
                "-subj",
                f"/CN={name}",
                *more,
            ]
            subprocess.run(argv, cwd=self.directory, check=True, capture_output=True)

    def others(self) -> None:
        """Installs what we are measured against, as far as the registries have it, and sees what of it runs here."""
        if not (PLACE / "bin/pip").exists():
            subprocess.run([sys.executable, "-m", "venv", PLACE], check=True)
        for name, version in {"sandlock": "0.9.0", "mitmproxy": "11.0.2"}.items():
            subprocess.run([PLACE / "bin/pip", "install", "-q", f"{name}=={version}"], check=False)
        if shutil.which("npm"):
            argv = ["npm", "install", "--silent", "--prefix", PLACE, "@anthropic-ai/sandbox-runtime@0.0.78"]
            subprocess.run(argv, check=False, stdout=subprocess.DEVNULL)
        for name in (
            "sandlock, direct",
            "sandlock",
            "sandbox-runtime",
            "sandbox-runtime, opened",
            "mitmproxy",
        ):
            try:
                self.measure(name, size=1000, crowd=10)
                self.ways.append(name)
            except (OSError, RuntimeError) as error:
                self.missing[name] = str(error).strip()[-600:]

    def measure(self, name: str, size: int | None = None, crowd: int | None = None) -> dict[str, float]:
        """One turn of one contender."""
        # Whoever goes through a proxy cannot connect to a port that speaks nothing.
        plain = 0 if name.startswith(("sandbox-runtime", "mitmproxy")) or name == "sandlock" else self.plain
        client = [str(self.python), str(HERE / "https_client.py"), str(plain), str(self.tls)]
        client += [str(size or self.size), str(crowd or self.crowd)]
        with self.under(name, client) as (argv, environ):
            done = subprocess.run(
                argv,
                capture_output=True,
                text=True,
                env={**self.environ(), **environ},
                cwd=self.directory / "work",
                timeout=600,
                check=False,
            )
        if done.returncode:
            raise RuntimeError(f"{name} failed: {done.stdout}{done.stderr}")
        return dict(json.loads(done.stdout.splitlines()[-1]))

    def environ(self) -> dict[str, str]:
        path = f"{os.environ['PATH']}:{PLACE / 'node_modules/.bin'}"
        return {
            "HOME": str(self.directory / "work"),
            "PATH": path,
            "SSL_CERT_FILE": str(self.directory / "ca.pem"),
        }

    @contextlib.contextmanager
    def under(self, name: str, argv: list[str]) -> Iterator[tuple[list[str], dict[str, str]]]:
        """The command that way, and what is in its environment, while the block lasts."""
        opener, ca = str(self.directory / "opener.pem"), str(self.directory / "ca.pem")
        if name in WAYS:
            self.traces += 1
            trace = self.directory / f"trace-{self.traces}"
            head = [str(FAILCORE), "--quiet", "run", "--lane", "kernel", "-p", str(self.policy(name))]
            yield [*head, "--trace", str(trace), "--", *argv], {}
        elif name.startswith("sandlock"):
            head = [str(self.python), str(HERE / "sandlock_run.py"), str(self.directory)]
            if name == "sandlock, direct":
                yield [*head, f"{self.plain},{self.tls}", *argv], {}
            else:
                opens = ["--open", opener, str(self.directory / "opener.key")]
                # It believes the authority of the server, and the client its own.
                yield [*head, str(self.tls), *opens, "env", f"SSL_CERT_FILE={opener}", *argv], {}
        elif name.startswith("sandbox-runtime"):
            network: dict[str, object] = {"allowedDomains": [f"localhost:{self.tls}"], "deniedDomains": []}
            if name.endswith("opened"):
                network["tlsTerminate"] = {
                    "caCertPath": opener,
                    "caKeyPath": str(self.directory / "opener.key"),
                }
            filesystem = {"denyRead": [], "allowWrite": [str(self.directory / "work")], "denyWrite": []}
            settings = self.directory / "srt.json"
            settings.write_text(json.dumps({"network": network, "filesystem": filesystem}))
            yield ["srt", "--settings", str(settings), *argv], {"NODE_EXTRA_CA_CERTS": ca}
        elif name == "mitmproxy":
            with self.mitmproxy(ca) as port:
                proxy = f"http://127.0.0.1:{port}"
                yield argv, {"HTTPS_PROXY": proxy, "SSL_CERT_FILE": str(self.directory / "mitm/ca.pem")}
        else:
            yield argv, {}

    @contextlib.contextmanager
    def mitmproxy(self, ca: str) -> Iterator[int]:
        """A proxy of its own, which streams what is long."""
        at = self.directory / "mitm"
        if not at.exists():
            at.mkdir()
            pem = [(self.directory / f"opener.{kind}").read_text() for kind in ("key", "pem")]
            (at / "mitmproxy-ca.pem").write_text("".join(pem))
            shutil.copy(self.directory / "opener.pem", at / "ca.pem")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        argv = [str(PLACE / "bin/mitmdump"), "-q", "--listen-host", "127.0.0.1", "--listen-port", str(port)]
        for option in (f"confdir={at}", f"ssl_verify_upstream_trusted_ca={ca}", "stream_large_bodies=1m"):
            argv += ["--set", option]
        proxy = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for _ in range(300):
                if proxy.poll() is not None:
                    raise RuntimeError("mitmdump does not start")
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.1)
            yield port
        finally:
            proxy.terminate()
            proxy.wait()


def table(rounds: list[dict[str, dict[str, float]]], names: list[str], rows: dict[str, str]) -> list[str]:
    """One row each, a column for each contender."""
    names = [name for name in names if name in rounds[0]]
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for row, key in rows.items():
        cells = []
        for name in names:
            found = [r for r in rounds if key in r[name]]
            if not found and any("failed" in r[name] for r in rounds) and key == "crowd":
                cells.append("some fail")
                continue
            times = [r[name][key] for r in found]
            cells.append(cell(times, None if name == "bare" else [r["bare"][key] for r in found]))
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = arguments(__doc__, "benchmarks-network.md")
    parser.add_argument("--bytes", type=int, default=256 << 20, help="length of the transfer")
    parser.add_argument("--crowd", type=int, default=500, help="requests at once")
    parser.add_argument("--only", nargs="*", help="these contenders, beside doing without")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="failcore-bench-")).resolve()
    server, plain = listener()
    bench = None
    try:
        bench = Bench(directory, plain, options.bytes, options.crowd)
        names = [name for name in bench.ways if not options.only or name in ["bare", *options.only]]
        order, rounds = random.Random(1), []
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            turns = names.copy()
            order.shuffle(turns)
            rounds.append({name: bench.measure(name) for name in turns})
    finally:
        server.close()
        if bench:
            bench.server.kill()
        shutil.rmtree(directory, ignore_errors=True)

    size = f"{options.bytes / (1 << 20):.0f} MiB"
    rows = {name.format(bytes=size, crowd=options.crowd): key for name, key in ROWS.items()}
    lines = [
        "# Benchmarks of connections",
        "",
        "Written by `make bench`; do not edit. One run, contenders interleaved in shuffled order, each turn in a",
        f"fresh process; times are medians over {options.rounds} rounds, ratios medians of each round's ratio to doing",
        "without. Last run",
        machine(),
        "",
        "Client and server are Python with OpenSSL, the server a process of its own, all on loopback: with a network",
        "between, what is added is the same and the ratios are smaller. Both take their share of each figure, and of",
        "the processors. `benches/https_client.py` says what exactly is timed.",
        "",
        "## Passed on",
        "",
        "*FailCore* is `failcore run --lane kernel`, every decision recorded before it takes effect: *direct* the",
        "plain grant of a host, *carried* one with `carry = true`, where the name that TLS asks for is checked.",
        "sandlock judges the address. sandbox-runtime is a proxy, which is told the name in `CONNECT`; nobody can",
        "just connect there.",
        "",
        *table(rounds, PASSED, rows),
        "",
        "## Opened",
        "",
        "TLS is opened, so that each request can be judged: *FailCore* with an `http` rule, which judges and records",
        "method, host and path; sandlock with `http_allow`; sandbox-runtime with `tlsTerminate`, where the host alone",
        "is judged; mitmproxy judges nothing.",
        "",
        *table(rounds, OPENED, {row: key for row, key in rows.items() if key != "connect"}),
    ]
    if failed := {name: [r[name]["failed"] for r in rounds if "failed" in r[name]] for name in names}:
        lines += [""] + [
            f"Of {options.crowd} at once, {name} fails {min(some):.0f} to {max(some):.0f} in {len(some)} of"
            f" {options.rounds} rounds, which are left out."
            for name, some in failed.items()
            if some
        ]
    if bench.missing:
        lines += ["", "Not measured, as it did not run here:", ""]
        lines += [f"- {name}: {' '.join(why.split())}" for name, why in sorted(bench.missing.items())]
    options.write.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
