"""Signals: to what is not the agent's own, and handlers that raise in the middle of a decision."""

import errno
import os
import subprocess

from tests.conftest import WORKSPACE, World, only


def test_only_what_the_policy_grants_is_signalled(world: World) -> None:
    decoy = subprocess.Popen([*world.as_user, "sleep", "60"], start_new_session=True)
    try:
        run = world.attack(
            """
import signal, subprocess
decoy = int(sys.argv[1])
attempt("kill decoy", os.kill, decoy, signal.SIGTERM)
attempt("kill decoy's group", os.killpg, decoy, signal.SIGTERM)
attempt("kill negative", os.kill, -decoy, signal.SIGTERM)
if hasattr(os, "pidfd_open"):
    attempt("pidfd", lambda: signal.pidfd_send_signal(os.pidfd_open(decoy), signal.SIGTERM))
attempt("stop the supervisor", os.kill, os.getppid(), signal.SIGSTOP)
attempt("limit the supervisor", lambda: __import__("resource").prlimit(os.getppid(), 7, (1, 1)))
class Pid:
    def __init__(self, *answers): self.answers = list(answers)
    def __index__(self): return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
for n in range(3):
    attempt("odd pid %d" % n, os.kill, Pid(*[0x7ffffff0] * n, decoy), signal.SIGTERM)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
attempt("child", os.kill, child.pid, signal.SIGTERM)
tell("child ended", child.wait(20))
def wait(n, frame): pass
signal.signal(signal.SIGUSR1, wait)
attempt("own", os.kill, os.getpid(), signal.SIGUSR1)
""",
            str(decoy.pid),
            policy=WORKSPACE + '\n[process]\nsignal = "children"\n',
        )
        assert decoy.poll() is None, "the decoy was killed\n" + run.explain()
        run.refused(
            "kill decoy", "kill decoy's group", "kill negative", "stop the supervisor", "limit the supervisor"
        )
        assert not [name for name, attempt in run.attempts.items() if name.startswith("odd") and attempt.ok]
        if "pidfd" in run.attempts:
            run.refused("pidfd")
        run.worked("child")
        assert run.attempts["child ended"].value == -15
        assert all(record["decision"]["reason"] for record in run.denied("process.signal"))
        assert len(run.denied("process.signal")) >= 5
    finally:
        decoy.kill()
        decoy.wait()


def test_who_is_gone_is_not_refused_and_nobody_else_is_reached(world: World) -> None:
    decoy = subprocess.Popen([*world.as_user, "sleep", "60"], start_new_session=True)
    script = """
import fcntl, signal, subprocess
decoy = int(sys.argv[1])
child = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
watched = os.pidfd_open(child.pid) if hasattr(os, "pidfd_open") else None
child.wait()
tell("pid", child.pid)
attempt("gone", os.kill, child.pid, signal.SIGTERM)
attempt("gone, asked", os.kill, child.pid, 0)
attempt("gone group", os.killpg, child.pid, signal.SIGTERM)
attempt("gone owner", fcntl.fcntl, 0, fcntl.F_SETOWN, child.pid)
attempt("gone pidfd", signal.pidfd_send_signal, watched, signal.SIGTERM)
attempt("no pidfd", signal.pidfd_send_signal, 0, signal.SIGTERM)
attempt("decoy", os.kill, decoy, signal.SIGTERM)
attempt("decoy, asked", os.kill, decoy, 0)
attempt("decoy's directory", lambda: signal.pidfd_send_signal(os.open("/proc/%d" % decoy, os.O_RDONLY), signal.SIGTERM))
"""
    try:
        for granted in ("children", "none"):
            policy = f"version = 1\n[fs]\nread = ['/']\nwrite = ['./work']\n[native]\nload = ['/']\n"
            policy += f"[process]\nexec = ['/**']\nsignal = '{granted}'\n"
            run = world.attack(script, str(decoy.pid), policy=policy)
            for name in ("gone", "gone, asked", "gone group", "gone owner", "gone pidfd"):
                assert run.attempts[name].kinds[0] == "ProcessLookupError", run.explain()
            assert run.attempts["no pidfd"].errno == errno.EBADF, run.explain()
            run.refused("decoy", "decoy, asked")
            # The supervisor takes no directory for a process.
            if world.lane == "kernel":
                assert run.attempts["decoy's directory"].errno == errno.EBADF, run.explain()
            else:
                run.refused("decoy's directory")
            # As the kernel speaks of another user's process: it is there, and not for us.
            assert {run.attempts[name].errno for name in ("decoy", "decoy, asked")} == {errno.EPERM}
            assert not run.denied("process.signal", run.attempts["pid"].value)
        assert decoy.poll() is None, "the decoy was killed"
    finally:
        decoy.kill()
        decoy.wait()


def test_a_group_is_as_far_away_as_its_farthest_member(world: World) -> None:
    # In the agent's session, as everything started at one terminal is, and at the head of a group of its own.
    decoy = subprocess.Popen([*world.as_user, "sleep", "60"], preexec_fn=os.setpgrp)
    try:
        run = world.attack(
            """
import signal, subprocess, time
decoy = int(sys.argv[1])
attempt("the supervisor's group", os.kill, 0, signal.SIGURG)
attempt("the supervisor's group by number", os.killpg, os.getpgrp(), signal.SIGURG)
if (pid := os.fork()) == 0:
    os.setpgid(0, decoy)
    attempt("a group that was joined", os.kill, 0, signal.SIGTERM)
    attempt("a group with a child in it", os.killpg, decoy, signal.SIGTERM)
    os._exit(0)
os.waitpid(pid, 0)
read, write = os.pipe()
leader = subprocess.Popen([sys.executable, "-c", "import os, time; os.fork() or (os.write(%d, b'x'), time.sleep(60))" % write],
                          start_new_session=True, pass_fds=[write])
leader.wait()
os.close(write)
os.read(read, 1)
attempt("a group whose leader is gone", os.killpg, leader.pid, signal.SIGKILL)
attempt("it ends", lambda: os.read(read, 1))
child = [sys.executable, "-c", "import os; os.kill(os.getppid(), 0)"]
attempt("a child to its parent", subprocess.run, child, check=True)
attempt("a child to the supervisor", subprocess.run, [*child[:2], child[2].replace("os.getppid()", str(os.getppid()))], check=True)
""",
            str(decoy.pid),
            policy=WORKSPACE + '\n[process]\nsignal = "run"\n',
        )
        assert decoy.poll() is None, "the decoy was killed\n" + run.explain()
        # Under a supervisor the program leads a group of its own.
        judge = run.worked if world.lane == "kernel" else run.refused
        judge("the supervisor's group", "the supervisor's group by number")
        run.refused("a group that was joined", "a group with a child in it")
        run.worked("a group whose leader is gone", "it ends", "a child to its parent")
        assert not run.attempts["a child to the supervisor"].ok
    finally:
        decoy.kill()
        decoy.wait()


def test_numbers_that_change_reach_nobody_else(world: World) -> None:
    decoy = subprocess.Popen([*world.as_user, "sleep", "60"], start_new_session=True)
    niceness, affinity = os.getpriority(os.PRIO_PROCESS, decoy.pid), os.sched_getaffinity(decoy.pid)
    try:
        run = world.attack(
            """
import signal
decoy = int(sys.argv[1])
class Number:
    def __init__(self, *answers): self.answers = list(answers)
    def __index__(self): return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
own, other = os.pidfd_open(os.getpid()), os.pidfd_open(decoy)
for n in range(3):
    attempt("pidfd %d" % n, signal.pidfd_send_signal, Number(*[own] * n, other), Number(*[0] * n, signal.SIGTERM))
    attempt("priority %d" % n, os.setpriority, Number(os.PRIO_PROCESS), Number(*[os.getpid()] * n, decoy), 19)
    attempt("affinity %d" % n, os.sched_setaffinity, Number(*[0] * n, decoy), [0])
attempt("everyone's priority", os.setpriority, os.PRIO_USER, 0, 19)
attempt("own priority", os.setpriority, os.PRIO_PROCESS, Number(0), 19)
""",
            str(decoy.pid),
            policy=WORKSPACE + '\n[process]\nsignal = "run"\n',
        )
        assert decoy.poll() is None, "the decoy was killed\n" + run.explain()
        assert os.getpriority(os.PRIO_PROCESS, decoy.pid) == niceness, run.explain()
        assert os.sched_getaffinity(decoy.pid) == affinity, run.explain()
        run.refused("pidfd 0", "priority 0", "affinity 0", "everyone's priority")
        run.worked("own priority")
    finally:
        decoy.kill()
        decoy.wait()


def test_no_signals_at_all_where_none_are_granted(world: World) -> None:
    run = world.attack(
        """
import signal, subprocess
child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
attempt("child", os.kill, child.pid, signal.SIGTERM)
attempt("parent", os.kill, os.getppid(), signal.SIGSTOP)
child.stdin.close()
tell("ended", child.wait(20))
""",
        policy=f"""
version = 1
[fs]
read = ["/"]
write = ["./work"]
[native]
load = ["/**"]
[process]
signal = "none"
exec = ["{world.python} *"]
""",
    )
    run.refused("child", "parent")
    assert run.attempts["ended"].value == 0


def test_handlers_that_raise_while_something_is_decided(world: World) -> None:
    run = world.attack(
        """
import signal, time
class Boom(Exception): pass
count = 0
def handler(n, frame):
    # Only in the middle of an operation, so that the loop itself stands.
    global count
    if frame and frame.f_code.co_name in ("<lambda>", "open", "__init__", "_run_code"):
        count += 1
        raise Boom
outcomes = {}
signal.signal(signal.SIGALRM, handler)
end = time.monotonic() + 1.5
signal.setitimer(signal.ITIMER_REAL, 0.0007, 0.0003)
operations = (("secret", lambda: open(SECRET).read()), ("new", lambda: open(OUTSIDE + "/new", "w")), ("mkdir", lambda: os.mkdir(OUTSIDE + "/new")),
              ("inside", lambda: open("in.txt", "w").close()))
while time.monotonic() < end:
    for name, call in operations:
        try: call(); result = "done"
        except Boom: result = "Boom"
        except OSError as error: result = "refused" if isinstance(error, PermissionError) else repr(error)
        outcomes.setdefault(name, set()).add(result)
signal.setitimer(signal.ITIMER_REAL, 0)
tell("outcomes", {name: sorted(results) for name, results in outcomes.items()})
tell("signals", count)
attempt("afterwards", lambda: open(SECRET).read())
attempt("inside afterwards", lambda: open("in.txt", "w").close())
"""
    )
    outcomes = run.attempts["outcomes"].value
    assert run.attempts["signals"].value > 10
    for name in ("secret", "new", "mkdir"):
        assert set(outcomes[name]) <= {"refused", "Boom"}, run.explain()
    assert "done" in outcomes["inside"]
    run.refused("afterwards")
    run.worked("inside afterwards")


@only("kernel")
def test_native_code_slows_down_nobody_else(world: World) -> None:
    """setpriority(2) and ioprio_set(2) for groups and users, process_madvise(2) on others: what no hook sees."""
    decoy = subprocess.Popen([*world.as_user, "sleep", "60"], start_new_session=True)
    numbers = {"x86_64": 251, "aarch64": 30}
    try:
        run = world.attack(
            f"""
import ctypes
IOPRIO_SET = {numbers[os.uname().machine]}
"""
            + """
decoy = int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
def call(function, *arguments):
    if function(*map(ctypes.c_long, arguments)) < 0:
        raise OSError(ctypes.get_errno(), "refused")
PROCESS, GROUP, USER = 0, 1, 2
attempt("own", call, libc.setpriority, PROCESS, 0, 1)
attempt("own input and output", call, libc.syscall, IOPRIO_SET, 1, 0, 3 << 13)
attempt("group", call, libc.setpriority, GROUP, 0, 19)
attempt("user", call, libc.setpriority, USER, 0, 19)
attempt("user by number", call, libc.setpriority, USER, os.getuid(), 19)
attempt("decoy", call, libc.setpriority, PROCESS, decoy, 19)
attempt("group's input and output", call, libc.syscall, IOPRIO_SET, 2, 0, 3 << 13)
attempt("user's input and output", call, libc.syscall, IOPRIO_SET, 3, 0, 3 << 13)
page = ctypes.create_string_buffer(8192)
vector = (ctypes.c_size_t * 2)((ctypes.addressof(page) + 4095) & ~4095, 4096)
def advise(pid):
    call(libc.syscall, 440, os.pidfd_open(pid), ctypes.addressof(vector), 1, 20, 0)
attempt("own memory", advise, os.getpid())
attempt("decoy's memory", advise, decoy)
""",
            str(decoy.pid),
            policy=WORKSPACE + '\n[native]\nload = ["ctypes"]\n',
        )
        assert os.getpriority(os.PRIO_PROCESS, decoy.pid) == 0
    finally:
        decoy.kill()
        decoy.wait()
    run.worked("own", "own input and output", "own memory")
    # Native code hears an errno only.
    for name in (
        "group",
        "user",
        "user by number",
        "decoy",
        "group's input and output",
        "user's input and output",
    ):
        assert run.attempts[name].errno == errno.EPERM, run.explain()
    assert run.attempts["decoy's memory"].errno == errno.EPERM, run.explain()
    assert len(run.denied("process.limit")) == 6 and len(run.denied("process.trace")) == 1


@only("kernel")
def test_real_time_signals_and_what_goes_with_them_arrive(world: World) -> None:
    script = """
import ctypes, signal
libc = ctypes.CDLL(None, use_errno=True)
number = signal.SIGRTMIN + 1
signal.pthread_sigmask(signal.SIG_BLOCK, {number})
own = os.pidfd_open(os.getpid())
signal.pidfd_send_signal(own, number)
tell("plain", signal.sigwaitinfo({number}).si_signo - signal.SIGRTMIN)
info = (ctypes.c_int * 32)(number, 0, -1, 0, os.getpid(), os.getuid(), 7)
assert libc.syscall(424, own, number, info, 0) == 0, ctypes.get_errno()
heard = signal.sigwaitinfo({number})
tell("queued", [heard.si_code, heard.si_pid == os.getpid()])
"""
    run = world.run(script, policy=WORKSPACE + '\n[native]\nload = ["ctypes"]\n')
    assert run.attempts["plain"].value == 1, run.explain()
    assert run.attempts["queued"].value == [-1, True]
