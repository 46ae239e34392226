"""Name servers of the owner's choice: asked by DNS, TLS or HTTPS, believed as far as they may be, and however hostile
what they say is, a program gets no name and no address that it may not have."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from tests.conftest import Run, World, only
from tests.kernel.test_names import OTHER, PORT, PUBLIC, SERVER, lan, program

pytestmark = only("kernel")

HERE = Path(__file__).parent
# Where the name server is.
AT = "10.0.0.53"
POLICY = f"""
version = 1
extends = ["preset:native"]
[fs]
read = ["./work"]
[process]
exec = ["./work/*", "/bin/sh"]
[net]
connect = ["good.example:{PORT}", "*.wide.example:{PORT}", "two.example:{PORT}"]
deny = ["tracker.example", "denied.wide.example"]
"""
GOOD = {"good.example A": [f"good.example. 30 A {PUBLIC}"], "good.example AAAA": []}


@pytest.fixture(scope="module")
def certificates() -> Iterator[Path]:
    """A test's own authority, and what it says of `dns.test` and the server's address."""
    if not shutil.which("openssl"):
        pytest.skip("there is no openssl")
    at = Path(tempfile.mkdtemp(prefix="failcore-certificates-"))
    at.chmod(0o755)
    make = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    ca = [*make, "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem"]
    leaf = [
        *make,
        "-subj",
        "/CN=dns.test",
        "-keyout",
        "key.pem",
        "-out",
        "cert.pem",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
    ]
    leaf += ["-addext", f"subjectAltName=DNS:dns.test,IP:{AT}", "-addext", "basicConstraints=CA:FALSE"]
    for command in (ca, leaf):
        subprocess.run(command, cwd=at, check=True, capture_output=True, timeout=60)
    subprocess.run(
        [*make, "-subj", "/CN=other", "-keyout", "o.key", "-out", "other.pem"],
        cwd=at,
        check=True,
        capture_output=True,
        timeout=60,
    )
    yield at
    shutil.rmtree(at)


def ask(
    world: World,
    answers: dict[str, list[str]],
    *asked: str,
    upstream: str = f"dns://{AT}",
    certificates: Path | None = None,
    believes: str = "ca.pem",
    argv: list[str] | None = None,
    policy: str = POLICY,
    options: Sequence[str] = (),
) -> tuple[Run, list[str]]:
    """A run whose program asks for each `NAME:KIND`; what the name server was asked."""
    config = {"answers": answers, "address": AT}
    env = {}
    if certificates:
        config |= {"cert": str(certificates / "cert.pem"), "key": str(certificates / "key.pem")}
        env["SSL_CERT_FILE"] = str(certificates / believes)
    (world.base / "dns.json").write_text(json.dumps(config))
    serve = [
        sys.executable,
        str(HERE / "name_server.py"),
        str(world.base / "dns.json"),
        str(world.base / "dns-report.json"),
        "--",
    ]
    kinds = [
        f"{name}:{int(dns.rdatatype.from_text(kind))}" for name, kind in (one.split(":") for one in asked)
    ]
    run = world.run(
        "",
        argv=argv or [program(world, "records.c"), SERVER, *kinds],
        policy=policy + f'[dns]\nupstream = ["{upstream}"]\n',
        before=[*lan(world, quiet=[AT]), *serve],
        env=env,
        options=options,
    )
    seen = json.loads((world.base / "net-report.json").read_text())
    assert seen["asked"] == [], "nobody but the name server was asked"
    return run, json.loads((world.base / "dns-report.json").read_text())


def answers(run: Run) -> list[dns.message.Message]:
    """The answers that the program got, in the order that it asked."""
    found = []
    for line in run.out.splitlines():
        _, word = line.rsplit(None, 1)
        assert word != "nothing", run.explain()
        found.append(dns.message.from_wire(bytes.fromhex(word)))
    return found


def data(message: dns.message.Message) -> list[str]:
    return [f"{one.ttl} {item}" for one in message.answer for item in one]


def code(message: dns.message.Message) -> str:
    return dns.rcode.to_text(message.rcode())


@pytest.mark.parametrize(
    "upstream",
    [
        f"dns://{AT}",
        f"tls://{AT}#dns.test",
        f"tls://{AT}",
        f"https://{AT}#dns.test",
        f"https://{AT}/ask/here#dns.test",
    ],
)
def test_each_way_to_ask(world: World, certificates: Path, upstream: str) -> None:
    run, asked = ask(
        world, GOOD, "good.example:A", "secret.exfil.example:A", upstream=upstream, certificates=certificates
    )
    good, refused = answers(run)
    assert data(good) == [f"30 {PUBLIC}"], run.explain()
    assert code(refused) == "NXDOMAIN" and run.denied("net.resolve", "secret.exfil.example")
    by = {
        "dns": "udp",
        "tls": "tls",
        "https": "https /ask/here" if "/ask" in upstream else "https /dns-query",
    }[upstream.split(":")[0]]
    assert sorted(asked) == [f"{by} good.example A", f"{by} good.example AAAA"]


@pytest.mark.parametrize(
    ("upstream", "believes", "why"),
    [
        (f"tls://{AT}#dns.test", "other.pem", "UnknownIssuer"),
        (f"tls://{AT}#another.test", "ca.pem", "another.test"),
        (f"https://{AT}#dns.test", "other.pem", "UnknownIssuer"),
        (f"https://{AT}#another.test", "ca.pem", "another.test"),
    ],
    ids=["unknown authority", "another name", "unknown authority, https", "another name, https"],
)
def test_a_server_that_does_not_prove_who_it_is(
    world: World, certificates: Path, upstream: str, believes: str, why: str
) -> None:
    run, asked = ask(
        world, GOOD, "good.example:A", upstream=upstream, certificates=certificates, believes=believes
    )
    assert [code(one) for one in answers(run)] == ["SERVFAIL"], run.explain()
    assert asked == []
    notices = [record["text"] for record in run.records if record["type"] == "notice"]
    name = upstream.partition("#")[2]
    assert len(notices) == 1 and f"#{name} does not prove who it is" in notices[0], notices
    assert why in notices[0] and "connected to" not in notices[0], notices


@pytest.mark.parametrize("by", ["tls", "https"])
def test_a_server_that_is_not_there_is_told_from_one_that_lies(
    world: World, certificates: Path, by: str
) -> None:
    upstream = f'{by}://{AT}:5#dns.test", "{by}://{AT}#another.test'
    run, asked = ask(world, GOOD, "good.example:A", upstream=upstream, certificates=certificates)
    assert [code(one) for one in answers(run)] == ["SERVFAIL"] and asked == [], run.explain()
    (notice,) = [record["text"] for record in run.records if record["type"] == "notice"]
    gone, _, lies = notice.partition("; ")
    assert f"{by}://{AT}:5" in gone and "#dns.test cannot be connected to: Connection refused" in gone, notice
    assert "#another.test does not prove who it is" in lies, notice


def test_no_authority_at_all(world: World, certificates: Path) -> None:
    (certificates / "none.pem").write_text("")
    run, asked = ask(
        world,
        GOOD,
        upstream=f"tls://{AT}#dns.test",
        certificates=certificates,
        believes="none.pem",
        argv=["/bin/sh", "-c", "echo ran"],
    )
    assert run.code == 126 and run.out == "" and "no certificate authorities" in run.err, run.explain()
    assert asked == []


@pytest.mark.parametrize(("told", "kept"), [(0, 0), (7, 7), (59, 59), (86400, 60), (2**31 - 1, 60)])
def test_times_are_those_that_the_server_tells(world: World, told: int, kept: int) -> None:
    """An answer of no time at all is kept by nobody, and its address can be connected to all the same."""
    dial = program(world, "dial.c")
    records = program(world, "records.c")
    lines = {"good.example A": [f"good.example. {told} A {PUBLIC}"], "good.example AAAA": []}
    shell = [
        "/bin/sh",
        "-c",
        f"{records} {SERVER} good.example:1; exec {dial} {PUBLIC}:{PORT} {OTHER}:{PORT} >&2",
    ]
    run, _ = ask(world, lines, argv=shell)
    (ttl,) = [int(one.split()[0]) for one in data(answers(run)[0])]
    assert kept - 1 <= ttl <= kept, run.explain()
    assert f"{PUBLIC}:{PORT}: 0" in run.err and f"{OTHER}:{PORT}: 13" in run.err, run.explain()


def test_every_name_of_a_chain_counts(world: World) -> None:
    chain = [
        f"{a}. 9 CNAME {b}."
        for a, b in (("a.wide.example", "cdn.nobody.test"), ("cdn.nobody.test", "edge.nobody.test"))
    ]
    hidden = ["b.wide.example. 9 CNAME tracker.example.", "tracker.example. 9 CNAME edge.nobody.test."]
    caution = ["c.wide.example. 9 CNAME metadata.google.internal."]
    end = [f"edge.nobody.test. 5 A {PUBLIC}"]
    wanted = {
        "a.wide.example": [*chain, *end],
        "b.wide.example": [*hidden, *end],
        "c.wide.example": [*caution, f"metadata.google.internal. 9 A {PUBLIC}"],
        # What is not told at once is asked for, as far as it may be.
        "d.wide.example": ["d.wide.example. 9 CNAME edge.nobody.test."],
        "edge.nobody.test": end,
        "e.wide.example": ["e.wide.example. 9 CNAME tracker.example."],
        "tracker.example": [f"tracker.example. 5 A {PUBLIC}"],
    }
    run, asked = ask(world, wanted, *[f"{n}.wide.example:A" for n in "abcde"])
    a, b, c, d, e = answers(run)
    assert data(a) == ["5 cdn.nobody.test.", "5 edge.nobody.test.", f"5 {PUBLIC}"], run.explain()
    assert data(d) == ["5 edge.nobody.test.", f"5 {PUBLIC}"], run.explain()
    assert [code(one) for one in (b, c, e)] == ["NXDOMAIN"] * 3
    assert len(run.denied("net.resolve", "tracker.example")) == 2, run.explain()
    assert run.denied("net.resolve", "metadata.google.internal"), run.explain()
    assert "udp edge.nobody.test A" in asked and not [one for one in asked if "tracker" in one]


def test_what_a_validating_server_says_is_passed_on(world: World) -> None:
    wanted = {
        "a.wide.example": ["SERVFAIL"],
        "b.wide.example": ["REFUSED"],
        "c.wide.example": ["NXDOMAIN"],
        "d.wide.example": [],
        "good.example A": ["SERVFAIL"],
        "good.example AAAA": ["NXDOMAIN"],
    }
    run, _ = ask(
        world, wanted, *[f"{n}.wide.example:A" for n in "abcd"], "good.example:A", "a.wide.example:TXT"
    )
    said = [code(one) for one in answers(run)]
    assert said == ["SERVFAIL", "SERVFAIL", "NXDOMAIN", "NOERROR", "SERVFAIL", "SERVFAIL"], run.explain()


RECORDS = {
    "MX": "10 mail.nobody.test.",
    "TXT": '"v=spf1 -all"',
    "SRV": "1 2 443 service.nobody.test.",
    "CAA": '0 issue "authority.test"',
    "NS": "ns.nobody.test.",
    "SOA": "ns.nobody.test. admin.nobody.test. 1 2 3 4 5",
    "PTR": "host.nobody.test.",
    "NAPTR": '1 1 "S" "SIP+D2U" "" _sip._udp.nobody.test.',
    "TLSA": "3 1 1 " + "ab" * 32,
    "SSHFP": "4 2 " + "cd" * 32,
    "HTTPS": f"1 svc.nobody.test. alpn=h2 port=8443 ipv4hint=127.0.0.1,{OTHER} ipv6hint=::1 ech=AAQAAAAA",
    "SVCB": f"1 svc.nobody.test. alpn=h2 ipv4hint={OTHER}",
}


def test_other_records_of_granted_names(world: World) -> None:
    wanted = {
        f"a.wide.example {kind}": [f"a.wide.example. 20 {kind} {line}"] for kind, line in RECORDS.items()
    }
    wanted["b.wide.example HTTPS"] = [f"b.wide.example. 20 HTTPS 1 . mandatory=ipv4hint ipv4hint={OTHER}"]
    wanted["c.wide.example TXT"] = [
        "c.wide.example. 20 CNAME tracker.example.",
        'tracker.example. 20 TXT "x"',
    ]
    wanted["d.wide.example TXT"] = [
        'd.wide.example. 20 TXT "good"',
        'evil.example. 20 TXT "evil"',
        f"d.wide.example. 20 A {OTHER}",
    ]
    kinds = [f"a.wide.example:{kind}" for kind in RECORDS]
    refused = ["other.example:MX", "denied.wide.example:TXT", "c2VjcmV0.exfil.test:TXT"]
    never = [
        "a.wide.example:ANY",
        "a.wide.example:APL",
        "a.wide.example:IPSECKEY",
        "a.wide.example:DNSKEY",
        "a.wide.example:TYPE65300",
    ]
    more = ["b.wide.example:HTTPS", "c.wide.example:TXT", "d.wide.example:TXT"]
    run, asked = ask(world, wanted, *kinds, *refused, *never, *more)
    said = answers(run)
    for (kind, line), one in zip(RECORDS.items(), said, strict=False):
        assert len(data(one)) == 1, f"{kind}: {one}"
        (shown,) = data(one)
        if kind in ("HTTPS", "SVCB"):
            assert shown == "20 " + line.split(" ipv4hint")[0].replace("alpn=h2", 'alpn="h2"').replace(
                "port=8443", 'port="8443"'
            ), run.explain()
        else:
            assert shown == f"20 {line}", run.explain()
    rest = said[len(RECORDS) :]
    assert [code(one) for one in rest[:3]] == ["NXDOMAIN"] * 3
    assert [(code(one), data(one)) for one in rest[3:8]] == [("NOERROR", [])] * 5, run.explain()
    b, c, d = rest[8:]
    assert data(b) == [] and code(c) == "NXDOMAIN" and data(d) == ['20 "good"']
    names = {" ".join(one.split()[1:]) for one in asked}
    assert names == {one.replace(":", " ") for one in [*kinds, *more]}, names
    assert {record["request"]["action"]["host"] for record in run.denied("net.resolve")} == {
        "other.example", "denied.wide.example", "c2vjcmv0.exfil.test", "tracker.example",
    }  # fmt: skip


def test_records_without_a_server_of_the_owners(world: World) -> None:
    """The system's resolver gives none, and nobody is asked for them."""
    run = world.run(
        "",
        argv=[program(world, "records.c"), SERVER, "good.example:16", "other.example:16"],
        policy=POLICY,
        before=lan(world),
    )
    assert [(code(one), data(one)) for one in answers(run)] == [("NOERROR", []), ("NXDOMAIN", [])], (
        run.explain()
    )
    assert json.loads((world.base / "net-report.json").read_text())["asked"] == []


HOSTILE = [
    "silent",
    "another name",
    "another number",
    "no answer",
    "cut",
    "garbage",
    "circle",
    "endless",
    "counts",
    "nul",
    "dotted",
]


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_server(world: World, how: str) -> None:
    hostile = [f"good.example. 30 A {PUBLIC}", how]
    run, _ = ask(
        world,
        {"good.example": hostile, "two.example": [f"two.example. 3 A {OTHER}"]},
        "good.example:A",
        "two.example:A",
    )
    one, two = answers(run)
    assert (code(one), data(one)) == ("SERVFAIL", []), run.explain()
    assert data(two) == [f"3 {OTHER}"], "it goes on"


@pytest.mark.parametrize("how", ["closed", "long"])
def test_a_stream_that_is_hostile(world: World, how: str) -> None:
    hostile = [f"good.example. 30 A {PUBLIC}", "truncated", how]
    run, asked = ask(world, {"good.example": hostile}, "good.example:A")
    assert [code(one) for one in answers(run)] == ["SERVFAIL"], run.explain()
    assert "udp good.example A" in asked


def test_aliases_in_a_circle(world: World) -> None:
    circle = {
        f"{a}.wide.example": [f"{a}.wide.example. 9 CNAME {b}.wide.example."]
        for a, b in ("ab", "bc", "ca", "dd")
    }
    long = {f"l{n}.wide.example": [f"l{n}.wide.example. 9 CNAME l{n + 1}.wide.example."] for n in range(30)}
    run, asked = ask(
        world,
        circle | long,
        "a.wide.example:A",
        "d.wide.example:A",
        "l0.wide.example:A",
        "l0.wide.example:TXT",
    )
    assert [code(one) for one in answers(run)] == ["SERVFAIL"] * 4, run.explain()
    assert len(asked) < 60


def test_large_answers(world: World) -> None:
    many = [f"93.184.{n // 250}.{n % 250 + 1}" for n in range(2000)]
    wanted = {
        "good.example A": [f"good.example. 30 A {one}" for one in many],
        "good.example AAAA": [],
        "good.example TXT": [f'good.example. 30 TXT "{n} {"x" * 240}"' for n in range(200)],
        "two.example": [f"two.example. 30 A {OTHER}", "slow", "truncated"],
    }
    run, asked = ask(world, wanted, "good.example:A", "good.example:TXT", "two.example:A")
    addresses, text, two = answers(run)
    assert data(addresses) == [f"30 {one}" for one in many[:256]], "no more than that of one name"
    assert len(data(text)) == 200
    assert data(two) == [f"30 {OTHER}"]
    assert {"udp good.example A", "tcp good.example A", "tcp two.example A"} <= set(asked)


def test_special_addresses_are_dropped(world: World) -> None:
    inside = ["127.0.0.1", "169.254.169.254", "10.1.2.3", "0.0.0.0", "192.168.0.1"]
    wanted = {
        "good.example A": [f"good.example. 30 A {one}" for one in [*inside, PUBLIC]],
        "good.example AAAA": [
            f"good.example. 30 AAAA {one}"
            for one in ("::1", "::ffff:127.0.0.1", "fd00::1", "64:ff9b::a9fe:a9fe")
        ],
        "two.example": [f"two.example. 30 A {inside[1]}"],
        "localhost": [f"localhost. 30 A {PUBLIC}"],
    }
    run, asked = ask(world, wanted, "good.example:A", "good.example:AAAA", "two.example:A", "localhost:A")
    four, six, two, _ = answers(run)
    assert data(four) == [f"30 {PUBLIC}"] and data(six) == [], run.explain()
    assert code(two) == "NXDOMAIN" and run.denied("net.resolve", "two.example")
    assert not [one for one in asked if "localhost" in one]


def test_the_second_server_where_the_first_is_gone(world: World) -> None:
    run, asked = ask(world, GOOD, "good.example:A", upstream=f'tls://10.0.0.54#dns.test", "dns://{AT}')
    assert [data(one) for one in answers(run)] == [[f"30 {PUBLIC}"]], run.explain()
    assert asked


def test_an_ordinary_program_sees_no_difference(world: World) -> None:
    """The C library and CPython, with the owner's server over TLS where there is one."""
    script = world.work / "dial.sh"
    script.write_text(
        f"getent ahostsv4 good.example | head -n 1; getent ahosts gone.wide.example || echo gone\n"
    )
    run, _ = ask(
        world,
        GOOD,
        argv=["/bin/sh", str(script)],
        policy=POLICY.replace('"/bin/sh"', '"/bin/sh", "/usr/bin/*"'),
    )
    assert PUBLIC in run.out and "gone" in run.out, run.explain()


def test_in_the_runtime_lane_it_is_not_promised(world: World) -> None:
    policy = world.write_policy(POLICY + f'[dns]\nupstream = ["dns://{AT}"]\n')
    done = world.ask("run", "--lane", "runtime", "-p", str(policy), "--", world.python, "-c", "print('ran')")
    assert done.returncode == 126 and "ran" not in done.stdout and "[dns] upstream" in done.stderr, done


def test_in_a_session_of_its_own_it_is_not_promised(world: World) -> None:
    run = world.plain(
        f"""
import failcore
policy = failcore.Policy.from_str({POLICY + f'[dns]{chr(10)}upstream = ["dns://{AT}"]{chr(10)}'!r}, dir=BASE)
def opened():
    with failcore.Session(policy, trace=TRACE):
        print("ran")
attempt("opened", opened)
"""
    )
    assert not run.attempts["opened"].ok and "[dns] upstream" in run.attempts["opened"].text, run.explain()
    assert "ran" not in run.out.splitlines()


def test_another_answer_is_put_in_place_of_a_recorded_one(world: World) -> None:
    run, _ = ask(world, GOOD, "good.example:A", options=["--record"])
    assert data(answers(run)[0]) == [f"30 {PUBLIC}"], run.explain()
    said = [r for r in run.records if r["type"] == "heard" and "addresses" in r["said"]]
    (seq,) = [r["seq"] for r in said if r["said"]["addresses"]["addrs"] == [PUBLIC]]

    def again(n: int, value: str) -> dns.message.Message:
        to = str(world.base / f"set-{n}")
        second = world.ask("replay", str(run.trace), "--set", f"{seq}={value}", "--trace", to)
        assert second.returncode == 0, second.stderr
        return dns.message.from_wire(bytes.fromhex(second.stdout.split()[-1]))

    others = [str(item) for one in again(0, "9.9.9.9, 1.1.1.1").answer for item in one]
    assert others == ["9.9.9.9", "1.1.1.1"]
    assert code(again(1, "")) == "NXDOMAIN"
    refused = world.ask("replay", str(run.trace), "--set", f"{seq}=another.example")
    assert refused.returncode == 126 and "a host has IP addresses" in refused.stderr, refused.stderr
