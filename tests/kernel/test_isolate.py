"""Isolated tools: a process of their own, plain answers, and a scope that nothing in it can leave."""

import json
import os
import re
import socket

import pytest

from tests.conftest import WORKSPACE, Listener, World, only, wait_for

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


REACHES = """
import ctypes, failcore, socket, struct, subprocess, threading, time
ours, theirs = int(sys.argv[1]), int(sys.argv[2])
libc = ctypes.CDLL(None, use_errno=True)
libc.popen.restype = ctypes.c_void_p
EXECVEAT, PATH = {"x86_64": 322}.get(os.uname().machine, 281), 0o10000000
DIAL = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1]))).sendall(sys.argv[2].encode())"

def isolated(function): return failcore.tool("narrow", isolate=True)(function)
def forked(call):
    pid = os.fork()
    if pid == 0: call(); os._exit(0)
    os.waitpid(pid, 0)
def orphaned(call):
    # Its parent is gone before it makes its first call.
    ended, held = os.pipe()
    os.set_inheritable(held, True)
    def twice():
        parent = os.getpid()
        if os.fork() == 0:
            while os.getppid() == parent: time.sleep(0.01)
            call(); os._exit(0)
    forked(twice)
    os.close(held); os.read(ended, 1); os.close(ended)
def threaded(call):
    thread = threading.Thread(target=call); thread.start(); thread.join()

def v4(port): return struct.pack("=HH4s8x", socket.AF_INET, socket.htons(port), bytes([127, 0, 0, 1]))
def v6(port):
    mapped = bytes(10) + bytes([255, 255, 127, 0, 0, 1])
    return struct.pack("=HHI16sI", socket.AF_INET6, socket.htons(port), 0, mapped, 0)
def dial(name, port, family=socket.AF_INET, address=v4):
    fd, where = libc.socket(family, socket.SOCK_STREAM, 0), address(port)
    if libc.connect(fd, where, len(where)) == 0: libc.send(fd, name.encode(), len(name), 0x4000)
    libc.close(fd)
def datagram(name, port):
    fd, where = libc.socket(socket.AF_INET, socket.SOCK_DGRAM, 0), v4(port)
    libc.sendto(fd, name.encode(), len(name), 0, where, len(where)); libc.close(fd)
dials = {
    "straight": dial,
    "mapped": lambda *at: dial(*at, socket.AF_INET6, v6),
    "thread": lambda *at: threaded(lambda: dial(*at)),
    "child": lambda *at: forked(lambda: dial(*at)),
    "orphan": lambda *at: orphaned(lambda: dial(*at)),
    "program": lambda name, port: subprocess.run([sys.executable, "-I", "-S", "-c", DIAL, str(port), name], env={}, stderr=subprocess.DEVNULL).returncode,
    "datagram": datagram,
}

def strings(*words): return (ctypes.c_char_p * (len(words) + 1))(*[word.encode() for word in words], None)
def says(name): return "echo x > " + WORK + "/" + name
def shell(name, argv0="/bin/sh"): return strings(argv0, "-c", says(name))
def at(name):
    fd = libc.open(b"/bin/sh", PATH)
    libc.syscall(EXECVEAT, fd, b"", shell(name), strings(), 0x1000)
def linked(name):
    libc.symlink(b"/bin/sh", (WORK + "/cat").encode())
    libc.execve((WORK + "/cat").encode(), shell(name), strings())
def spawned(name):
    pid = ctypes.c_int()
    if libc.posix_spawn(ctypes.byref(pid), b"/bin/sh", None, None, shell(name), strings()) == 0: os.waitpid(pid.value, 0)
def piped(name):
    stream = libc.popen(says(name).encode(), b"r")
    if stream: libc.pclose(ctypes.c_void_p(stream))
INNER = "import os, sys; os.spawnv(os.P_WAIT, '/bin/sh', ['/bin/sh', '-c', sys.argv[1]])"
execs = {
    "execve": lambda name: forked(lambda: libc.execve(b"/bin/sh", shell(name), strings())),
    "called cat": lambda name: forked(lambda: libc.execve(b"/bin/sh", shell(name, "/bin/cat"), strings())),
    "execveat": lambda name: forked(lambda: at(name)),
    "cat": lambda name: forked(lambda: linked(name)),
    "posix_spawn": spawned,
    "system": lambda name: libc.system(says(name).encode()),
    "popen": piped,
    "orphan": lambda name: orphaned(lambda: libc.execve(b"/bin/sh", shell(name), strings())),
    "thread": lambda name: forked(lambda: threaded(lambda: libc.execve(b"/bin/sh", shell(name), strings()))),
    "program": lambda name: subprocess.run([sys.executable, "-I", "-S", "-c", INNER, says(name)], env={}).returncode,
}
# The session first: an orphan is judged in every scope that it could have been born in.
for where, run in (("session", lambda function: function), ("tool", isolated)):
    for way, call in dials.items():
        for port in (ours, theirs): attempt("%s dials %s %d" % (where, way, port), run(call), "(%s-%s)" % (where, way), port)
    for way, call in execs.items():
        # A shell that passes for another program is refused to anybody.
        if where == "session" and "cat" in way: continue
        name = "%s-%s" % (where, way.replace(" ", "-"))
        attempt(name, run(call), name)
tell("ways", [list(dials), list(execs)])
attempt("what is left", isolated(lambda: forked(lambda: libc.execve(b"/bin/cat", strings("/bin/cat", WORK + "/own"), strings()))))
"""


def said_to(server: Listener) -> set[str]:
    return set(re.findall(r"\([\w-]+\)", server.received.decode()))


@only("kernel")
def test_no_native_code_in_the_tool_reaches_further_or_runs_more(world: World, listen) -> None:
    granted, kept = listen(), listen()
    datagrams = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(2)]
    for one, server in zip(datagrams, (granted, kept), strict=True):
        one.bind((server.address, server.port))
        one.setblocking(False)
    both = [f"{kind}127.0.0.1:{server.port}" for kind in ("", "udp:") for server in (granted, kept)]
    (world.work / "own").write_text("cat was run")
    # By whatever name a shell is asked for, the session may run it.
    policy = POLICY.replace('"/bin/sh *"', f'"/bin/sh", "{os.path.realpath("/bin/sh")}"')
    policy = policy.replace("[[tool]]", f"[net]\nconnect = {both}\n[[tool]]") + (
        '[[tool]]\nname = "narrow"\n'
        f"net.connect = {[one for one in both if one.endswith(f':{granted.port}')]}\n"
        f'process.exec = ["/bin/cat *", "{world.python} *"]\n'
    )
    run = world.attack(REACHES, str(granted.port), str(kept.port), policy=policy)
    assert run.code == 0, run.explain()
    dials, execs = run.attempts["ways"].value
    for server, one, who in zip((granted, kept), datagrams, ({"tool", "session"}, {"session"}), strict=True):
        wanted = {f"({where}-{way})" for where in who for way in dials}
        taken = {one.recv(99).decode() for _ in who}
        with pytest.raises(BlockingIOError):
            one.recv(99)
        one.close()
        wait_for(lambda: wanted <= taken | said_to(server), f"{wanted} have come\n{run.explain()}", 20)
        assert taken | said_to(server) == wanted and server.accepted == len(wanted) - len(who), run.explain()
    made = {path.name for path in world.work.iterdir() if path.name.startswith(("tool-", "session-"))}
    assert made == {f"session-{way}" for way in execs if "cat" not in way}, f"{made}\n{run.explain()}"
    assert "cat was run" in run.out, run.explain()
    # All of it is the supervisor's doing, and it knows who asked.
    connects, runs = run.denied("net.*", kept.port), run.denied("process.exec", "/work/tool-")
    assert len(connects) == len(dials) and len(runs) == len(execs), run.explain()
    for record in connects + runs:
        assert record["request"]["context"]["lane"] == "kernel", record
        assert record["request"]["subject"]["claimed"]["scope"] == ["narrow"], record
        passes_for = re.search(r"/work/tool-(called-)?cat\b", json.dumps(record["request"]["action"]))
        assert record["decision"]["reason"] == ("not_granted" if passes_for else "outside_scope"), record


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
