"""Unwrapping `__wrapped__`: every function that can be dug out of a wrapper is still in front of the hook."""

from collections.abc import Callable

from tests.conftest import WORKSPACE, Listener, World

DIG = """
import functools, gc, types

def dug(thing, seen=None, depth=6):
    '''Everything callable that a callable holds: __wrapped__, closures, defaults, bound parts, globals by name.'''
    seen = {} if seen is None else seen
    if depth == 0 or id(thing) in seen or thing is None:
        return seen
    seen[id(thing)] = thing
    inner = []
    for name in ("__wrapped__", "__func__", "__self__", "func", "_original", "_call", "fget", "__call__"):
        try:
            inner.append(getattr(thing, name))
        except BaseException:
            pass
    for cell in getattr(thing, "__closure__", None) or ():
        try:
            inner.append(cell.cell_contents)
        except ValueError:
            pass
    inner += list(getattr(thing, "__defaults__", None) or ()) + list((getattr(thing, "__kwdefaults__", None) or {}).values())
    code = getattr(thing, "__code__", None)
    if code is not None:
        scope = getattr(thing, "__globals__", {})
        inner += [scope[name] for name in code.co_names if name in scope]
    if isinstance(thing, types.ModuleType):
        pass
    for one in inner:
        if callable(one):
            dug(one, seen, depth - 1)
    return seen
"""

SCRIPT = (
    DIG
    + """
import failcore, os, io, builtins, socket, _socket, posix, _io, subprocess, _posixsubprocess
port = int(sys.argv[1])

@failcore.tool("writer")
def write(path):
    with open(path, "w") as file:
        return file.write("x")

attempt("wrapped", write.__wrapped__ if hasattr(write, "__wrapped__") else write, OUTSIDE + "/new.txt")

def tries(function):
    '''Ways to call a function that may be an opener, a connector or a starter.'''
    yield lambda: function(SECRET)
    yield lambda: function(SECRET, os.O_RDONLY)
    yield lambda: function(OUTSIDE + "/new.txt", os.O_CREAT | os.O_WRONLY)
    yield lambda: function(OUTSIDE + "/new.txt", "w")
    yield lambda: function(OUTSIDE + "/newdir", 0o777)
    yield lambda: function(KEEP, WORK + "/got")
    yield lambda: function(socket.socket(), ("127.0.0.1", port))
    yield lambda: function("/bin/sh", ["sh", "-c", "echo x > " + OUTSIDE + "/new.txt"], {})

SKIP = {"_exit", "abort", "execv", "execve", "execl", "fork", "forkpty", "kill", "killpg", "wait", "waitpid", "wait3", "wait4",
        "waitid", "closerange", "close", "setsid", "pause", "read", "input", "breakpoint", "exit", "quit", "dup2", "posix_openpt",
        "chdir", "fchdir", "chroot", "nice", "setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setgroups",
        "initgroups", "seteuid", "setegid", "umask", "lockf", "tcsetpgrp", "setpgid", "setpriority", "sched_setscheduler", "unshare", "setns",
        "sched_setaffinity", "sched_setparam", "login_tty", "write", "_fork_exec", "sync", "cpu_count", "help", "copyright", "credits", "license"}
count, got = 0, []
roots = []
for module in (builtins, os, posix, io, _io, socket, _socket, subprocess, _posixsubprocess):
    for name, value in list(vars(module).items()):
        if callable(value) and name not in SKIP and getattr(value, "__name__", "") not in SKIP:
            roots.append(value)
for name in ("connect", "connect_ex", "sendto", "sendmsg", "bind", "listen"):
    roots += [getattr(socket.socket, name), getattr(_socket.socket, name)]
found = {}
for root in roots:
    dug(root, found)
for thing in list(found.values()):
    if getattr(thing, "__name__", "") in SKIP or isinstance(thing, type) and issubclass(thing, BaseException):
        continue
    for call in tries(thing):
        count += 1
        try:
            result = call()
        except BaseException:
            continue
        if isinstance(result, int) and not isinstance(result, bool) and 2 < result < 4096:
            try:
                data = os.read(result, 100)
            except BaseException:
                continue
            if data.startswith(b"secret-"):
                got.append(repr(thing))
        elif hasattr(result, "read"):
            try:
                data = result.read()
            except BaseException:
                continue
            if str(data).find("secret-") >= 0:
                got.append(repr(thing))
tell("tried", [count, len(found), got])
attempt("inside", write, WORK + "/in.txt")
"""
)


def test_nothing_dug_out_of_a_wrapper_goes_round_the_hook(
    world: World, listen: Callable[..., Listener]
) -> None:
    server = listen()
    run = world.attack(SCRIPT, str(server.port), timeout=120)
    run.refused("wrapped")
    run.worked("inside")
    count, functions, got = run.attempts["tried"].value
    assert not got, f"opened the secret: {got}"
    assert functions > 300 and count > 2000
    assert server.accepted == 0
    assert run.denied("fs.open", world.outside / "secret.txt")


def test_an_unwrapped_tool_falls_back_to_the_session_and_no_further(world: World) -> None:
    run = world.attack(
        """
import failcore
@failcore.tool("reader")
def write(path):
    with open(path, "w") as file:
        return file.write("x")
attempt("scoped", write, WORK + "/a.txt")
attempt("unwrapped inside the session", write.__wrapped__, WORK + "/a.txt")
attempt("unwrapped outside it", write.__wrapped__, OUTSIDE + "/new.txt")
""",
        policy=WORKSPACE + '\n[[tool]]\nname = "reader"\nfs.write = []\n',
    )
    run.refused("scoped", "unwrapped outside it")
    run.worked(
        "unwrapped inside the session"
    )  # a scope in the agent's own process is advisory, and documented so


def test_unwrapping_inside_the_scope_does_not_leave_it(world: World) -> None:
    run = world.attack(
        """
import failcore
def bare(path):
    with open(path, "w") as file:
        return file.write("x")
@failcore.tool("reader")
def tool(path):
    return tool2.__wrapped__(path)
@failcore.tool("anything")
def tool2(path):
    return bare(path)
attempt("another tool's body", tool, WORK + "/a.txt")
attempt("another tool's body at the top", tool2.__wrapped__, WORK + "/b.txt")
""",
        policy=WORKSPACE + '\n[[tool]]\nname = "reader"\nfs.write = []\n',
    )
    run.refused("another tool's body")
    run.worked("another tool's body at the top")
    assert not (world.work / "a.txt").exists() and (world.work / "b.txt").exists()
