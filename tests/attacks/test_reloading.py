"""Reload, fresh copies and deleted modules: a new module object is the same interpreter behind the same hook."""

from collections.abc import Callable

import pytest

from tests.attacks.test_digging_in_memory import TRY, held
from tests.conftest import WORKSPACE, Listener, World


def test_modules_reloaded_and_imported_again(world: World, listen: Callable[..., Listener]) -> None:
    server = listen()
    run = world.attack(
        TRY.replace("_open, _os_open, _socket_class = open, os.open, socket.socket", "")
        .replace("_os_open(", "__import__('os').open(")
        .replace("_socket_class(", "__import__('socket').socket(")
        .replace(" _open(", " __import__('io').open(")
        + """
import failcore, failcore._failcore, importlib, inspect, io, socket, subprocess, _io, posix, _socket, _posixsubprocess
for module in (os, io, socket, subprocess, failcore, failcore._failcore, _socket, _posixsubprocess):
    try: importlib.reload(module)
    except BaseException: pass
still("reloaded")
for name in ("os", "io", "socket", "subprocess", "failcore", "failcore._failcore", "_socket", "_posixsubprocess", "_io", "posix", "_pyio", "builtins"):
    sys.modules.pop(name, None)
import os, io, socket
still("imported again")

import _imp, importlib.machinery, importlib.util
def fresh(name):
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin in (None, "built-in"):
        spec = importlib.machinery.ModuleSpec(name, importlib.machinery.BuiltinImporter, origin="built-in")
        module = _imp.create_builtin(spec)
        try: _imp.exec_builtin(module)
        except BaseException: pass
        return module
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
FRESH = {}
for name in ("posix", "_io", "_socket", "_posixsubprocess", "os", "io", "socket", "shutil", "builtins", "_winapi", "sys", "marshal", "mmap", "_multiprocessing", "fcntl"):
    try: FRESH[name] = fresh(name)
    except BaseException as error: tell("no fresh " + name, str(error))
tell("fresh", list(FRESH))
p = FRESH.get("posix")
if p:
    attempt("fresh posix.open", lambda: p.read(p.open(SECRET, 0), 99))
    attempt("fresh posix.open dir_fd", lambda: p.read(p.open("../outside/secret.txt", 0, dir_fd=p.open(WORK, 0)), 99))
    attempt("fresh posix.mkdir", lambda: p.mkdir(OUTSIDE + "/new"))
    attempt("fresh posix.mkfifo", lambda: p.mkfifo(OUTSIDE + "/new"))
    attempt("fresh posix.mknod", lambda: p.mknod(OUTSIDE + "/new"))
    attempt("fresh posix.rename", lambda: p.rename(KEEP, WORK + "/x"))
    attempt("fresh posix.link", lambda: p.link(SECRET, WORK + "/x"))
    attempt("fresh posix.symlink", lambda: p.symlink("x", OUTSIDE + "/x"))
    attempt("fresh posix.posix_spawn", lambda: p.posix_spawn("/bin/sh", ["sh", "-c", "echo x > %s/new" % OUTSIDE], {}))
    attempt("fresh posix.system", lambda: p.system("echo x > %s/new" % OUTSIDE))
    attempt("fresh posix.truncate", lambda: p.truncate(KEEP, 0))
    attempt("fresh posix.chmod", lambda: p.chmod(KEEP, 0o777))
if "_io" in FRESH:
    attempt("fresh _io.open", lambda: FRESH["_io"].open(SECRET).read())
    attempt("fresh _io.FileIO", lambda: FRESH["_io"].FileIO(SECRET).read())
if "_socket" in FRESH:
    attempt("fresh _socket", lambda: FRESH["_socket"].socket().connect(("127.0.0.1", port)))
    attempt("fresh _socket udp", lambda: FRESH["_socket"].socket(2, 2).sendto(b"x", ("127.0.0.1", port)))
    attempt("fresh _socket raw", lambda: FRESH["_socket"].socket(2, 3, 6))
    attempt("fresh _socket getaddrinfo", lambda: FRESH["_socket"].getaddrinfo("evil.example", 80))
if "socket" in FRESH:
    attempt("fresh socket", lambda: FRESH["socket"].create_connection(("127.0.0.1", port), 5))
if "os" in FRESH:
    attempt("fresh os", lambda: FRESH["os"].open(SECRET, 0))
fe = FRESH.get("_posixsubprocess")
if fe:
    def fork_exec():
        r, w = FRESH["os"].pipe() if "os" in FRESH else os.pipe()
        base = [[b"sh", b"-c", b"echo x > " + OUTSIDE.encode() + b"/new"], [b"/bin/sh"], True, (w,), None, None, -1, -1, -1, -1, -1, -1, r, w, False, False]
        if sys.version_info >= (3, 11): base += [-1]
        base += [None, None, None, -1, None]
        if sys.version_info >= (3, 12): base += [False]
        os.waitpid(fe.fork_exec(*base), 0)
    attempt("fresh fork_exec", fork_exec)
still("fresh copies used")
""",
        str(server.port),
    )
    assert server.accepted == 0
    held(run, "reloaded", "imported again", "fresh copies used")
    tried = [
        attempt
        for name, attempt in run.attempts.items()
        if name.startswith("fresh ") and "inside" not in name
    ]
    assert len(tried) >= 10, run.explain()
    assert not [attempt for attempt in tried if attempt.ok], run.explain()


def test_another_copy_of_the_package_adds_nothing(world: World) -> None:
    run = world.attack(
        TRY
        + """
import failcore, failcore._failcore, importlib.util, importlib.machinery, shutil
native = failcore._failcore.__file__ if hasattr(failcore._failcore, "__file__") else None
attempt("copy the module", shutil.copy, native, WORK + "/_failcore.abi3.so")
def load(name, path):
    loader = importlib.machinery.ExtensionFileLoader(name, path)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module
attempt("load the copy", load, "_failcore", WORK + "/_failcore.abi3.so")
attempt("load it again", load, "failcore._failcore", native)
still("copies loaded")
"""
    )
    assert not run.attempts["load the copy"].ok, run.explain()
    held(run, "copies loaded")


@pytest.mark.parametrize("first", ["_ssl", "_socket"])
def test_a_module_that_another_one_brings_is_met_too(world: World, first: str) -> None:
    script = f"import {first}, ssl, socket\nprint(socket.getaddrinfo('localhost', 80, socket.AF_INET)[0][4])"
    policy = WORKSPACE + '\n[net]\nconnect = ["localhost:80", "127.0.0.1:80"]\n'
    run = world.run(script, policy=policy)
    assert run.out == "('127.0.0.1', 80)\n", run.explain()
