"""Host names in the kernel lane: whoever asks, in whatever way, is answered by the broker.

The programs here know nothing of FailCore: C programs with resolvers of their own, and Python without the hook. All
happens in a private internet whose name servers say what they were asked.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.test_names_and_rebinding import UNSHARE
from tests.conftest import Run, World, only

pytestmark = only("kernel")

HERE = Path(__file__).parent
PORT = 8080
PUBLIC, OTHER, METADATA, SERVER = "93.184.215.14", "93.184.215.15", "169.254.169.254", "9.9.9.9"
MANY = [f"93.184.{i // 100}.{i % 100 + 1}" for i in range(30)]
NAMES: dict[str, list[list[str]]] = {
    "good.example": [[PUBLIC, "2606:4700::1111"]],
    "two.example": [[PUBLIC, OTHER]],
    "many.example": [MANY],
    "alias.example": [["=real.example", PUBLIC]],
    "real.example": [[PUBLIC]],
    "hidden.example": [["=tracker.example", OTHER]],
    "tracker.example": [[OTHER]],
    "inside.example": [["127.0.0.1", METADATA]],
    "rebind.example": [[PUBLIC], ["127.0.0.1"]],
    "other.example": [[OTHER]],
}
GRANTED = ["good", "two", "many", "alias", "hidden", "inside", "rebind", "gone"]
POLICY = f"""
version = 1
extends = ["preset:native"]
[fs]
read = ["./work", "/etc/alternatives", "/opt"]
[process]
exec = ["./work/*", "/bin/sh", "/usr/bin/getent", "/usr/bin/env", "/usr/bin/python3*"]
[net]
socket = ["netlink raw 0"] # which addresses this machine has: for AI_ADDRCONFIG
connect = [{", ".join(f'"{name}.example:{PORT}"' for name in GRANTED)}]
deny = ["tracker.example"]
"""


def program(world: World, source: str, *options: str, compiler: str = "cc") -> str:
    """A C program, compiled into the workspace."""
    if not shutil.which(compiler):
        pytest.skip(f"there is no {compiler}")
    made = world.work / Path(source).stem
    begin = [compiler, "-O1", "-pthread", "-o", str(made)]
    empty = subprocess.run(
        [*begin, "-x", "c", "-", *options],
        input="int main(void) { return 0; }",
        text=True,
        capture_output=True,
    )
    if empty.returncode:
        pytest.skip(f"{' '.join(options)}: not installed")
    subprocess.run([*begin, str(HERE / source), *options], check=True, timeout=60)
    return str(made)


def lan(world: World, **wanted: Any) -> list[str]:
    """The beginning of a command that runs in the private internet."""
    if not shutil.which("unshare") or subprocess.run([*UNSHARE, "true"], capture_output=True).returncode:
        pytest.skip("this machine makes no network namespaces")
    config = {"names": NAMES, "addresses": [PUBLIC, OTHER, METADATA, SERVER], "port": PORT, **wanted}
    (world.base / "net.json").write_text(json.dumps(config))
    private = Path(__file__).parents[1] / "attacks" / "private_net.py"
    files = [str(world.base / "net.json"), str(world.base / "net-report.json")]
    return [*UNSHARE, "--", sys.executable, str(private), *files, "--"]


def inside(
    world: World, argv: Sequence[str], policy: str = POLICY, **wanted: Any
) -> tuple[Run, dict[str, Any]]:
    """A run in the private internet, with what its servers saw."""
    run = world.run("", argv=argv, policy=policy, before=lan(world, **wanted))
    return run, json.loads((world.base / "net-report.json").read_text())


def can_answer_as_asked(world: World) -> bool:
    """Root writes whole packets; others need a network of their own."""
    own = ["unshare", "--user", "--net", "--map-root-user", "true"]
    return world.uid == 0 or subprocess.run([*world.as_user, *own], capture_output=True).returncode == 0


def lines(run: Run) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in run.out.splitlines())


def test_the_c_library_finds_what_it_finds_without_us(world: World) -> None:
    names = ["good.example", "two.example", "alias.example", "many.example", "gone.example", "localhost"]
    look = program(world, "lookups.c")
    run, seen = inside(world, [look, *names])
    plain = subprocess.run(
        [*lan(world), *world.as_user, look, *names], capture_output=True, text=True, timeout=60, check=True
    )
    pairs = zip(run.out.splitlines(), plain.stdout.splitlines(), strict=True)
    assert [pair for pair in pairs if pair[0] != pair[1]] == []
    assert run.out.count("in a thread good.example: 0") == 8
    assert set(seen["asked"]) <= set(names), "nobody was asked for the name of an address"
    assert not [record for record in run.denied("net.connect")], "probes for a route are no connections"


WAYS = "connect, connect msg, connect mmsg, sendto, bind sendto, msg, mmsg, stream, stream fastopen, stream nonblock"


@pytest.mark.parametrize("way", WAYS.split(", "))
def test_a_resolver_of_its_own_is_answered_and_no_refused_name_gets_out(world: World, way: str) -> None:
    refused = ["other.example", "c2vjcmv0.exfil.example", "tracker.example", "a" * 63 + ".evil.example"]
    spelt = ["evil.example\\0.good.example", "good\\.example", "good.example.evil.example", "127.0.0.1"]
    resolver = program(world, "resolver.c")
    for server in ["127.0.0.1", SERVER, "10.9.8.7", "::ffff:9.9.9.9", "2001:db8::53"]:
        run, seen = inside(
            world, [resolver, way, server, "good.example", "GOOD.example", "inside.example", *refused, *spelt]
        )
        said = lines(run)
        assert said["good.example"] == said["GOOD.example"] == "code 0, 1 answers", run.explain()
        for name in ["inside.example", *refused, *spelt]:
            assert said[name] == "code 3, 0 answers", run.explain()
        assert set(seen["asked"]) == {"good.example", "inside.example"}, seen["asked"]
        for name in refused:
            assert run.denied("net.resolve", name), run.explain()
        odd = {record["request"]["action"]["name"] for record in run.denied("unmapped")}
        assert len(odd) == 3, run.explain()
        assert not run.denied("net.connect") and not run.denied("net.send") and not run.denied("net.bind")


@pytest.mark.parametrize("way", ["checked sendto", "checked bind sendto", "checked mmsg"])
def test_a_resolver_that_looks_where_the_answer_comes_from(world: World, way: str) -> None:
    resolver = program(world, "resolver.c")
    run, _ = inside(world, [resolver, way, SERVER, "good.example", "other.example"])
    notices = [record["text"] for record in run.records if record["type"] == "notice"]
    if can_answer_as_asked(world):
        assert lines(run) == {"good.example": "code 0, 1 answers", "other.example": "code 3, 0 answers"}, (
            run.explain()
        )
        assert notices == [] and "left behind" not in run.err, run.explain()
    else:
        # It is said once, not left to be guessed.
        assert set(lines(run).values()) == {"not from the server"}, run.explain()
        assert len(notices) == 1 and f"asked {SERVER}:53" in notices[0], run.explain()


def test_where_nobody_may_answer_in_the_name_of_another(world: World) -> None:
    if world.uid != 0:
        pytest.skip("only root can take away what an ordinary user may do")
    resolver = program(world, "resolver.c")
    nothing = "echo 0 >/proc/sys/user/max_user_namespaces; exec setpriv --bounding-set=-all --inh-caps=-all -- $0 $*"
    before = [*lan(world), "unshare", "--user", "--map-root-user", "--", "sh", "-c", nothing]
    for way in ("checked sendto", "sendto"):
        # One that does not look takes the answer all the same.
        word = "not from the server" if way.startswith("checked") else "code 0, 1 answers"
        script = world.work / "ask.sh"
        script.write_text(f"exec {resolver} '{way}' {SERVER} good.example\n")
        run = world.run("", argv=["/bin/sh", str(script)], policy=POLICY, before=before)
        assert lines(run) == {"good.example": word}, run.explain()
        notices = [record["text"] for record in run.records if record["type"] == "notice"]
        assert [f"asked {SERVER}:53" in notice for notice in notices] == [True], run.explain()


@pytest.mark.parametrize("stream", [[], ["t"]])
def test_c_ares(world: World, stream: list[str]) -> None:
    ares = program(world, "ares.c", "-lcares")
    run, seen = inside(world, [ares, *stream, "two.example", "many.example", "other.example"])
    said = lines(run)
    assert sorted(said["two.example"].split()) == [PUBLIC, OTHER], run.explain()
    assert sorted(said["many.example"].split()) == sorted(MANY), run.explain()
    assert said["other.example"] == "error 4", run.explain()
    assert set(seen["asked"]) == {"two.example", "many.example"}


def test_another_c_library(world: World) -> None:
    if not can_answer_as_asked(world):
        pytest.skip("this user makes no namespaces, and musl takes no answer but the asked server's own")
    look = program(world, "lookups.c", "-static", compiler="musl-gcc")
    names = ["good.example", "two.example", "gone.example", "localhost"]
    run, seen = inside(world, [look, *names])
    plain = subprocess.run([*lan(world), look, *names], capture_output=True, text=True, check=True)
    pairs = zip(run.out.splitlines(), plain.stdout.splitlines(), strict=True)
    assert [pair for pair in pairs if pair[0] != pair[1]] == []
    assert set(seen["asked"]) <= set(names)


def test_connections_follow_the_names(world: World) -> None:
    script = world.work / "dial.py"
    script.write_text(f"""
import socket
def dial(host):
    try:
        with socket.create_connection((host, {PORT}), 5) as peer:
            peer.sendall(b"x")
            return peer.recv(1000).decode().rsplit(None, 1)[-1]
    except OSError as error:
        return type(error).__name__
for host in ("{PUBLIC}", "good.example", "{PUBLIC}", "two.example", "alias.example", "hidden.example", "inside.example",
             "other.example", "rebind.example", "rebind.example", "127.0.0.1", "{METADATA}"):
    print(host + ":", dial(host), flush=True)
""")
    # Without the hook: nothing in the process helps.
    argv = ["/usr/bin/env", "-u", "LD_PRELOAD", "/usr/bin/python3", "-I", str(script)]
    run, seen = inside(world, argv)
    said = [line.split(": ") for line in run.out.splitlines()]
    assert len(said) == 12, run.explain()
    assert said[0] == [PUBLIC, "PermissionError"], run.explain()
    assert said[1:5] == [
        ["good.example", PUBLIC],
        [PUBLIC, PUBLIC],
        ["two.example", PUBLIC],
        ["alias.example", PUBLIC],
    ], run.explain()
    assert [what for _, what in said[5:8]] == ["gaierror"] * 3, run.explain()
    assert said[8] == ["rebind.example", PUBLIC], run.explain()
    assert [what for _, what in said[10:]] == ["PermissionError"] * 2, run.explain()
    assert seen["reached"]["127.0.0.1"] == seen["reached"][METADATA] == 0
    # Asked for is the name that is an alias of a refused one; the refused name itself is not.
    assert {"hidden.example"} <= set(seen["asked"]) and "tracker.example" not in seen["asked"]
    assert run.denied("net.resolve", "tracker.example")


def test_a_hosts_file_names_addresses_and_grants_no_more_than_that(world: World) -> None:
    script = world.work / "agent.sh"
    script.write_text("""
for name in good.example evil.example inside.example; do getent ahostsv4 $name | head -n 1; done
for file in /etc/hosts /etc/resolv.conf /etc/nsswitch.conf; do echo changed >>$file && echo changed $file; done
mv /etc/hosts /etc/hosts.old && echo moved; rm -f /etc/resolv.conf && echo removed
exec 3<>/dev/null; echo done
""")
    look = program(world, "dial.c")
    hosts = f"{PUBLIC} good.example www\n{OTHER} evil.example\n127.0.0.1 inside.example\n{SERVER} tracker.example good.example\n"
    policy = POLICY.replace('"./work"', '"./work", "/"').replace("[process]", 'write = ["/etc"]\n[process]')
    run, seen = inside(
        world,
        ["/bin/sh", "-c", f". {script}; exec {look} {PUBLIC} {OTHER} 127.0.0.1 {SERVER}"],
        policy=policy,
        hosts=hosts,
    )
    assert "done" in run.out and "changed" not in run.out and "moved" not in run.out, run.explain()
    assert "removed" not in run.out, run.explain()
    assert seen["asked"] == []
    said = dict(line.split(": ") for line in run.out.splitlines() if ": " in line)
    assert said == {PUBLIC: "0", OTHER: "13", "127.0.0.1": "13", SERVER: "13"}, run.explain()


def test_daemons_that_resolve_are_not_reached(world: World) -> None:
    paths = [
        "/run/nscd/socket",
        "/run/systemd/resolve/io.systemd.Resolve",
        "/run/systemd/resolve/io.systemd.Resolve.Monitor",
        "/run/dbus/system_bus_socket",
        "/run/avahi-daemon/socket",
    ]
    look, dial = program(world, "lookups.c"), program(world, "dial.c")
    run, seen = inside(
        world, ["/bin/sh", "-c", f"{look} good.example; exec {dial} {' '.join(paths)}"], unix=paths
    )
    assert f"getaddrinfo good.example 2 0 8080: {PUBLIC}" in run.out, run.explain()
    assert [path for path in paths if f"{path}: 13" not in run.out] == [], run.explain()
    assert run.denied("ipc.connect", "/run/nscd/socket"), "the C library tries it first"
    # The system's resolver, which the broker asks, may well use it.
    assert [path for path in paths[1:] if seen["reached"][path]] == []


def test_other_ports_of_a_name_server_are_judged_as_such(world: World) -> None:
    dial = program(world, "dial.c")
    run, _ = inside(world, [dial, f"{SERVER}:853", f"{SERVER}:443", f"{SERVER}:5353", f"{SERVER}:53"])
    said = dict(line.rsplit(": ", 1) for line in run.out.splitlines())
    assert said == {f"{SERVER}:853": "13", f"{SERVER}:443": "13", f"{SERVER}:5353": "13", f"{SERVER}:53": "0"}
    assert len(run.denied("net.connect")) == 3


def test_no_credential_is_sent_without_tls_and_none_by_a_run_that_really_asks_again(world: World) -> None:
    policy = f"""
version = 1
extends = ["preset:python"]
[fs]
read = ["./work"]
[net]
http = ["GET good.example:{PORT}/**"]
[[credential]]
host = "good.example:{PORT}"
header = "Authorization"
env = "API_KEY"
"""
    script = f"""
import urllib.error, urllib.request
try: print(urllib.request.urlopen("http://good.example:{PORT}/").status)
except urllib.error.HTTPError as error: print(error.code, error.read().decode())
"""
    said = (
        "403 FailCore does not carry this request: a credential is never sent without TLS; ask by https\n\n"
    )
    key = {"API_KEY": "not-for-everybody"}
    run = world.run(script, policy=policy, before=lan(world), options=["--record"], env=key)
    assert run.out == said, run.explain()
    report = world.base / "net-report.json"
    assert json.loads(report.read_text())["reached"][PUBLIC] == 0, report.read_text()
    report.unlink()
    again = [*lan(world), *world.as_user, world.failcore, "replay", str(run.trace)]
    options = ["--live", "net.http[0]", "--trace", str(world.base / "again")]
    second = subprocess.run(
        [*again, *options], cwd=world.work, env=world.environ(key), capture_output=True, text=True, timeout=60
    )
    assert (second.returncode, second.stdout) == (0, said), second.stdout + second.stderr
    assert json.loads(report.read_text())["reached"][PUBLIC] == 0, report.read_text()
