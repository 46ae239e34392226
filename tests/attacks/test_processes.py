"""Every way to become another process: the child is behind the same gate, and in the same trace."""

from tests.conftest import WORKSPACE, World

CHECK = """
import json, os, sys
def check(label):
    def one(what, call):
        try: call(); ok, kinds = True, []
        except BaseException as error: ok, kinds = False, [k.__name__ for k in type(error).__mro__]
        os.write(1, (json.dumps(dict(name=label + ": " + what, ok=ok, kinds=kinds)) + "\\n").encode())
    one("read", lambda: open(SECRET).read())
    one("write", lambda: open(OUTSIDE + "/new.txt", "w").write("x"))
    one("inside", lambda: open(WORK + "/in.txt", "a").write("x"))
"""


def held(run, *labels: str) -> None:
    for label in labels:
        run.refused(f"{label}: read", f"{label}: write")
        run.worked(f"{label}: inside")


def scripted(world: World) -> str:
    """The check as a module that children import, and as a program."""
    names = world.names()
    (world.work / "checks.py").write_text(names + CHECK)
    return names + CHECK


def test_forks(world: World) -> None:
    scripted(world)
    run = world.attack("""
from checks import check
import threading
def wait(pid): return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
if (pid := os.fork()) == 0:
    check("fork"); os._exit(0)
wait(pid)
if (pid := os.fork()) == 0:
    if (inner := os.fork()) == 0:
        check("grandchild"); os._exit(0)
    wait(inner); os._exit(0)
wait(pid)
def in_thread():
    if (pid := os.fork()) == 0:
        check("fork in a thread"); os._exit(0)
    wait(pid)
thread = threading.Thread(target=in_thread); thread.start(); thread.join()
pid, terminal = os.forkpty()
if pid == 0:
    try: open(SECRET).read(); os._exit(1)
    except PermissionError: os._exit(7)
tell("forkpty", wait(pid))
if (pid := os.fork()) == 0:
    os.setsid()
    if os.fork() == 0:
        check("daemon"); open(WORK + "/daemon-done", "w").close(); os._exit(0)
    os._exit(0)
wait(pid)
import time
end = time.monotonic() + 20
while not os.path.exists(WORK + "/daemon-done") and time.monotonic() < end: time.sleep(0.01)
check("parent afterwards")
""")
    held(run, "fork", "grandchild", "fork in a thread", "daemon", "parent afterwards")
    assert run.attempts["forkpty"].value == 7
    pids = {
        record["request"]["subject"]["pid"] for record in run.denied("fs.open", world.outside / "secret.txt")
    }
    assert len(pids) == 6, pids


def test_what_was_allowed_before_an_abrupt_end_is_in_the_trace(world: World) -> None:
    for end in (
        "os._exit(3)",
        "os.kill(os.getpid(), 9)",
        "os.abort()",
        "__import__('ctypes')",
        "raise SystemExit(3)",
    ):
        run = world.attack(
            f"""
import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
for n in range(50):
    open("in-%d.txt" % n, "w").close()
attempt("last", lambda: open(SECRET))
{end}
""",
            policy=WORKSPACE + '\n[process]\nsignal = "self"\n',
        )
        for n in range(50):
            assert run.allowed("fs.open", world.work / f"in-{n}.txt"), f"{end}: {n}"
        assert run.denied("fs.open", world.outside / "secret.txt")
        assert run.records[-1]["type"] == "session.closed", end
        assert run.code != 0


def test_threads_that_live_to_the_end(world: World) -> None:
    scripted(world)
    run = world.attack("""
from checks import check
import threading, atexit, time, weakref
class Finalised:
    def __del__(self): check("__del__ at exit")
keep = Finalised()
def forever():
    while True:
        try: open(SECRET).read()
        except PermissionError: continue
        except BaseException: break
        else: os.write(1, b'{"name": "leak", "ok": true}\\n')
threading.Thread(target=forever, daemon=True).start()
atexit.register(check, "atexit")
threading.Timer(0.0, check, ["timer"]).start()
weakref.finalize(keep, lambda: None)
time.sleep(0.2)
""")
    assert run.code == 0, run.explain()
    held(run, "atexit", "timer")
    assert "leak" not in run.attempts
    if "__del__ at exit: read" in run.attempts:
        assert not run.attempts["__del__ at exit: read"].ok


def test_daemon_threads_do_not_crash_the_end(world: World) -> None:
    """The interpreter unwinds daemon threads at its end; none may be unwound through the gate."""
    run = world.run("""
import threading, socket, time
open("in.txt", "w").close()
def forever(call):
    while True:
        try: call()
        except OSError: pass
for call in (lambda: os.close(os.open("in.txt", os.O_RDONLY)), lambda: open("in.txt").close(), lambda: open(SECRET),
             lambda: socket.getaddrinfo("localhost", 80), lambda: socket.socket().connect(("127.0.0.1", 1))):
    for _ in range(2):
        threading.Thread(target=forever, args=(call,), daemon=True).start()
class Slow:
    def __del__(self): time.sleep(0.05)
sys.kept = Slow()
time.sleep(0.1)
""")
    assert run.code == 0, run.explain()


def test_other_ways_to_start_an_interpreter(world: World) -> None:
    check = scripted(world)
    (world.work / "program.py").write_text(check + "check(sys.argv[1])\n")
    script = world.work / "script"
    script.write_text(f"#!{world.python} -I\n{check}check('shebang')\n")
    script.chmod(0o755)
    env_script = world.work / "env-script"
    env_script.write_text(f"#!/usr/bin/env python\n{check}check('env shebang')\n")
    env_script.chmod(0o755)
    (world.work / "pkg").mkdir()
    (world.work / "pkg" / "__main__.py").write_text(check + "check(sys.argv[1])\n")
    run = world.attack(
        """
import subprocess, asyncio, runpy, signal
def run(label, *argv, **options):
    attempt("start " + label, lambda: subprocess.run(argv, check=True, timeout=60, **options))
run("-I -S -E", sys.executable, "-I", "-S", "-E", WORK + "/program.py", "-I -S -E")
run("-m", sys.executable, "-m", "pkg", "-m")
run("-c", sys.executable, "-c", "import runpy; sys = __import__('sys'); sys.argv[1:] = ['-c']; runpy.run_path(%r)" % (WORK + "/program.py"))
run("-X", sys.executable, "-X", "dev", "-X", "importtime", "-u", "-B", WORK + "/program.py", "-X", stderr=subprocess.DEVNULL)
run("stdin", sys.executable, "-", "stdin", input=open("program.py").read(), text=True)
run("empty environment", sys.executable, WORK + "/program.py", "empty environment", env={})
run("shebang", WORK + "/script")
run("env shebang", WORK + "/env-script")
run("executable", "anything", WORK + "/program.py", "executable", executable=sys.executable)
run("vfork off", sys.executable, WORK + "/program.py", "vfork off", preexec_fn=lambda: None)
run("pass_fds", sys.executable, WORK + "/program.py", "pass_fds", pass_fds=(1,))
run("new session", sys.executable, WORK + "/program.py", "new session", start_new_session=True, cwd="/")
def spawned(label, call):
    attempt("start " + label, lambda: os.waitstatus_to_exitcode(os.waitpid(call(), 0)[1]))
spawned("posix_spawn", lambda: os.posix_spawn(sys.executable, [sys.executable, WORK + "/program.py", "posix_spawn"], {}))
spawned("posix_spawnp", lambda: os.posix_spawnp("python", ["python", WORK + "/program.py", "posix_spawnp"], dict(os.environ)))
attempt("start spawnv", lambda: os.spawnv(os.P_WAIT, sys.executable, [sys.executable, WORK + "/program.py", "spawnv"]))
attempt("start spawnve", lambda: os.spawnve(os.P_WAIT, sys.executable, [sys.executable, WORK + "/program.py", "spawnve"], {}))
async def started():
    process = await asyncio.create_subprocess_exec(sys.executable, WORK + "/program.py", "asyncio")
    return await process.wait()
attempt("start asyncio", lambda: asyncio.run(started()))
attempt("start runpy", lambda: runpy.run_path(WORK + "/program.py") if not sys.argv.insert(1, "runpy") else None)
attempt("start run_module", lambda: runpy.run_module("pkg", run_name="__main__", alter_sys=True))
sys.stdout.flush()
if (pid := os.fork()) == 0:
    try: os.execv(sys.executable, [sys.executable, WORK + "/program.py", "execv"])
    finally: os._exit(9)
os.waitpid(pid, 0)
if (pid := os.fork()) == 0:
    try: os.execve(os.open(sys.executable, os.O_RDONLY), [sys.executable, WORK + "/program.py", "fexecve"], dict(os.environ))
    finally: os._exit(9)
os.waitpid(pid, 0)
os.execve(sys.executable, [sys.executable, WORK + "/program.py", "exec itself"], {})
""",
        policy=WORKSPACE + '\n[process]\nexec = ["/usr/bin/env *", "./work/script", "./work/env-script"]\n',
        timeout=120,
    )
    labels = [
        "-I -S -E",
        "-m",
        "-c",
        "-X",
        "stdin",
        "empty environment",
        "shebang",
        "vfork off",
        "pass_fds",
        "new session",
        "posix_spawn",
        "posix_spawnp",
        "spawnv",
        "spawnve",
        "asyncio",
        "execv",
        "exec itself",
    ]
    for label in labels:
        assert f"{label}: read" in run.attempts, f"`{label}` did not run\n{run.explain()}"
    held(run, *labels)
    # These may be refused to start; if they run, they are held.
    for label in ("env shebang", "fexecve", "runpy", "executable"):
        if f"{label}: read" in run.attempts:
            held(run, label)
    assert len(run.denied("fs.open", world.outside / "secret.txt")) >= len(labels)


def test_multiprocessing(world: World) -> None:
    (world.work / "checks.py").write_text(world.names() + CHECK)
    run = world.attack(
        """
import multiprocessing, concurrent.futures
from checks import check
if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        process = context.Process(target=check, args=("process " + method,))
        process.start(); process.join(60)
        tell("exit " + method, process.exitcode)
        with context.Pool(2) as pool:
            pool.map(check, ["pool " + method])
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
            executor.submit(check, "executor " + method).result(60)
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        attempt("manager", lambda: manager.dict(x=1)["x"])
    attempt("queue", lambda: context.Queue().put(1))
    from multiprocessing import shared_memory
    def share():
        memory = shared_memory.SharedMemory(create=True, size=64)
        memory.buf[:2] = b"hi"; memory.close(); memory.unlink()
    attempt("shared memory", share)
""",
        timeout=180,
    )
    for method in ("fork", "spawn", "forkserver"):
        assert run.attempts[f"exit {method}"].value == 0, run.explain()
        held(run, f"process {method}", f"pool {method}", f"executor {method}")
    run.worked("queue", "shared memory", "manager")


def test_code_that_runs_before_the_program(world: World) -> None:
    """`site`, `.pth` files and PYTHONSTARTUP of a child run before any import of ours, and behind the hook."""
    check = scripted(world)
    early = world.work / "early"
    early.mkdir()
    (early / "sitecustomize.py").write_text(check + "check('sitecustomize')\n")
    (early / "usercustomize.py").write_text(check + "check('usercustomize')\n")
    (early / "encodings").mkdir()
    (early / "encodings" / "__init__.py").write_text(
        check + "try:\n    check('encodings')\nexcept BaseException: pass\n"
    )
    run = world.attack(
        """
import subprocess
early = WORK + "/early"
os.rename(early + "/encodings", WORK + "/encodings-aside")
subprocess.run([sys.executable, "-c", "pass"], env={**os.environ, "PYTHONPATH": early}, timeout=60)
subprocess.run([sys.executable, "-c", "pass"], env={"PYTHONPATH": early, "LD_PRELOAD": ""}, timeout=60)
os.mkdir(WORK + "/user"); 
user = subprocess.run([sys.executable, "-c", "import site; print(site.getusersitepackages())"], env={"PYTHONUSERBASE": WORK + "/user"}, capture_output=True, text=True).stdout.strip()
if user:
    os.makedirs(user)
    open(user + "/a.pth", "w").write("import sys; sys.path.insert(0, %r); import checks; checks.check('pth')\\n" % WORK)
    subprocess.run([sys.executable, "-c", "pass"], env={"PYTHONUSERBASE": WORK + "/user"}, timeout=60)
os.rename(WORK + "/encodings-aside", early + "/encodings")
subprocess.run([sys.executable, "-c", "pass"], env={"PYTHONPATH": early}, timeout=60, stderr=subprocess.DEVNULL)
open(WORK + "/startup.py", "w").write(open(WORK + "/checks.py").read() + "\\ncheck('startup')\\n")
subprocess.run([sys.executable, "-i", "-c", "pass"], env={**os.environ, "PYTHONSTARTUP": WORK + "/startup.py"}, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)
""",
        timeout=120,
    )
    held(run, "sitecustomize")
    for name, attempt in run.attempts.items():
        if name.endswith(": read") or name.endswith(": write"):
            assert not attempt.ok, run.explain()
    assert run.denied("fs.open", world.outside / "secret.txt")


def test_what_a_child_does_before_it_executes_anything(world: World) -> None:
    """`preexec_fn` runs in the child after the program was judged: it changes neither the program nor the gate."""
    check = scripted(world)
    (world.work / "program.py").write_text(check + "check(sys.argv[1])\n")
    for name in ("a", "b"):
        (world.work / name).mkdir()
        program = world.work / name / "program"
        program.write_text(f"#!/bin/sh\necho this is {name}\n")
        program.chmod(0o755)
    run = world.attack(
        """
import subprocess
def forget():
    for name in ("LD_PRELOAD", "FAILCORE_SOCKET", "FAILCORE_HOOK"):
        os.unsetenv(name)
        os.environ.pop(name, None)
attempt("start forgets", subprocess.run, [sys.executable, WORK + "/program.py", "forgets"], preexec_fn=forget, check=True)
def output(*argv, **options): return subprocess.run(argv, capture_output=True, **options).stdout.decode()
attempt("stays", output, "./program", cwd="a")
attempt("goes elsewhere", output, "./program", cwd="a", preexec_fn=lambda: os.chdir(WORK + "/b"))
def late():
    os.symlink("b/program", WORK + "/late")
attempt("is made late", output, WORK + "/late", preexec_fn=late)
tell("was made", os.path.lexists(WORK + "/late"))
""",
        policy=WORKSPACE + f'\n[process]\nexec = ["{world.work}/a/program"]\n',
    )
    held(run, "forgets")
    assert run.attempts["stays"].value == "'this is a\\n'", run.explain()
    assert "this is b" not in run.out, run.explain()
    assert run.attempts["was made"].value is True, run.explain()
    # A supervisor judges what is there when the child tries.
    late = "PermissionError" if world.lane == "kernel" else "FileNotFoundError"
    assert run.attempts["is made late"].kinds[0] == late, run.explain()
