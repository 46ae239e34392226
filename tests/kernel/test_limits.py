"""`[limits]` under the supervisor: what it counts is exact, however many threads ask at once."""

import errno
from collections.abc import Callable

import pytest

from tests.conftest import WORKSPACE, Listener, World, only

pytestmark = only("kernel")


def test_processes_that_do_nothing_count_as_well(world: World) -> None:
    run = world.run(
        """
import signal
read, write = os.pipe()
def start():
    if (pid := os.fork()) == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    return pid
started, refused = [], []
for n in range(20):
    try: started.append(start())
    except OSError as error: refused.append(error.errno)
tell("first", [len(started), sorted(set(refused))])
os.kill(started[0], signal.SIGKILL)
os.waitid(os.P_PID, started[0], os.WEXITED | os.WNOWAIT)
attempt("nobody waited", start)
os.waitpid(started.pop(0), 0)
attempt("one ended", start)
attempt("and no more", start)
attempt("it can still run a program", lambda: os.execv("/bin/true", ["true"]) if os.fork() == 0 else None)
""",
        policy=WORKSPACE
        + '\n[process]\nexec = ["python3", "/bin/true"]\nsignal = "children"\n[limits]\nprocesses = 6\n',
    )
    assert run.attempts["first"].value == [5, [errno.EAGAIN]], run.explain()
    assert run.attempts["nobody waited"].errno == errno.EAGAIN, run.explain()
    run.worked("one ended")
    assert run.attempts["and no more"].errno == errno.EAGAIN, run.explain()
    told = [record["text"] for record in run.records if record["type"] == "notice"]
    assert len([text for text in told if "limits.processes" in text]) == 1, run.explain()


def test_an_exec_is_no_new_process(world: World) -> None:
    run = world.run(
        """
import subprocess, time
waiting = [subprocess.Popen(["/bin/sh", "-c", "read x"], stdin=subprocess.PIPE) for n in range(4)]
time.sleep(0.3)
attempt("last", lambda: subprocess.run(["/bin/sh", "-c", "exec /bin/true"], check=True))
attempt("one more", lambda: subprocess.run(["/bin/sh", "-c", "(/bin/true; /bin/true); /bin/true"], check=True, stderr=-3))
for one in waiting: one.communicate()
""",
        policy=WORKSPACE
        + '\n[process]\nexec = ["python3", "/bin/true", "/bin/sh *"]\nsignal = "children"\n[limits]\nprocesses = 6\n',
    )
    run.worked("last")
    assert not run.attempts["one more"].ok, run.explain()


@pytest.mark.parametrize("ask", ["fork", "connect", "open"])
def test_no_thread_gets_past_a_limit_beside_another(
    world: World, listen: Callable[..., Listener], ask: str
) -> None:
    server = listen()
    policy = f'\n[net]\nconnect = ["127.0.0.1:{server.port}"]\n[limits]\n'
    policy += {"fork": "processes = 8", "connect": "connections = 40", "open": "operations = 2500"}[ask]
    run = world.run(
        """
import socket, threading
port, ask = int(sys.argv[1]), sys.argv[2]
read, write = os.pipe()
done, errors = [], []
start = threading.Barrier(12)
def fork():
    if os.fork() == 0:
        os.close(write); os.read(read, 1); os._exit(0)
def connect():
    with socket.create_connection(("127.0.0.1", port), 5): pass
def opens():
    open("in.txt", "a").close()
act = dict(fork=fork, connect=connect, open=opens)[ask]
def work():
    start.wait()
    for n in range(400):
        try: act(); done.append(n)
        except OSError as error: errors.append(error.errno); break
threads = [threading.Thread(target=work) for n in range(12)]
for thread in threads: thread.start()
for thread in threads: thread.join()
os.write(1, (_dumps(dict(name="done", ok=True, value=len(done))) + chr(10)).encode())
os.write(1, (_dumps(dict(name="errors", ok=True, value=sorted(set(errors)))) + chr(10)).encode())
os.close(write)
""",
        str(server.port),
        ask,
        policy=WORKSPACE + policy,
    )
    expected = {"fork": errno.EAGAIN, "connect": errno.EDQUOT, "open": errno.EDQUOT}[ask]
    assert run.attempts["errors"].value == [expected], run.explain()
    if ask == "fork":
        assert run.attempts["done"].value == 7, run.explain()
    elif ask == "connect":
        assert run.attempts["done"].value == 40, run.explain()
    else:
        assert len(run.allowed()) == 2500, run.explain()
