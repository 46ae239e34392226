"""One operation, one decision record: counted against strace(1) of the same program without FailCore.

The program does each operation between two markers, natively and through Python, allowed and refused. What strace saw
it ask of the kernel is what the trace must have decided, each once: allowed by the supervisor alone, since only it binds;
refused by whoever is asked first, which is the hook for what Python does, opens apart, and the supervisor for all else.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter

import pytest

from tests.conftest import WORKSPACE, Run, World, only

POLICY = (
    WORKSPACE.replace('write = ["./work"]', 'write = ["./work"]\nread = ["./work"]')
    + """
[net]
connect = ["127.0.0.1:{port}", "udp:127.0.0.1:{port}"]
listen = ["127.0.0.1:0"]
socket = ["netlink raw 0"]
[process]
exec = ["/bin/cat *", "/bin/sh *"]
signal = "children"
[native]
load = ["site-packages", "ctypes", "/usr/lib", "/lib"]
[[tool]]
name = "narrow"
fs.write = []
"""
)

PROGRAM = """
import ctypes, os, signal, socket, struct, subprocess, sys, threading
work, outside, port = sys.argv[1:4]
port = int(port)
libc = ctypes.CDLL(None)
try:
    import failcore
    narrow = failcore.scope("narrow")
except ImportError:
    import contextlib
    narrow = contextlib.nullcontext()
def quiet(call, *args, **kwargs):
    try: return call(*args, **kwargs)
    except OSError: return None
OPENAT2, FDCWD, THROUGH_PYTHON, NATIVELY = 437, -100, 1, 2
def address(host, port): return struct.pack("=HH4s8x", socket.AF_INET, socket.htons(port), socket.inet_aton(host))
def natively(place):
    names = "file goes from to emptied dir link fifo hard fresh".split()
    file, goes, old, new, emptied, made, link, fifo, hard, fresh = [(place + "/native-" + name).encode() for name in names]
    for name in (file, goes, old): libc.open(name, os.O_CREAT | os.O_WRONLY, 0o600)
    libc.mkdir(emptied, 0o700)
    libc.syscall(OPENAT2, FDCWD, file, struct.pack("QQQ", 0, 0, 0), ctypes.c_size_t(24))
    libc.mkdirat(FDCWD, made, 0o700)
    libc.unlinkat(FDCWD, emptied, 0x200)                                # AT_REMOVEDIR
    libc.unlinkat(FDCWD, goes, 0)
    libc.renameat2(FDCWD, old, FDCWD, fresh, 1)                         # RENAME_NOREPLACE
    libc.symlinkat(b"kept", FDCWD, link)
    libc.mknodat(FDCWD, fifo, 0o010600, 0)
    libc.fchownat(FDCWD, file, os.getuid(), -1, 0)
    libc.utimensat(FDCWD, file, None, 0)
    libc.setxattr(file, b"user.x", b"1", 1, 0)
    libc.rename(file, new); libc.truncate(new, 0); libc.chmod(new, 0o600); libc.link(new, hard); libc.unlink(new)
    if place == work:
        for name in (hard, link, fifo, fresh): libc.unlink(name)
        libc.rmdir(made)
def through_python(place, at):
    old, new = place + "/from", place + "/to"
    for way in (dict(), dict(dir_fd=at)):
        quiet(os.mkdir, place + "/dir", **way)
        quiet(os.rmdir, place + "/dir", **way)
        quiet(os.mknod, old, **way)
        quiet(os.chown, old, os.getuid(), -1, **way)
        quiet(os.utime, old, **way)
        quiet(os.symlink, "kept", place + "/link", **way)
        quiet(os.unlink, place + "/link", **way)
        quiet(os.chmod, old, 0o600)
        quiet(os.setxattr, old, "user.x", b"1")
        quiet(os.rename, old, new, **({"src_dir_fd": at, "dst_dir_fd": at} if way else {}))
        quiet(os.unlink, new, **way)
def sockets(host, other):
    one = socket.socket(); quiet(one.bind, (host, 0)); quiet(one.listen, THROUGH_PYTHON); one.close()
    one = socket.socket(type=socket.SOCK_DGRAM)
    quiet(one.sendto, b"x", (host, port)); quiet(one.sendmsg, [b"x"], [], 0, (host, port)); one.close()
    bare = [libc.socket(socket.AF_INET, kind, 0) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]
    libc.bind(bare[0], address(other, 0), 16); libc.listen(bare[0], NATIVELY)
    name, data = ctypes.create_string_buffer(address(other, port), 16), ctypes.create_string_buffer(b"x")
    libc.sendto(bare[1], data, ctypes.c_size_t(1), 0, name, 16)
    piece = (ctypes.c_uint64 * 2)(ctypes.addressof(data), 1)
    libc.sendmsg(bare[1], (ctypes.c_uint64 * 7)(ctypes.addressof(name), 16, ctypes.addressof(piece), 1, 0, 0, 0), 0)
    libc.connect(bare[0], address(other, port), 16)
    for fd in bare: os.close(fd)
open(work + "/kept", "w").close()
at = os.open(work, os.O_RDONLY)
begin = os.open(work + "/begin", os.O_CREAT | os.O_WRONLY)
for n in range(3):
    open(work + "/kept").close()                                        # Python, allowed
    quiet(open, outside + "/secret.txt")                                # Python, refused
    quiet(open, work + "/missing")
    libc.open((work + "/kept").encode(), 0)                             # native, allowed
    libc.open((outside + "/keep.txt").encode(), 0)                      # native, refused
    for place in (work, outside): natively(place); through_python(place, at)
    sockets("127.0.0.1", "127.0.0.1"); sockets("127.0.0.2", "127.0.0.3")
    for protocol in (0, 16): quiet(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol).close())
    for protocol in (0, 12): fd = libc.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol); fd < 0 or os.close(fd)
    quiet(os.truncate, work + "/kept", 0)
    quiet(os.truncate, outside + "/keep.txt", 4)
    quiet(os.link, work + "/kept", work + "/link%d" % n)
    quiet(os.link, outside + "/keep.txt", outside + "/link%d" % n)
    with narrow: quiet(open, work + "/narrowed", "w")                   # refused by the scope, or made
    thread = threading.Thread(target=lambda: open(work + "/kept").close()); thread.start(); thread.join()
    for where in (port, 9):
        one = socket.socket(); quiet(one.connect, ("127.0.0.1", where)); one.close()
    quiet(subprocess.run, ["/bin/cat", work + "/kept"], stdout=subprocess.DEVNULL)
    quiet(subprocess.run, ["/bin/cat", outside + "/secret.txt"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    quiet(subprocess.run, ["/usr/bin/id"])
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    os.kill(sleeper.pid, signal.SIGTERM); sleeper.wait()
    pid = os.fork()
    if pid == 0:
        quiet(open, work + "/kept"); quiet(open, outside + "/secret.txt")
        libc.mkdir((outside + "/native-child").encode(), 0o700); quiet(os.mkdir, outside + "/child")
        os._exit(0)
    os.waitpid(pid, 0)
os.open(work + "/end", os.O_CREAT | os.O_WRONLY)
"""

CALLS = {
    "open": "fs.open",
    "openat": "fs.open",
    "openat2": "fs.open",
    "creat": "fs.open",
    "mkdir": "fs.create",
    "mkdirat": "fs.create",
    "mknod": "fs.create",
    "mknodat": "fs.create",
    "rename": "fs.rename",
    "renameat": "fs.rename",
    "renameat2": "fs.rename",
    "rmdir": "fs.delete",
    "unlink": "fs.delete",
    "unlinkat": "fs.delete",
    "chmod": "fs.attr",
    "fchmodat": "fs.attr",
    "chown": "fs.attr",
    "fchownat": "fs.attr",
    "utimensat": "fs.attr",
    "setxattr": "fs.attr",
    "truncate": "fs.modify",
    "link": "fs.link",
    "linkat": "fs.link",
    "symlink": "fs.symlink",
    "symlinkat": "fs.symlink",
    "socket": "net.socket",
    "connect": "net.connect",
    "bind": "net.bind",
    "listen": "net.listen",
    "sendto": "net.send",
    "sendmsg": "net.send",
    "execve": "process.exec",
    "kill": "process.signal",
}
# Made by some C libraries and machines in place of another.
OTHERS = set("open creat mkdir mknod rename rmdir unlink chmod fchmodat chown link linkat symlink".split())
NETLINK = {"NETLINK_ROUTE": 0, "NETLINK_GENERIC": 16, "NETLINK_NETFILTER": 12}
# The start of each call; where another thread's line comes between, its end has a line of its own.
LINE = re.compile(r"^(?:\d+\s+)?(\w+)\((.*)")

Asked = Counter[tuple[str, str]]
Decided = Counter[tuple[str, str, str, str]]


def asked_of_the_kernel(log: str, work: str, outside: str) -> Asked:
    """What strace saw between the markers: verb, and what of the world it is about."""
    counted: Asked = Counter()
    between = False
    for line in log.splitlines():
        found = LINE.match(line)
        if not found:
            continue
        call, arguments = found.groups()
        if f"{work}/begin" in arguments:
            between = True
        elif f"{work}/end" in arguments:
            break
        elif between and call in CALLS:
            if call == "execve" and "ENOENT" in line:
                continue  # a look along PATH
            about = subject(call, arguments, work, outside)
            if about:
                counted[CALLS[call], about] += 1
    return counted


def subject(call: str, arguments: str, work: str, outside: str) -> str | None:
    """The file, address or program of a call; nothing where it is none of the test's own."""
    if call == "listen":
        who = "natively" if arguments.endswith(", 2") or ", 2)" in arguments else "through Python"
        return "listen, bound" if "127.0.0.1:" in arguments else f"listen, elsewhere, {who}"
    if call == "socket":
        kind = re.match(r"AF_NETLINK, \S+ (\w+)", arguments)
        return f"netlink {NETLINK[kind[1]]}" if kind else None
    paths = re.findall(r'"([^"]*)"', arguments)
    for path in paths:
        if path.startswith((work, outside)):
            return path  # of a rename or link the first, as in the record
        if path in ("/bin/cat", "/usr/bin/id"):
            return path
    port, address = (
        re.search(rf"sin_{what}\(\"?([\d.]+)", arguments) for what in ("port=htons", "addr=inet_addr")
    )
    if port and address:
        return f"{address[1]}:{port[1]}"
    if re.match(r"\d+, SIGTERM", arguments):
        return "signal"
    return None


def decided(run: Run, work: str, outside: str) -> Decided:
    """What the trace decided from the marker on: verb, what it is about, the verdict, and who decided.

    What the hook of a child that ended decided may come after the second marker: rings are read in turn.
    """
    counted: Decided = Counter()
    between = False
    for record in run.records:
        if record["type"] != "decided":
            continue
        action = record["request"]["action"]
        verb = action["verb"]
        path = str(action.get("path", ""))
        if path == f"{work}/begin":
            between = True
        elif between and path != f"{work}/end":
            if verb == "net.listen":
                about = "listen, bound" if action["addr"] == "127.0.0.1" else "listen, elsewhere"
            elif verb == "net.socket":
                about = f"netlink {action['protocol']}"
            elif verb in ("net.connect", "net.bind", "net.send"):
                about = f"{action['addr']}:{action['port']}"
            elif verb == "process.signal":
                about = "signal"
            elif verb == "process.exec":
                about = str(action.get("asked") or path)
            else:
                about = path
            if (
                about.startswith((work, outside))
                or about in ("/bin/cat", "/usr/bin/id", "signal")
                or verb.startswith("net.")
            ):
                verdict = record["decision"]["verdict"]
                assert record["enforced"], record
                counted[verb, about, verdict, record["request"]["context"]["lane"]] += 1
    return counted


def expected(asked: Asked, work: str, outside: str, port: int) -> Decided:
    """Who decides on each operation, and how: known from who makes it, and from what it is about."""
    refused = {f"{work}/narrowed", "/usr/bin/id", "127.0.0.1:9", "netlink 16", "netlink 12"}
    refused |= {f"127.0.0.{n}:{to}" for n in (2, 3) for to in (0, port)}
    # What the C library is asked for directly.
    unseen = {"netlink 12", *(f"127.0.0.3:{to}" for to in (0, port))}
    found: Decided = Counter()
    for (verb, about), number in asked.items():
        if verb == "net.listen" and about != "listen, bound":
            layer = "kernel" if about.endswith("natively") else "runtime"
            found[verb, "listen, elsewhere", "deny", layer] = number
        elif about not in refused and not about.startswith(outside):
            found[verb, about, "allow", "kernel"] = number
        # Opens, and connections to an address, the hook leaves to the supervisor.
        elif verb in ("fs.open", "net.connect") or about in unseen or about.startswith(f"{outside}/native-"):
            found[verb, about, "deny", "kernel"] = number
        else:
            found[verb, about, "deny", "runtime"] = number
    return found


def lay_out(world: World) -> None:
    """The same files for each of the two runs."""
    for name in os.listdir(world.work):
        path = world.work / name
        path.rmdir() if path.is_dir() else path.unlink()
    for name in os.listdir(world.outside):
        if name not in ("secret.txt", "keep.txt", "dir"):
            path = world.outside / name
            path.rmdir() if path.is_dir() else path.unlink()
    # What is refused must be there in the first place.
    for name in ("from", "native-file", "native-goes", "native-from", "native-to"):
        (world.outside / name).touch()
    (world.outside / "native-emptied").mkdir()
    world.hand_over()


@only("kernel")
def test_as_many_records_as_operations(world: World, listen) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace(1) is not installed")
    server = listen()
    work, outside = str(world.work), str(world.outside)
    program = world.base / "program.py"
    program.write_text(PROGRAM)
    lay_out(world)
    argv = [world.python, str(program), work, outside, str(server.port)]
    log = world.base / "strace.log"
    traced = ",".join("?" + call for call in CALLS)
    subprocess.run(
        [
            *world.as_user,
            strace,
            "-f",
            "-qq",
            "-yy",
            "-s",
            "4096",
            "-o",
            str(log),
            "-e",
            f"trace={traced}",
            *argv,
        ],
        cwd=work,
        env=world.environ(),
        capture_output=True,
        check=True,
        timeout=120,
    )
    asked = asked_of_the_kernel(log.read_text(), work, outside)
    lay_out(world)
    policy = (
        POLICY.format(port=server.port)
        .replace('write = ["./work"]\n', f'write = ["./work"]\nread = ["{program}", "./work"]\n', 1)
        .replace('read = ["./work"]\n', "", 1)
    )
    run = world.attack("", argv=argv, policy=policy)
    assert run.code == 0, run.explain()
    made = set(re.findall(r"^(?:\d+ +)?(\w+)\(", log.read_text(), re.MULTILINE))
    never = set(CALLS) - made - OTHERS
    assert not never, f"the program never made {never}"
    found, wanted = decided(run, work, outside), expected(asked, work, outside, server.port)
    # What `cat` never gets to, since its start or its file was refused, it asks no more; all else is the same.
    assert sum(wanted.values()) > 300, wanted
    assert found == wanted, (found - wanted, wanted - found)
    assert {key[2:] for key in found} == {("allow", "kernel"), ("deny", "kernel"), ("deny", "runtime")}
