"""Takes the cases of `corpus/` through the supervisor: a program makes the system calls, and the trace says what came.

    unshare --mount --net -- python -m tests.corpus.kernel_lane FAILCORE ACTOR PYTHON [COMMAND…]

ACTOR is `actor.c`, linked statically so that it needs nothing from the policy. PYTHON is the interpreter that opens tool
scopes. COMMAND… goes before `failcore`. Every request is a run of its own, in a world made anew and in a network that
has no other interface than loopback. Prints one line of JSON a request: what was decided, or why it was left out.
"""

import json
import os
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from tests.attacks.private_net import interface, mount_over, serve_names
from tests.corpus.cases import AGENT, HOME, TEMPORARY, cases, make_world

# x86-64 and arm64 number their calls differently; these are asked of the C library's headers by the test.
NUMBERS: dict[str, int] = {}
NOTHING = -100  # AT_FDCWD
NOW = "2026-06-01T00:00:00Z"  # of requests that mean no time in particular
ACTOR = Path("/srv/actor/actor")
TOOLS, RUN = Path("/opt/tools"), Path("/run")
SCOPED = """
import contextlib, subprocess, sys, failcore
with contextlib.ExitStack() as stack:
    for tool in sys.argv[2:]: stack.enter_context(failcore.scope(tool))
    subprocess.run([sys.argv[1]])
"""


class LeftOut(Exception):
    """Why a request cannot be made in this lane."""


def text(word: str | dict[str, str] | bytes) -> str:
    """A string argument for the actor."""
    raw = bytes.fromhex(word["hex"]) if isinstance(word, dict) else word
    return "b" + (raw.encode() if isinstance(raw, str) else raw).hex()


def line(name: str, *arguments: str | int) -> str:
    other, name = ("&", name[1:]) if name.startswith("&") else ("", name)
    words = [f"i{argument}" if isinstance(argument, int) else argument for argument in arguments]
    return " ".join([f"{other}{NUMBERS[name]}", *words])


def address(action: dict[str, Any]) -> tuple[int, bytes]:
    """The family of an action's address, and the address as the kernel takes it."""
    if action.get("family") == socket.AF_UNIX:
        name = b"\0" + action["abstract"].encode() if "abstract" in action else action["path"].encode()
        return socket.AF_UNIX, struct.pack("H", socket.AF_UNIX) + name
    ip = ip_address(action["addr"])
    if ip.version == 4:
        return socket.AF_INET, struct.pack("=H", socket.AF_INET) + struct.pack(
            "!H4s8x", action["port"], ip.packed
        )
    packed = struct.pack("!HI16s", action["port"], 0, ip.packed) + struct.pack("=I", 0)
    return socket.AF_INET6, struct.pack("=H", socket.AF_INET6) + packed


def calls(case: str, request: dict[str, Any]) -> Iterator[str]:
    """The system calls that make a request of a case; the last one is what is judged."""
    action = request["action"]
    verb, path = action["verb"], action.get("path")
    if request["context"]["time"] != NOW or "until" in case:
        raise LeftOut("another time is meant")
    if len(str(action.get("asked", ""))) > 4096:
        raise LeftOut("the kernel itself takes no path so long")
    if set(request["context"]) - {"lane", "time", "names"}:
        raise LeftOut("what was counted, or answered, is given")
    if "\0" in str(action.get("asked", "")):
        raise LeftOut("a path ends at its NUL in C")
    if request["subject"].get("claimed") and str(path).startswith("/etc/"):
        raise LeftOut("Python, which opens the scope, may read it")
    if verb in ("env.read", "native.load"):
        raise LeftOut("the interpreter's own")
    if verb == "net.http":
        raise LeftOut("the relay's own")
    if str(path).startswith("/proc/"):
        if not str(path).startswith("/proc/100/"):
            raise LeftOut("another process")
        path = str(path).replace("/proc/100", "/proc/self")
    if verb == "fs.open":
        rights = set(action["rights"])
        if rights - {"read", "create", "modify"} or rights == {"create"}:
            raise LeftOut("no open has exactly these rights")
        flags = os.O_WRONLY if "read" not in rights else os.O_RDWR if "modify" in rights else os.O_RDONLY
        flags |= os.O_CREAT if "create" in rights else 0
        yield line("openat", NOTHING, text(action.get("asked", path)), flags, 0o600)
    elif verb == "fs.read":
        yield line("inotify_init1", 0)
        yield line("inotify_add_watch", "r0", text(path), 2)
    elif verb == "fs.create":
        yield line("mkdirat", NOTHING, text(path), 0o755)
    elif verb == "fs.modify":
        yield line("truncate", text(path), 0)
    elif verb == "fs.delete":
        yield line("unlinkat", NOTHING, text(path), 0)
    elif verb == "fs.attr":
        yield line("fchmodat", NOTHING, text(path), 0o600)
    elif verb in ("fs.rename", "fs.link"):
        name = "renameat2" if verb == "fs.rename" else "linkat"
        yield line(name, NOTHING, text(path), NOTHING, text(action["to"]["path"]), 0)
    elif verb == "fs.symlink":
        yield line("symlinkat", text(action["target"]), NOTHING, text(path))
    elif verb in ("net.connect", "net.bind", "net.listen", "net.send", "ipc.connect"):
        yield from network(request)
    elif verb == "net.resolve":
        yield from question(action["host"], 0)
    elif verb == "net.socket":
        yield line("socket", action["family"], action["kind"], action["protocol"])
    elif verb == "process.exec":
        argv = ",".join(word.encode().hex() for word in action["argv"])
        asked = action.get("asked", path)
        yield line("&execve", text(asked if asked.startswith("/") else path), "v" + argv, "v")
    elif verb == "process.signal":
        who = {"own": "me", "child": "child", "run": "parent", "outside": os.getpid()}[action["receiver"]]
        # By a child, whose parent is of the run, but neither itself nor a child of its.
        yield line("&kill" if who == "parent" else "kill", who, 0 if who == "me" else action["signal"])
    elif verb == "process.trace":
        yield line("ptrace", 16, os.getpid(), 0, 0)  # PTRACE_ATTACH
    elif verb == "kernel.call":
        yield line(action["name"], 0, 0, 0, 0, 0)
    else:
        raise LeftOut("the supervisor has no such operation")


def question(host: str, number: int) -> Iterator[str]:
    """Asks a name server for a host's address, from line `number` on, and waits for the answer."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in host.split("."))
    packet = struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, 1, 1)
    _, server = address({"addr": "127.0.0.1", "port": 53})
    yield line("socket", socket.AF_INET, socket.SOCK_DGRAM, 0)
    yield line("connect", f"r{number}", text(server), len(server))
    yield line("sendto", f"r{number}", text(packet), len(packet), 0, 0, 0)
    yield line("recvfrom", f"r{number}", "b" + "00" * 512, 512, 0, 0, 0)


def network(request: dict[str, Any]) -> Iterator[str]:
    action = request["action"]
    verb = action["verb"]
    if "zone" in action:
        raise LeftOut("there is no such interface")
    if action.get("port") == 53 and verb != "net.bind":
        raise LeftOut("port 53 is the name broker's")
    if verb == "net.connect" and action.get("transport") == "udp":
        raise LeftOut("where only TCP is granted it asks for a route, as the C library does")
    family, at = address(action)
    number = 0
    for name in request["context"].get("names", []):
        yield from question(name, number)
        number += 4
    kind = socket.SOCK_DGRAM if action.get("transport") == "udp" else socket.SOCK_STREAM
    yield line("socket", family, kind | socket.SOCK_NONBLOCK, 0)
    if verb == "net.send":
        yield line("sendto", f"r{number}", text(b"x"), 1, 0, text(at), len(at))
    elif verb == "net.listen":
        if action["addr"] != "127.0.0.1":
            raise LeftOut("its bind is refused before")
        _, any_port = address({**action, "port": 0})
        yield line("bind", f"r{number}", text(any_port), len(any_port))
        yield line("listen", f"r{number}", 1)
    else:
        name = "bind" if verb == "net.bind" else "connect"
        yield line(name, f"r{number}", text(at), len(at))


def stand(action: dict[str, Any]) -> None:
    """Makes the world that a request expects: its files and directories, and nothing else."""
    for place in (AGENT, HOME, TOOLS, RUN):
        for old in place.iterdir():
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    verb = action["verb"]
    moves = verb == "fs.rename"
    made = [
        {"dir": moves, **action},
        {"dir": action.get("dir", True) if moves else False, **action.get("to", {})},
    ]
    for file in sorted(made, key=lambda file: str(file.get("path"))):
        path = file.get("path")
        if isinstance(path, dict):
            path = os.fsdecode(bytes.fromhex(path["hex"]))
        if path is None or not path.startswith(("/srv/agent", "/home/", "/opt/tools", "/run")):
            continue
        at = Path(path)
        at.parent.mkdir(parents=True, exist_ok=True)
        if (
            file.get("absent")
            or verb == "net.bind"
            or "create" in file.get("rights", [])
            or verb == "fs.create"
        ):
            continue
        if verb == "ipc.connect":
            server = socket.socket(socket.AF_UNIX)
            server.bind(path)
            server.listen()
            SERVERS.append(server)
            at.chmod(0o777)
        elif verb == "process.exec":
            shutil.copy(ACTOR, at)
            asked = Path(action.get("asked", path))
            if asked.is_absolute() and asked != at and not asked.exists():
                asked.symlink_to(at)
        elif file["dir"]:
            at.mkdir(exist_ok=True)
        elif not at.exists():
            at.touch()


SERVERS: list[socket.socket] = []


def hand_over(uid: int) -> None:
    for place in (AGENT, HOME, RUN):
        for top, directories, files in os.walk(os.fsencode(place)):
            for name in [b"", *directories, *files]:
                os.chown(os.path.join(top, name), uid, uid, follow_symlinks=False)


def through(
    case: Path, number: int, request: dict[str, Any], command: list[str], python: str, uid: int
) -> dict:
    said = {"case": case.name, "number": number}
    try:
        lines = list(calls(case.name, request))
    except LeftOut as why:
        return {**said, "left_out": str(why)}
    while SERVERS:
        SERVERS.pop().close()
    stand(request["action"])
    scope = request["subject"].get("claimed", {}).get("scope", [])
    policy, argv = AGENT / "policy.toml", [str(ACTOR)]
    policy.write_text((case / "policy.toml").read_text())
    if scope:
        (AGENT / "scoped.py").write_text(SCOPED)
        python_too = f'extends = ["preset:python", "policy.toml"]\n[fs]\nread = ["./scoped.py"]\n[process]\nexec = ["{ACTOR}"]\n'
        policy = AGENT / "with-python.toml"
        policy.write_text(python_too)
        argv = [python, str(AGENT / "scoped.py"), str(ACTOR), *scope]
    hand_over(uid)
    base = Path(tempfile.mkdtemp())
    os.chown(base, uid, uid)
    environ = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(HOME),
        "XDG_STATE_HOME": str(base / "state"),
        "TMPDIR": str(TEMPORARY),
    }
    done = subprocess.run(
        [
            *command,
            "run",
            "--lane",
            "kernel",
            "--patience",
            "1s",
            "--trace",
            str(base / "trace"),
            "-p",
            str(policy),
            "--",
            *argv,
        ],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        cwd=AGENT,
        env=environ,
        timeout=60,
        start_new_session=True,  # no terminal at which somebody could be asked
        check=False,
    )
    records = [
        json.loads(one)
        for file in sorted(base.glob("trace/*.jsonl"))
        for one in file.read_bytes().splitlines()
    ]
    decided = [
        one
        for one in records
        if one["type"] == "decided" and one["request"]["subject"].get("exe") == str(ACTOR)
    ]
    shutil.rmtree(base)
    results = [int(one) for one in done.stdout.split()]
    return {
        **said,
        "code": done.returncode,
        "err": done.stderr[-2000:],
        "results": results,
        "calls": len(lines),
        "decided": [
            {
                **one["decision"],
                "action": one["request"]["action"],
                "scope": one["request"]["subject"].get("claimed", {}).get("scope", []),
            }
            for one in decided
        ],
    }


def main() -> None:
    failcore, actor, python, *before = sys.argv[1:]
    NUMBERS.update(json.load(sys.stdin))
    # What the private network needs of the caller's files is there by now.
    interface("lo", None)
    mount_over("/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:2 attempts:1\n")
    mount_over("/etc/hosts", "127.0.0.1 localhost\n")
    names: dict[str, list[list[str]]] = {}
    serve_names(["127.0.0.1"], names, [])
    make_world(AGENT, HOME, TEMPORARY, ACTOR.parent, TOOLS, RUN)
    shutil.copy(actor, ACTOR)
    ACTOR.chmod(0o755)
    TEMPORARY.chmod(stat.S_ISVTX | 0o777)
    os.chdir("/")
    uid = 65534 if before else os.getuid()
    for case, (requests, _) in cases().items():
        for number, request in enumerate(requests):
            action = request["action"]
            names.clear()
            names.update(
                {
                    name: [[action.get("addr", "93.184.216.34")]]
                    for name in request["context"].get("names", [])
                }
            )
            if action["verb"] == "net.resolve":
                names[action["host"]] = [["93.184.216.34"]]
            print(json.dumps(through(case, number, request, [*before, failcore], python, uid)), flush=True)


if __name__ == "__main__":
    main()
