"""`[capabilities]`: root's programs have none of root's powers but those that the policy keeps."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import WORKSPACE, World, only

SETS = """
def sets():
    with open("/proc/self/status") as status:
        found = dict(line.strip().split(":\\t") for line in status if line.startswith("Cap") or line.startswith("NoNew"))
    return [int(found["Cap" + name], 16) for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")] + [found["NoNewPrivs"]]
"""
NET_BIND_SERVICE, NET_RAW, CHOWN = 1 << 10, 1 << 13, 1 << 0


def keeping(*names: str, more: str = "") -> str:
    return WORKSPACE + more + f"\n[capabilities]\nkeep = {list(names)!r}\n"


def root_only(world: World) -> None:
    if world.uid != 0:
        pytest.skip("an ordinary user has no capabilities to keep")


@only("kernel")
def test_without_a_word_of_the_policy_there_are_none(world: World) -> None:
    run = world.run(SETS + 'tell("sets", sets())')
    held = run.attempts["sets"].value
    assert held[:3] == [0, 0, 0] and held[4:] == [0, "1"], run.explain()
    # Dropping from the bounding set takes a capability itself; without new privileges it does not matter.
    assert held[3] == 0 or world.uid != 0


@only("kernel")
def test_what_is_kept_outlives_an_exec_and_is_all_there_is(world: World) -> None:
    root_only(world)
    run = world.run(
        SETS
        + """
import ctypes, socket, subprocess
tell("sets", sets())
status = subprocess.run(["/bin/cat", "/proc/self/status"], capture_output=True, text=True).stdout
tell("after", [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("Cap")])
def bound(port):
    with socket.socket() as one: one.bind(("127.0.0.1", port)); return one.getsockname()[1]
attempt("low port", bound, 99)
attempt("chown", os.chown, WORK, 1, 1)
libc = ctypes.CDLL(None, use_errno=True)
header, all_of_them = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[0xffffffff] * 6)
tell("capset", libc.capset(header, all_of_them))
tell("ambient", libc.prctl(47, 2, 0, 0, 0))
tell("root again", libc.prctl(28, 0, 0, 0, 0))
tell("still", sets())
""",
        policy=keeping(
            "net_bind_service",
            more='\n[net]\nlisten = ["127.0.0.1:99"]\n[process]\nexec = ["/bin/cat *"]\n[native]\nload = ["site-packages", "ctypes"]\n',
        ),
    )
    kept = NET_BIND_SERVICE
    assert run.attempts["sets"].value == [kept] * 5 + ["1"], run.explain()
    assert run.attempts["after"].value == [kept] * 5, run.explain()
    run.worked("low port")
    assert not run.attempts["chown"].ok
    assert [run.attempts[name].value for name in ("capset", "ambient", "root again")] == [-1, -1, -1]
    assert run.attempts["still"].value == [kept] * 5 + ["1"], run.explain()
    assert "net_bind_service" in str(run.records[0]["coverage"]["notes"])


@only("kernel")
def test_what_is_kept_is_judged_all_the_same(world: World) -> None:
    root_only(world)
    run = world.attack(
        """
import socket, stat
def bound(port):
    with socket.socket() as one: one.bind(("127.0.0.1", port))
attempt("another low port", bound, 98)
attempt("somebody's file", os.chown, KEEP, 1, 1)
attempt("own file", lambda: (open("mine", "w").close(), os.chown("mine", 1, 1)))
attempt("raw", socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
attempt("tcp raw", socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
attempt("packet", socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0)
ping = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
attempt("own headers", ping.setsockopt, socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
attempt("mark", ping.setsockopt, socket.SOL_SOCKET, socket.SO_MARK, 1)
attempt("marked message", ping.sendmsg, [b"x"], [(socket.SOL_SOCKET, socket.SO_MARK, bytes(4))], 0, ("127.0.0.1", 0))
attempt("ping", ping.sendto, bytes.fromhex("0800f7ff00000000"), ("127.0.0.1", 0))
attempt("elsewhere", ping.sendto, bytes.fromhex("0800f7ff00000000"), ("127.0.0.2", 0))
attempt("device", os.mknod, "disk", 0o600 | stat.S_IFBLK, os.makedev(7, 0))
""",
        policy=keeping(
            "net_bind_service",
            "net_raw",
            "chown",
            "dac_override",
            more='\n[net]\nlisten = ["127.0.0.1:99"]\nsocket = ["inet raw 1"]\nconnect = ["other:127.0.0.1:*"]\n',
        ),
    )
    run.refused("another low port", "somebody's file", "tcp raw", "packet", "elsewhere")
    run.worked("own file", "raw", "ping")
    for name in ("own headers", "mark", "marked message", "device"):
        assert not run.attempts[name].ok and run.attempts[name].errno == 1, run.explain()


@only("kernel")
def test_what_this_process_does_not_have_it_cannot_hand_on(world: World) -> None:
    before = ["setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw"] if world.uid == 0 else []
    run = world.run('tell("ran", 1)', policy=keeping("net_raw"), before=before)
    assert run.code == 126 and not run.attempts and not run.trace.exists(), run.explain()
    assert "`net_raw`" in run.err and "does not have itself" in run.err


@only("runtime")
def test_a_lane_that_takes_none_away_does_not_start(world: World) -> None:
    run = world.run('tell("ran", 1)', policy=keeping("chown"))
    assert run.code == 126 and not run.attempts and "--lane kernel" in run.err, run.explain()


@only("kernel")
def test_root_is_told_once_what_it_lacks(world: World) -> None:
    root_only(world)
    closed = world.work / "closed"
    closed.mkdir(mode=0o700)
    run_as = 4242
    os.chown(closed, run_as, run_as)

    def run(policy: str):
        agent = world.work / "agent.py"
        agent.write_text(
            "for n in range(3):\n    try: open('closed/file', 'w')\n    except PermissionError: print('refused')\n"
        )
        line, trace = world.command([world.python, str(agent)], policy=policy)
        done = subprocess.run(
            line, cwd=world.work, env=world.environ(), capture_output=True, text=True, check=False
        )
        return done, trace

    done, trace = run(WORKSPACE)
    assert done.stdout == "refused\n" * 3, done.stderr
    assert done.stderr.count("dac_override") == 1, done.stderr
    text = "".join(path.read_text() for path in Path(trace).glob("trace*.jsonl"))
    assert text.count("dac_override") == 1
    done, _ = run(keeping("dac_override"))
    assert done.stdout == "" and "dac_override" not in done.stderr, done.stderr
