"""Isolated tools inside isolated tools, against native code: what it changes by name, and which unix sockets it meets at."""

import errno as errno_of
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TIMEOUT, WORKSPACE, Run, World, only

pytestmark = only("kernel")

DIRECTORIES = ("both", "outer", "inner", "neither")
FILES = "abcdefghijklmnopqr"
# Which directories each tool may write, and meet at sockets in.
SCOPES = {
    (): DIRECTORIES,
    ("outer",): ("both", "outer"),
    ("inner",): ("both", "inner"),
    ("outer", "inner"): ("both",),
    ("inner", "outer"): ("both",),
}
# Ways by which code in the innermost tool may try to be in another scope: functions of changes.c.
WAYS = (
    "changes",
    "by_thread",
    "by_child",
    "by_orphan",
    "left_behind",
    "by_program",
    "by_forged_claims",
    "by_attaching",
)
# Those in which the thread claims to be in `free` by then.
FORGED = ("by_forged_claims", "by_attaching")
VERBS = {
    "fs.open",
    "fs.create",
    "fs.modify",
    "fs.delete",
    "fs.attr",
    "fs.rename",
    "fs.link",
    "fs.symlink",
    "net.bind",
    "ipc.connect",
}


def policy(world: World) -> str:
    def tool(name: str) -> str:
        own = SCOPES[name,]
        sockets = [f"unix:{world.work}/{one}/**" for one in own] + [
            f"unix:@{prefix(world)}-{one}-*" for one in own
        ]
        return f"""
[[tool]]
name = "{name}"
fs.write = {[f"{world.work}/{one}" for one in own]}
net.connect = {sockets}
net.listen = {sockets}
"""

    everything = [f"unix:{world.work}/**", f"unix:@{prefix(world)}-*"]
    return f"""{WORKSPACE}
read = ["./work", "{world.base}/changes.so"]
[process]
exec = ["{world.base}/changes *"]
[native]
load = ["site-packages", "ctypes", "/usr/lib", "/lib", "{world.base}/changes.so"]
[net]
connect = {everything}
listen = {everything}
{tool("outer")}{tool("inner")}"""


def prefix(world: World) -> str:
    return world.base.name


def furnished(world: World, ways: list[str]) -> None:
    """Compiles the native code, and lays out what it changes."""
    if not shutil.which("cc"):
        pytest.skip("there is no cc")
    source = Path(__file__).parent / "changes.c"
    for name, options in {"changes": [], "changes.so": ["-shared", "-fPIC"]}.items():
        made = ["cc", "-O1", "-pthread", *options, "-o", world.base / name, source]
        subprocess.run(made, check=True, timeout=TIMEOUT)
    for directory in DIRECTORIES:
        for way in ways:
            at = world.work / directory / way
            for name in ("empty", "void", "tree/below"):
                (at / name).mkdir(parents=True)
            for name in FILES:
                (at / name).write_text("as it was")


SCRIPT = """
import ctypes, failcore, socket, threading, time
PREFIX, PLAN = sys.argv[1], sys.argv[2:]
native = ctypes.CDLL(BASE + "/changes.so")
more = {"by_program": [BASE + "/changes"], "by_attaching": [os.environ["FAILCORE_SOCKET"]], "left_behind": [None]}

def listening(kind, where):
    one = socket.socket(socket.AF_UNIX, kind); one.bind(where)
    if kind == socket.SOCK_STREAM: one.listen(64)
    return one
held = []
for plan in PLAN:
    label = plan.split(":")[0]
    for directory in ("both", "outer", "inner", "neither"):
        at = "/".join((WORK, directory, label))
        held += [listening(socket.SOCK_STREAM, at + "/server"), listening(socket.SOCK_DGRAM, at + "/box")]
        held.append(listening(socket.SOCK_STREAM, "\\0%s-%s-%s" % (PREFIX, directory, label)))

def natively(label, way):
    # That the hook is there, whose claims are forged.
    os.listdir(WORK + "/both")
    words = [label, WORK, PREFIX, *more.get(way, [])]
    getattr(native, way)(*(word and word.encode() for word in words))
def within(scope, label, way):
    if not scope: return natively(label, way)
    failcore.tool(scope[0], isolate=True)(within)(scope[1:], label, way)
def wait_for(path):
    end = time.monotonic() + 40
    while not os.path.exists(path) and time.monotonic() < end: time.sleep(0.01)
def in_outer_after_inner(label):
    # What the inner tool left behind is not the outer one's.
    within(["inner"], label + "-in", "changes")
    natively(label, "changes")
for plan in PLAN:
    label, scope, way = plan.split(":")
    if way == "after":
        failcore.tool("outer", isolate=True)(in_outer_after_inner)(label)
    elif way != "in":
        attempt("called " + label, within, [name for name in scope.split(",") if name], label, way)
    if scope: wait_for("/".join((WORK, "both", label, "done")))
"""


def came_out(run: Run) -> dict[str, dict[tuple[str, str], int]]:
    """What the kernel answered to each call in each directory, of each label."""
    found: dict[str, dict[tuple[str, str], int]] = {}
    for name, attempt in run.attempts.items():
        label, directory, what = (*name.split(" ", 2), "", "")[:3]
        if directory in DIRECTORIES:
            found.setdefault(label, {})[directory, what] = attempt.errno or 0
    return found


def refusals(world: World, run: Run) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """The refusals of each label, by the directory that they are about."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    about = re.compile(rf"(?:{world.work}/|@?{prefix(world)}-)(outer|inner|neither)[/-]([\w-]+)")
    for record in run.denied("*"):
        for directory, label in set(about.findall(json.dumps(record["request"]["action"]))):
            found.setdefault(label, {}).setdefault(directory, []).append(record)
    return found


def plainly(world: World, label: str) -> dict[str, list[str]]:
    """What is in each directory, and how it is."""
    found = {}
    for directory in DIRECTORIES:
        at = world.work / directory / label
        found[directory] = sorted(
            f"{path.relative_to(at)} {path.lstat().st_mode:o} {path.lstat().st_nlink} {path.lstat().st_mtime_ns} "
            f"{path.lstat().st_ino} {path.read_text() if path.is_file() and not path.is_symlink() else ''}"
            for path in at.rglob("*")
            if path.name not in ("server", "box")
        )
    return found


def test_a_tool_in_a_tool_gets_what_both_may_and_native_code_in_it_no_more(world: World) -> None:
    plans = {
        "session": ((), "changes"),
        "outer": (("outer",), "changes"),
        "inner": (("inner",), "changes"),
        "reversed": (("inner", "outer"), "changes"),
        "after": (("outer",), "after"),
        "after-in": (("outer", "inner"), "in"),
        **{way: (("outer", "inner"), way) for way in WAYS},
    }
    furnished(world, list(plans))
    before = {label: plainly(world, label) for label in plans}
    args = [f"{label}:{','.join(scope)}:{way}" for label, (scope, way) in plans.items()]
    run = world.attack(SCRIPT, prefix(world), *args, policy=policy(world))
    assert run.code == 0, run.explain()
    came, refused = came_out(run), refusals(world, run)
    calls = {what for _, what in came["session"]}
    assert len(calls) > 40, run.explain()
    for label, (scope, way) in plans.items():
        granted, kept = SCOPES[scope], set(DIRECTORIES) - set(SCOPES[scope])
        assert set(came[label]) == {(directory, what) for directory in DIRECTORIES for what in calls}, label
        for (directory, what), errno in came[label].items():
            allowed = (0,) if directory in granted else (errno_of.EACCES, errno_of.EPERM, errno_of.EXDEV)
            assert errno in allowed, f"{label}: {what} in {directory}: {errno}\n{run.explain()}"
        after = plainly(world, label)
        for directory in DIRECTORIES:
            changed = after[directory] != before[label][directory]
            assert changed == (directory in granted), f"{label}: {directory}"
        # Each refusal is the supervisor's, who knows the scope, whatever is claimed.
        claimed = [*scope, "free"] if way in FORGED else list(scope)
        for directory in kept:
            records = refused[label][directory]
            assert len(records) == len(calls), f"{label}: {directory}"
            assert {record["request"]["action"]["verb"] for record in records} == VERBS
            for record in records:
                assert record["request"]["subject"]["claimed"]["scope"] == claimed, (label, record)
                assert record["request"]["context"]["lane"] == "kernel", (label, record)
                assert record["decision"]["reason"] == "outside_scope", (label, record)
    run.worked("by_forged_claims - forged", "by_attaching - attached", "by_attaching - forged")


def test_an_orphan_of_a_tool_that_the_program_adopts_stays_in_its_scope(world: World) -> None:
    furnished(world, ["adopted"])
    before = plainly(world, "adopted")
    run = world.attack(
        SCRIPT
        + """
# Whoever loses its parent comes to this process, to the thread that has forked one of which nothing was heard yet.
libc = ctypes.CDLL(None)
libc.prctl(36, 1, 0, 0, 0)
go = WORK + "/both/adopted/go"
more["left_behind"] = [go]
called = threading.Thread(target=within, args=(["inner"], "adopted", "left_behind"))
called.start(); called.join()
native.silent()
open(go, "w").close()
wait_for(WORK + "/both/adopted/done")
tell("children", open("/proc/self/task/%d/children" % os.getpid()).read().split())
""",
        prefix(world),
        "adopted::in",
        policy=policy(world),
    )
    assert run.code == 0, run.explain()
    came = came_out(run)["adopted"]
    # Its children are the silent one and the orphan.
    assert len(came) > 160 and len(run.attempts["children"].value) == 2, run.explain()
    for (directory, what), errno in came.items():
        assert (errno == 0) == (directory in SCOPES["inner",]), (
            f"{what} in {directory}: {errno}\n{run.explain()}"
        )
    after = plainly(world, "adopted")
    assert after["outer"] == before["outer"] and after["neither"] == before["neither"]


def test_a_tool_whose_threads_are_all_heard_at_once_is_in_its_scope(world: World) -> None:
    furnished(world, ["race"])
    run = world.attack(
        SCRIPT
        + """
race = native.all_at_once
@failcore.tool("inner", isolate=True)
def raced(path, inside): race(path); race(inside)
for n in range(100): raced(b"%s/neither/race/new-%d" % (WORK.encode(), n), b"%s/both/race/new-%d" % (WORK.encode(), n))
""",
        prefix(world),
        policy=policy(world),
    )
    assert run.code == 0, run.explain()
    made = {directory: list((world.work / directory / "race").glob("new-*")) for directory in DIRECTORIES}
    assert len(made["both"]) == 300 and not made["neither"], run.explain()
    assert len(run.denied("fs.create", "/neither/race/new-")) == 300
