"""Signals: to what is not the agent's own, and handlers that raise in the middle of a decision."""

import subprocess

from tests.conftest import WORKSPACE, World


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
