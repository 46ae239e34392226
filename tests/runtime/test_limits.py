"""`[limits]`: what is counted runs out, and what is measured stops the run."""

import errno
import time
from collections.abc import Callable

from tests.conftest import WORKSPACE, Listener, World


def test_operations(world: World) -> None:
    run = world.run(
        """
kinds = []
for n in range(2000):
    try: open("in.txt", "a").close()
    except OSError as error: kinds.append([type(error).__name__, error.errno, getattr(error, "reason", None)]); break
tell("stopped after", n); tell("by", kinds)
""",
        policy=WORKSPACE + "\n[limits]\noperations = 1500\n",
    )
    assert run.attempts["by"].value == [["Denied", errno.EDQUOT, "over_budget"]], run.explain()
    assert 500 < run.attempts["stopped after"].value < 1500
    assert run.denied("fs.open", "in.txt")[-1]["decision"]["reason"] == "over_budget"


def test_connections_also_of_children(world: World, listen: Callable[..., Listener]) -> None:
    server = listen()
    run = world.run(
        """
import socket
port = int(sys.argv[1])
def dial():
    with socket.create_connection(("127.0.0.1", port), 5): pass
attempt("1", dial)
if (pid := os.fork()) == 0:
    attempt("2", dial); os._exit(0)
os.waitpid(pid, 0)
attempt("3", dial); attempt("4", dial); attempt("5", dial)
""",
        str(server.port),
        policy=WORKSPACE + f'\n[net]\nconnect = ["127.0.0.1:{server.port}"]\n[limits]\nconnections = 3\n',
    )
    run.worked("1", "2", "3")
    run.refused("4", "5")
    assert run.attempts["4"].errno == errno.EDQUOT
    time.sleep(0.05)
    assert server.accepted == 3


def test_wall_time_stops_everything(world: World) -> None:
    run = world.run(
        """
import subprocess, time, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGHUP, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time\\nwhile True: time.sleep(0.05); open(%r, 'w').close()" % (WORK + "/beat")], start_new_session=True)
tell("child", child.pid)
while True: time.sleep(0.05)
""",
        policy=WORKSPACE + '\n[limits]\nwall_time = "2s"\n',
        timeout=30,
    )
    assert run.code != 0 and "wall_time" in run.err, run.explain()
    assert run.records[-1]["type"] == "session.closed"
    assert any(record["type"] == "notice" and "wall_time" in record["text"] for record in run.records)
    beat = world.work / "beat"
    if beat.exists():
        last = beat.stat().st_mtime_ns
        time.sleep(0.3)
        assert beat.stat().st_mtime_ns == last, "the child lives on"


def test_memory_processes_and_bytes_written(world: World) -> None:
    for limit, script in {
        'memory = "300MiB"': "x = bytearray(600 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1\nimport time; time.sleep(20)",
        'write_bytes = "4MiB"': "import time\nfile = open('big', 'wb')\nfor n in range(400): file.write(bytes(1 << 20)); file.flush(); os.fsync(file.fileno()); time.sleep(0.02)",
    }.items():
        run = world.run(script, policy=WORKSPACE + f"\n[limits]\n{limit}\n", timeout=50)
        name = limit.split()[0]
        assert run.code != 0 and name in run.err, f"{limit}\n{run.explain()}"
    run = world.run(
        """
import subprocess, time
started, refused = [], []
for n in range(12):
    try: started.append(subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE))
    except OSError as error: refused.append(error.errno)
    time.sleep(0.12)
tell("started", len(started)); tell("refused", refused)
for one in started: one.stdin.close(); one.wait()
""",
        policy=WORKSPACE + "\n[limits]\nprocesses = 6\n",
        timeout=50,
    )
    # Refused when asked for, or the run stopped when measured.
    if run.code == 0:
        assert run.attempts["refused"].value and set(run.attempts["refused"].value) == {errno.EAGAIN}, (
            run.explain()
        )
        assert run.attempts["started"].value <= 6
    else:
        assert "processes" in run.err, run.explain()


RACE = """
import socket, threading, time
port, start = int(sys.argv[1]), time.time() + 1.5
def dial():
    for _ in range(40):
        try: socket.create_connection(("127.0.0.1", port), 5).close()
        except OSError: pass
def crowd():
    time.sleep(max(0, start - time.time()))
    threads = [threading.Thread(target=dial) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
pids = []
for _ in range(6):
    if (pid := os.fork()) == 0:
        crowd(); os._exit(0)
    pids.append(pid)
crowd()
for pid in pids: os.waitpid(pid, 0)
"""


def test_a_crowd_of_processes_gets_no_more_than_one(world: World, listen: Callable[..., Listener]) -> None:
    server = listen()
    limited = f'\n[net]\nconnect = ["127.0.0.1:{server.port}"]\n[limits]\nconnections = 30\n'
    run = world.run(RACE, str(server.port), policy=WORKSPACE + limited)
    assert run.code == 0, run.explain()
    time.sleep(0.1)
    allowed = len(run.allowed("net.connect"))
    assert (allowed, server.accepted) == (30, 30), run.explain()


def test_an_embedded_session_counts_over_its_forks(world: World, listen: Callable[..., Listener]) -> None:
    server = listen()
    policy = (
        WORKSPACE + f'\n[net]\nconnect = ["127.0.0.1:{server.port}"]\n[limits]\nconnections = 30\n'
    ).replace("./work", str(world.work))
    run = world.plain(
        f"import failcore\nsession = failcore.Session(failcore.Policy.from_str({policy!r}), trace=TRACE)\nsession.__enter__()\n"
        + RACE,
        str(server.port),
    )
    assert run.code == 0, run.explain()
    time.sleep(0.1)
    assert server.accepted == 30, run.explain()
    notes = run.records[0]["coverage"]["notes"]
    assert any("limits on memory" in note for note in notes)


def test_an_embedded_session_ends_in_time(world: World) -> None:
    run = world.plain(
        """
import failcore, time
policy = failcore.Policy.from_str('extends = ["preset:python"]\\n[fs]\\nwrite = ["./work"]\\n[limits]\\nwall_time = "1s"', dir=BASE)
with failcore.Session(policy, trace=TRACE):
    attempt("before", open, WORK + "/a", "w")
    time.sleep(1.2)
    attempt("after", open, WORK + "/b", "w")
""",
    )
    run.worked("before")
    run.refused("after")
    assert run.attempts["after"].errno == errno.EDQUOT
