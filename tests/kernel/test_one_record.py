"""One operation, one decision record: counted against strace(1) of the same program without FailCore.

The program does each operation between two markers, natively and through Python, allowed and refused. What strace saw
it ask of the kernel is what the trace must have decided, each once, whoever of hook and supervisor decided it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter

import pytest

from tests.conftest import WORKSPACE, World, only

POLICY = (
    WORKSPACE.replace('write = ["./work"]', 'write = ["./work"]\nread = ["./work"]')
    + """
[net]
connect = ["127.0.0.1:{port}"]
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
import ctypes, os, signal, socket, subprocess, sys, threading
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
open(work + "/kept", "w").close()
begin = os.open(work + "/begin", os.O_CREAT | os.O_WRONLY)
for n in range(3):
    open(work + "/kept").close()                                        # Python, allowed
    quiet(open, outside + "/secret.txt")                                # refused by the hook
    quiet(open, work + "/missing")
    libc.open((work + "/kept").encode(), 0)                             # native, allowed
    libc.open((outside + "/keep.txt").encode(), 0)                      # refused by the supervisor
    quiet(os.mkdir, work + "/d%d" % n)
    quiet(os.rename, work + "/d%d" % n, work + "/e%d" % n)
    quiet(os.rmdir, work + "/e%d" % n)
    quiet(os.mkdir, outside + "/d")
    libc.mkdir((outside + "/n").encode(), 0o700)
    quiet(os.chmod, work + "/kept", 0o600)
    quiet(os.truncate, work + "/kept", 0)
    quiet(os.link, work + "/kept", work + "/link%d" % n)
    quiet(os.symlink, "kept", work + "/sym%d" % n)
    quiet(os.unlink, work + "/link%d" % n)
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
        quiet(open, work + "/kept"); quiet(open, outside + "/secret.txt"); os._exit(0)
    os.waitpid(pid, 0)
os.open(work + "/end", os.O_CREAT | os.O_WRONLY)
"""

CALLS = {
    "open": "fs.open",
    "openat": "fs.open",
    "creat": "fs.open",
    "mkdir": "fs.create",
    "rename": "fs.rename",
    "rmdir": "fs.delete",
    "unlink": "fs.delete",
    "chmod": "fs.attr",
    "fchmodat": "fs.attr",
    "truncate": "fs.modify",
    "link": "fs.link",
    "linkat": "fs.link",
    "symlink": "fs.symlink",
    "connect": "net.connect",
    "execve": "process.exec",
    "kill": "process.signal",
}
# The start of each call; where another thread's line comes between, its end has a line of its own.
LINE = re.compile(r"^(?:\d+\s+)?(\w+)\((.*)")


def asked_of_the_kernel(log: str, work: str, outside: str) -> Counter[tuple[str, str]]:
    """What strace saw between the markers: verb, and what of the world it is about."""
    counted: Counter[tuple[str, str]] = Counter()
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
            about = subject(arguments, work, outside)
            if about:
                counted[CALLS[call], about] += 1
    return counted


def subject(arguments: str, work: str, outside: str) -> str | None:
    """The file, address or program of a call; nothing where it is none of the test's own."""
    paths = re.findall(r'"([^"]*)"', arguments)
    for path in paths:
        if path.startswith((work, outside)):
            return path  # of a rename or link the first, as in the record
        if path in ("/bin/cat", "/usr/bin/id"):
            return path
    port = re.search(r"sin_port=htons\((\d+)\)", arguments)
    if port:
        return port[1]
    if re.match(r"\d+, SIGTERM", arguments):
        return "signal"
    return None


def decided(run, work: str, outside: str) -> Counter[tuple[str, str]]:
    """What the trace decided between the markers."""
    counted: Counter[tuple[str, str]] = Counter()
    between = False
    for record in run.records:
        if record["type"] != "decided":
            continue
        action = record["request"]["action"]
        verb = action["verb"]
        path = str(action.get("path", ""))
        if path == f"{work}/begin":
            between = True
        elif path == f"{work}/end":
            break
        elif between:
            if verb == "net.connect":
                about = str(action["port"])
            elif verb == "process.signal":
                about = "signal"
            elif verb == "process.exec":
                about = str(action.get("asked") or path)
            else:
                about = path
            if (
                about.startswith((work, outside))
                or about in ("/bin/cat", "/usr/bin/id", "signal")
                or about.isdigit()
            ):
                counted[verb, about] += 1
    return counted


@only("kernel")
def test_as_many_records_as_operations(world: World, listen) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace(1) is not installed")
    server = listen()
    work, outside = str(world.work), str(world.outside)
    program = world.base / "program.py"
    program.write_text(PROGRAM)
    world.hand_over()
    argv = [world.python, str(program), work, outside, str(server.port)]
    log = world.base / "strace.log"
    subprocess.run(
        [
            *world.as_user,
            strace,
            "-f",
            "-qq",
            "-s",
            "4096",
            "-o",
            str(log),
            "-e",
            "trace=" + ",".join("?" + c for c in CALLS),
            *argv,
        ],
        cwd=work,
        env=world.environ(),
        capture_output=True,
        check=True,
        timeout=120,
    )
    expected = asked_of_the_kernel(log.read_text(), work, outside)
    for name in os.listdir(work):
        (world.work / name).unlink()
    policy = (
        POLICY.format(port=server.port)
        .replace('write = ["./work"]\n', f'write = ["./work"]\nread = ["{program}", "./work"]\n', 1)
        .replace('read = ["./work"]\n', "", 1)
    )
    run = world.run("", argv=argv, policy=policy)
    assert run.code == 0, run.explain()
    found = decided(run, work, outside)
    # What `cat` never gets to, since its start or its file was refused, it asks no more; all else is the same.
    assert sum(expected.values()) > 60, expected
    assert found == expected, (found - expected, expected - found)
    lanes = {record["request"]["context"]["lane"] for record in run.records if record["type"] == "decided"}
    assert lanes == {"kernel", "runtime"}, "one of the two layers decided nothing"
