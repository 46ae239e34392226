"""`os.open`, ctypes, subprocess and raw sockets inside a tool: what the older package never saw."""

from collections.abc import Callable

from tests.conftest import WORKSPACE, Listener, World

POLICY = (
    WORKSPACE
    + """
[process]
exec = ["/usr/bin/env true", "true"]
"""
)

SCRIPT = """
import failcore, socket, subprocess, _socket, _posixsubprocess
port = int(sys.argv[1])
touch = ["/bin/sh", "-c", "echo x > " + OUTSIDE + "/new.txt"]
cat = ["/bin/cat", SECRET]

def fork_exec(argv):
    errors, write = os.pipe()
    import inspect
    arguments = [[os.fsencode(a) for a in argv], [os.fsencode(argv[0])], True, (write,), None, None, -1, -1, -1, -1,
                 -1, -1, errors, write, False, False]
    if sys.version_info >= (3, 11):
        arguments += [-1]
    arguments += [None, None, None, -1, None]
    if sys.version_info >= (3, 12):
        arguments += [False]
    pid = _posixsubprocess.fork_exec(*arguments)
    os.waitpid(pid, 0)

def exec_in_fork(call, *arguments):
    pid = os.fork()
    if pid == 0:
        try:
            call(*arguments)
        except BaseException as error:
            os._exit(70 + any(kind.__name__.startswith("Denied") for kind in type(error).__mro__))
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == 71:
        raise failcore.Denied(13, "refused in the child")
    return code

def ctypes_open():
    import ctypes
    libc = ctypes.CDLL(None)
    return libc.open(SECRET.encode(), 0)

def cffi_open():
    import _cffi_backend

attacks = {
    "os.open": lambda: os.open(SECRET, os.O_RDONLY),
    "posix.open": lambda: __import__("posix").open(SECRET, os.O_RDONLY),
    "os.open to write": lambda: os.open(OUTSIDE + "/new.txt", os.O_CREAT | os.O_WRONLY),
    "ctypes": ctypes_open,
    "_ctypes": lambda: __import__("_ctypes").dlopen(None, 2),
    "subprocess.run": lambda: subprocess.run(touch, check=True),
    "subprocess output": lambda: subprocess.check_output(cat),
    "shell": lambda: subprocess.run("cat " + SECRET, shell=True, check=True),
    "Popen with executable": lambda: subprocess.Popen(["true"], executable="/bin/cat"),
    "os.posix_spawn": lambda: os.posix_spawn("/bin/sh", touch, {}),
    "os.posix_spawnp": lambda: os.posix_spawnp("sh", touch, {}),
    "os.spawnv": lambda: exec_in_fork(os.execv, "/bin/sh", touch),
    "os.execve": lambda: exec_in_fork(os.execve, "/bin/sh", touch, {}),
    "os.execvp": lambda: exec_in_fork(os.execvp, "sh", touch),
    "exec by descriptor": lambda: exec_in_fork(os.execve, os.open("/bin/sh", os.O_RDONLY), touch, {}),
    "fork_exec": lambda: fork_exec(touch),
    "socket": lambda: socket.socket().connect(("127.0.0.1", port)),
    "_socket": lambda: _socket.socket().connect(("127.0.0.1", port)),
    "raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP),
    "packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "sendmsg": lambda: socket.socket(type=socket.SOCK_DGRAM).sendmsg([b"x"], [], 0, ("127.0.0.1", port)),
    "sendto": lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", port)),
    "bind": lambda: socket.socket().bind(("127.0.0.1", 0)),
}

@failcore.tool("helper")
def tool(call):
    return call()

for name, call in attacks.items():
    attempt(name, tool, call)
attempt("os.system", lambda: tool(lambda: os.system("echo x > " + OUTSIDE + "/new.txt")))
attempt("os.popen", lambda: tool(lambda: os.popen("cat " + SECRET).read()))
tell("attacks", list(attacks))
attempt("exec inside", tool, lambda: subprocess.run(["/usr/bin/env", "true"], check=True))
attempt("exec with more arguments", tool, lambda: subprocess.run(["/usr/bin/env", "true", "x"], check=True))
attempt("os.open inside", tool, lambda: os.open("new.txt", os.O_CREAT | os.O_WRONLY))
"""


def test_what_a_tool_does_beneath_python_is_judged(world: World, listen: Callable[..., Listener]) -> None:
    server = listen()
    run = world.attack(SCRIPT, str(server.port), policy=POLICY)
    assert server.accepted == 0
    for name in run.attempts["attacks"].value:
        if name in ("ctypes", "_ctypes"):
            assert not run.attempts[name].ok and "ImportError" in run.attempts[name].kinds, run.explain()
        else:
            run.refused(name)
    run.refused("os.system", "os.popen", "exec with more arguments")
    run.worked("exec inside", "os.open inside")
    for verb in (
        "process.exec",
        "net.connect",
        "net.send",
        "net.socket",
        "net.bind",
        "native.load",
        "fs.open",
    ):
        assert run.denied(verb), f"no denied record of {verb}\n" + run.explain()


def test_ctypes_works_where_it_is_granted(world: World) -> None:
    run = world.run(
        'attempt("ctypes", lambda: __import__("ctypes").CDLL(None).getpid() == os.getpid())',
        policy=WORKSPACE + '\n[native]\nload = ["ctypes"]\n',
    )
    run.worked("ctypes")
    assert run.attempts["ctypes"].value == "True"
