"""Sub-interpreters have modules of their own and no wrappers: there the hook alone decides."""

from collections.abc import Callable

from tests.conftest import Listener, World

SCRIPT = """
port = int(sys.argv[1])
module = None
for name in ("_interpreters", "_xxsubinterpreters"):
    try:
        module = __import__(name); break
    except ImportError:
        pass
tell("module", module and module.__name__)
CODE = '''
import os, sys, json
OUTSIDE, WORK, SECRET, KEEP = %r, %r, %r, %r
port = %d
def attempt(name, call):
    try:
        value = repr(call()); ok = True; kinds = []; text = ""
    except BaseException as error:
        value = None; ok = False; kinds = [k.__name__ for k in type(error).__mro__]; text = str(error)
    os.write(1, (json.dumps(dict(name=name, ok=ok, value=value, kinds=kinds, text=text)) + "\\\\n").encode())
here = os.open(WORK, os.O_RDONLY)
def connect():
    import _socket
    s = _socket.socket()
    s.connect(("127.0.0.1", port))
def fork_exec():
    import subprocess
    return subprocess.run(["/bin/sh", "-c", "echo x > " + OUTSIDE + "/new"], check=True)
attempt("read", lambda: open(SECRET).read())
attempt("os.open", lambda: os.read(os.open(SECRET, os.O_RDONLY), 99))
attempt("write", lambda: open(OUTSIDE + "/new", "w"))
attempt("dir_fd", lambda: os.read(os.open("../outside/secret.txt", os.O_RDONLY, dir_fd=here), 99))
attempt("mkdir", lambda: os.mkdir(OUTSIDE + "/new"))
attempt("rename", lambda: os.rename(KEEP, WORK + "/x"))
attempt("link", lambda: os.link(SECRET, WORK + "/x"))
attempt("remove", lambda: os.remove(KEEP))
attempt("chmod", lambda: os.chmod(KEEP, 0o777))
attempt("connect", connect)
attempt("spawn", fork_exec)
attempt("posix_spawn", lambda: os.posix_spawn("/bin/sh", ["sh", "-c", "echo x > " + OUTSIDE + "/new"], {}))
attempt("system", lambda: os.system("echo x > " + OUTSIDE + "/new"))
attempt("ctypes", lambda: __import__("ctypes").CDLL(None))
attempt("inside", lambda: open(WORK + "/made-in-sub.txt", "w").write("x"))
attempt("inside read", lambda: open(WORK + "/in.txt").read())
''' % (OUTSIDE, WORK, SECRET, KEEP, port)
open("in.txt", "w").write("x")
if module:
    for kind in ("isolated", "legacy"):
        try:
            try: interp = module.create(isolated=(kind == "isolated"))
            except TypeError: interp = module.create(kind) if module.__name__ == "_interpreters" else module.create()
        except BaseException as error:
            tell("no " + kind, repr(error)); continue
        os.write(1, b"== " + kind.encode() + b"\\n")
        try: result = module.run_string(interp, CODE)
        except BaseException as error: result = repr(error)
        tell("result " + kind, str(result))
        module.destroy(interp)
attempt("main after: read", lambda: open(SECRET).read())
attempt("main after: inside", lambda: open("after.txt", "w").write("x"))
"""


def test_a_subinterpreter_is_behind_the_same_hook(world: World, listen: Callable[..., Listener]) -> None:
    server = listen()
    run = world.attack(SCRIPT, str(server.port))
    assert server.accepted == 0
    assert run.attempts["module"].value, "this interpreter has no sub-interpreters"
    names = (
        "read",
        "os.open",
        "write",
        "dir_fd",
        "mkdir",
        "rename",
        "link",
        "remove",
        "chmod",
        "connect",
        "spawn",
        "posix_spawn",
        "system",
        "ctypes",
    )
    sections = run.out.split("== ")[1:]
    assert sections, run.explain()
    for name in names:
        assert not run.attempts[name].ok, f"{name}\n{run.explain()}"
    run.worked("inside", "inside read")
    run.refused("main after: read")
    run.worked("main after: inside")
    assert not (world.outside / "new").exists()
    assert (world.work / "made-in-sub.txt").exists()
    assert run.denied("fs.open", world.outside / "secret.txt")
