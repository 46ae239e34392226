"""What fails by itself fails under the gate as it does without: the same exception about the same object."""

import json
import subprocess

from tests.conftest import World

ALLOW_ALL = 'version = 1\nextends = ["preset:allow-all"]\n'

CALLS = """
import json, os, signal, socket, subprocess, sys, warnings, _posixsubprocess
warnings.simplefilter("ignore")
outcomes = {}
def call(name, function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except Exception as error:
        named = getattr(error, "filename", None)
        what = [type(error).__name__, getattr(error, "errno", None), type(named).__name__]
        what.append(bytes(named).decode() if isinstance(named, (bytes, bytearray, memoryview)) else getattr(named, "path", named))
        # The very object that the program passed, as CPython promises.
        what.append(any(named is arg for arg in args))
    else:
        what = "worked"
    outcomes[name] = what

class Path:
    def __init__(self, path): self.path = path
    def __fspath__(self): return self.path

child = subprocess.Popen([sys.executable, "-c", ""])
child.wait()
call("a process that is gone", os.kill, child.pid, signal.SIGTERM)
call("a group that is gone", os.killpg, child.pid, signal.SIGTERM)
call("no pidfd", signal.pidfd_send_signal, 0, signal.SIGTERM)
child.returncode = None
call("a terminated child", child.send_signal, signal.SIGTERM)

for function in (os.execv, lambda *args: os.execve(*args, {}), lambda *args: os.posix_spawn(*args, {})):
    for name, path, argv in (
        ("no arguments", "absent", []), ("an empty name", "absent", [""]), ("a string for a list", "absent", "abc"),
        ("absent", "absent", ["x"]), ("below a file", "/etc/passwd/x", ["x"]), ("not executable", "/etc/passwd", ["x"]),
        ("a path object", Path("absent"), ["x"]), ("a NUL byte", "/bin/true\\0", ["x"]), ("a number", 1.5, ["x"]),
        ("a NUL byte in an argument", "/bin/true", ["x", "\\0"]), ("a number for an argument", "/bin/true", ["x", 5]),
    ):
        call(f"{len(outcomes)} {name}", function, path, argv)
call("an environment of no kind", os.execve, "/bin/true", ["true"], 5)
call("an environment of numbers", os.execve, "/bin/true", ["true"], {1: 2})
call("an environment with NUL", os.execve, "/bin/true", ["true"], {"a": "\\0"})
call("posix_spawnp", os.posix_spawnp, "absent-program", ["x"], {})

for name, argv, options in (
    ("absent", ["absent-program"], {}), ("absent with a path", ["/absent/program"], {}), ("a directory", ["/etc"], {}),
    ("below a file", ["/etc/passwd/x"], {}), ("not executable", ["/etc/passwd"], {}), ("too long", ["/" + "x" * 300], {}),
    ("another executable", [sys.executable], {"executable": "/absent/program"}), ("a NUL byte", [sys.executable + "\\0"], {}),
    ("a NUL byte in an argument", [sys.executable, "\\0"], {}), ("a number", [5], {}), ("no directory", ["true"], {"cwd": "/absent"}),
    ("a file for a directory", ["true"], {"cwd": "/etc/passwd"}), ("a NUL byte in the environment", ["true"], {"env": {"a": "\\0"}}),
    ("a path object", [Path("/absent/program")], {}), ("bytes", [b"/absent/program"], {}),
):
    call("Popen: " + name, subprocess.Popen, argv, **options)
    call("Popen, closing nothing: " + name, subprocess.Popen, argv, close_fds=False, **options)
    call("Popen, with preexec_fn: " + name, subprocess.Popen, argv, preexec_fn=lambda: None, **options)

def fork_exec(args=[b"x"], programs=[b"absent"], fds=(), cwd=None, env=[b"a=b"]):
    group = (-1,) if sys.version_info >= (3, 11) else ()
    fork = (False,) if sys.version_info >= (3, 11) else ()
    return _posixsubprocess.fork_exec(args, programs, True, fds, cwd, env, -1, -1, -1, -1, 1, 2, 3, 4, True, True, *group,
                                      None, None, None, -1, None, *fork)
call("fork_exec: arguments", fork_exec, args=123)
call("fork_exec: programs", fork_exec, programs=123)
call("fork_exec: directory", fork_exec, cwd=123)
call("fork_exec: environment", fork_exec, env=123)
call("fork_exec: descriptors", fork_exec, fds=(5, 4))
call("fork_exec: too few", _posixsubprocess.fork_exec, [b"x"])

for kind in (str, os.fsencode, lambda path: bytearray(os.fsencode(path)), lambda path: memoryview(os.fsencode(path)), Path):
    path, other = kind("absent"), kind("other")
    for name, function, *args in (
        ("open", os.open, os.O_RDONLY), ("mkdir", lambda path: os.mkdir(path + b"/x" if isinstance(path, bytes) else path)),
        ("listdir", os.listdir), ("scandir", os.scandir), ("rmdir", os.rmdir), ("unlink", os.unlink), ("remove", os.remove),
        ("truncate", os.truncate, 0), ("chmod", os.chmod, 0o700), ("chown", os.chown, -1, -1), ("lchown", os.lchown, -1, -1),
        ("utime", os.utime), ("setxattr", os.setxattr, "user.x", b""), ("removexattr", os.removexattr, "user.x"),
        ("rename", os.rename, other), ("replace", os.replace, other), ("link", os.link, other), ("mkfifo", os.mkfifo, -1),
    ):
        if name not in ("mkdir", "mkfifo"):
            call(f"{len(outcomes)} {name}", function, path, *args)

unix = socket.socket(socket.AF_UNIX)
call("an abstract name", unix.bind, bytearray(b"\\0failcore\\0%d" % os.getpid()))
outcomes["its name"] = unix.getsockname() == b"\\0failcore\\0%d" % os.getpid()
call("a socket that is not there", socket.socket(socket.AF_UNIX).connect, memoryview(b"/absent/socket"))
call("no port", socket.socket().connect, ("127.0.0.1", None))
call("a port beyond", socket.socket().connect, ("127.0.0.1", 70000))
print(json.dumps(outcomes))
"""


def test_the_same_exceptions_with_and_without_the_gate(world: World) -> None:
    agent = world.work / "agent.py"
    agent.write_text(CALLS)
    world.hand_over()
    line, _ = world.command([world.python, str(agent)], policy=ALLOW_ALL)
    gated, bare = (
        subprocess.run(argv, cwd=world.work, env=world.environ(), capture_output=True, text=True, check=True)
        for argv in (line, [*world.as_user, world.python, str(agent)])
    )
    without, under = json.loads(bare.stdout), json.loads(gated.stdout)
    assert len(without) > 150
    assert {
        name: (without[name], under.get(name)) for name in without if without[name] != under.get(name)
    } == {}


def test_the_machines_name_is_changed_where_the_policy_says_so(world: World) -> None:
    script = "import socket\nattempt('name', socket.sethostname, socket.gethostname())\n"
    run = world.run(script)
    run.refused("name")
    assert 'permit = ["socket.sethostname"]' in run.attempts["name"].text
    granting = (
        f"{ALLOW_ALL}",
        f'version = 1\nextends = ["preset:python"]\n[fs]\nread = ["./work"]\n[unmapped]\npermit = ["socket.sethostname"]\n',
    )
    for policy in granting:
        run = world.run(script, policy=policy)
        assert not run.attempts["name"].refused, run.explain()
        assert run.allowed("unmapped", "socket.sethostname")
