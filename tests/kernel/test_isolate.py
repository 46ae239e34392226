"""Isolated tools: a process of their own, plain answers, and a scope that nothing in it can leave."""

import pytest

from tests.conftest import WORKSPACE, World, only

POLICY = (
    WORKSPACE.replace('write = ["./work"]', 'write = ["./work"]\nread = ["./work"]')
    + """
[process]
exec = ["/bin/sh *", "/bin/cat *", "python3"]
signal = "run"

[native]
load = ["site-packages", "ctypes", "/usr/lib", "/lib"]

[[tool]]
name = "reader"
fs.write = []
"""
)


def test_answers_and_exceptions_are_passed_back(world: World) -> None:
    run = world.run(
        """
import asyncio, datetime, decimal, failcore
home = os.getpid()
def isolated(function): return failcore.tool("reader", isolate=True)(function)

secret = "a closure"
attempt("value", isolated(lambda: {"a": [1, 2.5, None], "b": (secret, b"x"), "c": {1}}))
attempt("dates", isolated(lambda: (datetime.datetime(2020, 1, 2), decimal.Decimal("1.5"))))
attempt("another process", isolated(lambda: os.getpid() != home and failcore.current().scope))
attempt("arguments", isolated(lambda *a, **k: (a, k)), 1, b=3)
attempt("large", lambda: len(isolated(lambda: b"x" * 5_000_000)()))
async def later(x): await asyncio.sleep(0.01); return x, failcore.current().tool
attempt("coroutine", lambda: asyncio.run(isolated(later)(7)))
attempt("built-in exception", isolated(lambda: {}["missing"]))
attempt("os error", isolated(lambda: open(WORK + "/missing")))
class Own(Exception): pass
def own(): raise Own("why", 3)
attempt("own exception", isolated(own))
attempt("no plain data", isolated(lambda: Own))
attempt("exit", isolated(lambda: sys.exit(4)))
attempt("ended", isolated(lambda: os._exit(5)))
attempt("killed", isolated(lambda: os.kill(os.getpid(), 9)))
attempt("generator", lambda: isolated(lambda: (yield 1)))
def closed(fd):
    try: os.fstat(fd)
    except OSError: return True
    return False
attempt("descriptors", isolated(lambda: len([fd for fd in range(3, 64) if not closed(fd)])))
file = open(WORK + "/open", "w")
attempt("still open here", lambda: file.write("x"))
tell("children", len(os.listdir("/proc/self/task")))
""",
        policy=POLICY,
    )
    assert run.code == 0, run.explain()
    run.worked("value", "dates", "another process", "arguments", "large", "coroutine", "still open here")
    said = {name: attempt.value for name, attempt in run.attempts.items()}
    assert said["value"] == "{'a': [1, 2.5, None], 'b': ('a closure', b'x'), 'c': {1}}"
    assert said["another process"] == "('reader',)" and said["coroutine"] == "(7, 'reader')"
    assert said["large"] == "5000000" and said["descriptors"] == "1", "more than the pipe is open"
    kinds = {name: attempt.kinds[:1] for name, attempt in run.attempts.items()}
    assert kinds["built-in exception"] == ["KeyError"]
    assert kinds["os error"] == ["FileNotFoundError"] and run.attempts["os error"].errno == 2
    for name, text in {
        "own exception": "Own: why, 3",
        "no plain data": "cannot be passed back",
        "exit": "SystemExit: 4",
        "ended": "ended with code 5",
        "killed": "signal 9",
    }.items():
        assert kinds[name] == ["IsolationError"] and text in run.attempts[name].text, run.explain()
    assert kinds["generator"] == ["TypeError"]


def test_refusals_are_passed_back_with_all_they_say(world: World) -> None:
    run = world.attack(
        """
import failcore
write = failcore.tool("reader", isolate=True)(lambda path: open(path, "w").close())
attempt("write", write, WORK + "/x")
try:
    write(WORK + "/x")
except failcore.Denied as denied:
    tell("facts", [denied.verb, denied.reason, denied.rule, denied.filename, denied.retry])
attempt("outside the tool", lambda: open(WORK + "/x", "w").close())
""",
        policy=POLICY,
    )
    run.refused("write")
    run.worked("outside the tool")
    verb, reason, rule, filename, retry = run.attempts["facts"].value
    assert (verb, reason, retry) == ("fs.open", "outside_scope", False) and "tool" in rule
    assert filename == str(world.work / "x")
    for denied in run.denied("fs.open", world.work / "x"):
        assert denied["request"]["subject"]["claimed"]["scope"] == ["reader"]


def test_what_the_tool_writes_back_runs_nothing_here(world: World) -> None:
    run = world.attack(
        """
import failcore, pickle
class Bomb:
    def __reduce__(self): return os.system, ("echo x > " + WORK + "/bomb",)
def forged():
    write = max(fd for fd in range(3, 64) if not closed(fd))
    data = pickle.dumps(("value", Bomb()))
    os.write(write, len(data).to_bytes(8, "big") + data)
    os._exit(0)
def closed(fd):
    try: os.fstat(fd)
    except OSError: return True
    return False
attempt("bomb", failcore.tool("reader", isolate=True)(forged))
def endless():
    write = max(fd for fd in range(3, 64) if not closed(fd))
    os.write(write, (1 << 40).to_bytes(8, "big"))
    while True: os.write(write, bytes(65536))
attempt("endless", failcore.tool("reader", isolate=True)(endless))
def holds_on():
    if os.fork() == 0:
        import time; time.sleep(30); os._exit(0)
    os._exit(0)
attempt("holds on", failcore.tool("reader", isolate=True)(holds_on))
""",
        policy=POLICY,
    )
    assert not (world.work / "bomb").exists()
    for name, text in (
        ("bomb", "no plain data"),
        ("endless", "are the most"),
        ("holds on", "gave no answer"),
    ):
        assert run.attempts[name].kinds[0] == "IsolationError" and text in run.attempts[name].text, (
            run.explain()
        )


ESCAPES = """
import ctypes, failcore, threading, subprocess
libc = ctypes.CDLL(None, use_errno=True)
O_CREAT_WRONLY = os.O_CREAT | os.O_WRONLY
def raw_open(name):
    # The C library, past every hook.
    return libc.open((WORK + "/" + name).encode(), O_CREAT_WRONLY, 0o600)
def forked(name, depth=2):
    for _ in range(depth):
        pid = os.fork()
        if pid: os.waitpid(pid, 0) if depth == 1 else None; os._exit(0) if depth > 1 else None; return
    raw_open(name); os._exit(0)
def isolated(function): return failcore.tool("reader", isolate=True)(function)

def in_thread(name):
    thread = threading.Thread(target=raw_open, args=(name,)); thread.start(); thread.join()
def raw_thread(name):
    import _thread, time
    _thread.start_new_thread(raw_open, (name,)); time.sleep(0.2)
def child(name):
    pid = os.fork()
    if pid == 0: raw_open(name); os._exit(0)
    os.waitpid(pid, 0)
def orphan(name):
    # Its parent is gone before it makes its first call.
    import time
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(0.3); raw_open(name); os._exit(0)
        os._exit(0)
    time.sleep(0.8)
def daemon(name):
    import time
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(0.3); raw_open(name); os._exit(0)
        os._exit(0)
    time.sleep(0.8)
def sibling(name):
    CLONE_PARENT, SIGCHLD = 0x8000, 17
    pid = libc.syscall(56, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0)
    if pid == 0: raw_open(name); os._exit(0)
    if pid < 0: raise OSError(ctypes.get_errno(), "clone")
def program(name): subprocess.run(["/bin/sh", "-c", "echo x > " + WORK + "/" + name])
def without_hook(name): subprocess.run([sys.executable, "-I", "-S", "-c", "open(%r, 'w')" % (WORK + "/" + name)], env={})
def reaper(name):
    libc.prctl(36, 1, 0, 0, 0); child(name)
def forgets(name):
    # What the hook knows of scopes is in this process's memory: it may claim whatever it likes.
    from failcore import _failcore
    import contextvars
    contextvars.Context().run(raw_open, name)
ways = dict(raw_open=raw_open, in_thread=in_thread, raw_thread=raw_thread, child=child, orphan=orphan, daemon=daemon,
            sibling=sibling, program=program, without_hook=without_hook, reaper=reaper, forgets=forgets)
for name, way in ways.items():
    attempt(name, isolated(way), name)
tell("ways", list(ways))
attempt("the program itself", lambda: open(WORK + "/own", "w").close())
tell("raw", raw_open("own-raw") >= 0)
"""


@only("kernel")
def test_no_code_in_the_tool_leaves_its_scope(world: World) -> None:
    run = world.attack(ESCAPES, policy=POLICY)
    assert run.code == 0, run.explain()
    written = [way for way in run.attempts["ways"].value if (world.work / way).exists()]
    assert not written, f"{written} wrote all the same\n" + run.explain()
    run.worked("the program itself")
    assert run.attempts["raw"].value and (world.work / "own-raw").exists(), run.explain()
    for way in ("raw_open", "in_thread", "child", "orphan", "daemon", "program", "without_hook", "reaper"):
        denied = run.denied("fs.open", world.work / way)
        assert denied and denied[0]["request"]["subject"]["claimed"]["scope"] == ["reader"], (
            way + run.explain()
        )


@only("kernel")
@pytest.mark.parametrize("subreaper", [False, True])
def test_many_at_once_each_keep_their_own_scope(world: World, subreaper: bool) -> None:
    run = world.attack(
        """
import ctypes, failcore, random, threading, time
libc = ctypes.CDLL(None)
if int(sys.argv[1]): libc.prctl(36, 1, 0, 0, 0)
def body(name, allowed):
    # Through a child whose parent is gone by then, so that only its birth says whose it is.
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(0.05)
            libc.open((WORK + "/" + name).encode(), os.O_CREAT | os.O_WRONLY, 0o600)
            os._exit(0)
        os._exit(0)
reader = failcore.tool("reader", isolate=True)(body)
plain = failcore.tool("writer", isolate=True)(body)
def some(n):
    for i in range(4):
        (reader if (n + i) % 2 else plain)("%s-%d-%d" % ("reader" if (n + i) % 2 else "writer", n, i), True)
threads = [threading.Thread(target=some, args=(n,)) for n in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
time.sleep(0.5)
""",
        str(int(subreaper)),
        policy=POLICY,
    )
    assert run.code == 0, run.explain()
    written = sorted(path.name for path in world.work.iterdir() if "-" in path.name)
    assert not [name for name in written if name.startswith("reader")], written
