"""`approve = true`: a person is asked, at the terminal of the run or through a callback of the program."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import time
from collections.abc import Callable

from tests.conftest import PRELUDE, WORKSPACE, Run, World, records, wait_for

POLICY = WORKSPACE.replace('write = ["./work"]', 'write = ["./work", { path = "./shared", approve = true }]')
SCRIPT = """
attempt("first", lambda: open(BASE + "/shared/a.txt", "w").write("x"))
attempt("second", lambda: open(BASE + "/shared/b.txt", "w").write("x"))
attempt("inside", lambda: open("in.txt", "w").write("x"))
attempt("outside", lambda: open(OUTSIDE + "/new.txt", "w").write("x"))
"""


def at_a_terminal(
    world: World, script: str, answers: list[str], asked: Callable[[], object] = lambda: None
) -> Run:
    """A run with a controlling terminal at which a person answers each question; one without an answer is left to
    whoever is told by `asked`."""
    agent = world.work / "agent.py"
    agent.write_text(PRELUDE + world.names() + script)
    (world.base / "shared").mkdir()
    world.hand_over()
    line, trace = world.command([world.python, str(agent)], policy=POLICY)
    leader, follower = pty.openpty()
    # setsid --ctty makes the terminal ours: `failcore` asks at /dev/tty, not at its standard streams.
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *line],
        cwd=world.work,
        env=world.environ({"TERM": "dumb"}),
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    shown, end = b"", time.monotonic() + 60
    while time.monotonic() < end:
        ready, _, _ = select.select([leader], [], [], 0.2)
        if ready:
            try:
                data = os.read(leader, 65536)
            except OSError:
                break
            if not data:
                break
            shown += data
        elif process.poll() is not None:
            break
        elif shown.count(b"y or n") > (
            answered := shown.count(b"failcore: allowed") + shown.count(b"failcore: refused")
        ):
            # Not at once: what is typed before the question stands is thrown away.
            if answer := answers[min(answered, len(answers) - 1)]:
                os.write(leader, answer.encode())
            else:
                asked()
    code = process.wait(20)
    os.close(leader)
    out = shown.decode(errors="replace").replace("\r\n", "\n")
    return Run(code, out, "", trace, records(trace))


def test_the_person_at_the_terminal_decides(world: World) -> None:
    run = at_a_terminal(world, SCRIPT, ["y\n", "n\n"])
    run.worked("first", "inside")
    run.refused("second", "outside")
    assert (world.base / "shared" / "a.txt").exists() and not (world.base / "shared" / "b.txt").exists()
    answers = [record["answer"] for record in run.records if record["type"] == "approval"]
    assert answers == ["approved", "denied"], run.explain()
    assert all(record["who"] for record in run.records if record["type"] == "approval")
    assert str(world.base / "shared" / "a.txt") in run.out  # the person saw what it is about
    asked = run.decided("fs.open", world.base / "shared" / "a.txt")
    assert asked[0]["decision"]["obligations"] == ["approve"]


def test_the_program_cannot_answer_for_the_person(world: World) -> None:
    run = at_a_terminal(
        world,
        """
import fcntl, termios
for target in ("/dev/tty", "/dev/stdin", "/proc/self/fd/0"):
    try:
        fd = os.open(target, os.O_RDWR)
        os.write(fd, b"y\\n" * 10)
        for byte in b"y\\n": fcntl.ioctl(fd, termios.TIOCSTI, bytes([byte]))
    except OSError: pass
try:
    for byte in b"y\\n": fcntl.ioctl(0, termios.TIOCSTI, bytes([byte]))
except OSError: pass
attempt("first", lambda: open(BASE + "/shared/a.txt", "w").write("x"))
""",
        ["n\n"],
    )
    run.refused("first")
    assert not (world.base / "shared" / "a.txt").exists()


def test_without_a_person_the_answer_is_no(world: World) -> None:
    (world.base / "shared").mkdir()
    run = world.attack(SCRIPT, policy=POLICY, options=["--patience", "1s"], before=["setsid", "--wait"])
    run.refused("first", "second", "outside")
    run.worked("inside")
    assert not list((world.base / "shared").iterdir())
    assert [record["answer"] for record in run.records if record["type"] == "approval"] == [
        "denied",
        "denied",
    ]


def test_the_owner_answers_from_elsewhere(world: World) -> None:
    shared = world.base / "shared"
    shared.mkdir()
    with world.under_way(SCRIPT, policy=POLICY) as run:
        first = run.questions()[0]
        assert str(shared / "a.txt") in first["operation"] and 0 < first["left"] <= 120
        assert str(shared / "a.txt") in run.order("approve") and not (shared / "a.txt").exists()
        assert json.loads(world.ask("--json", "deny", run.session).stdout)["id"] == first["id"]
        assert f"failcore approve {run.session} {first['id']}" in run.said()
        for wrong in (str(first["id"] + 1), "0"):
            assert "does not wait" in run.order("approve", wrong, code=2)
        run.order("approve", str(first["id"]))
        assert "does not wait" in run.order("deny", str(first["id"]), code=2)
        second = wait_for(
            lambda: next((q for q in run.questions() if q["id"] != first["id"]), None), "it asks again"
        )
        run.order("deny", str(second["id"]))
        ended = run.ended()
    ended.worked("first", "inside")
    ended.refused("second", "outside")
    assert (shared / "a.txt").exists() and not (shared / "b.txt").exists()
    answers = [record for record in ended.records if record["type"] == "approval"]
    assert [record["answer"] for record in answers] == ["approved", "denied"]
    assert all(f"uid {world.uid}" in record["who"] for record in answers), answers


def test_an_answer_takes_effect_when_a_paused_run_goes_on(world: World) -> None:
    shared = world.base / "shared"
    shared.mkdir()
    with world.under_way(SCRIPT, policy=POLICY, options=["--patience", "5s"]) as run:
        question = run.questions()[0]
        run.order("pause")
        time.sleep(6)
        # Its time stands still, too.
        assert run.questions()[0]["id"] == question["id"]
        run.order("approve", str(question["id"]))
        time.sleep(0.3)
        assert not (shared / "a.txt").exists()
        run.order("resume")
        wait_for((shared / "a.txt").exists, "it goes on")
        run.order("deny", str(wait_for(run.questions, "it asks")[0]["id"]))
        ended = run.ended()
    ended.worked("first", "inside")
    ended.refused("second")


def test_whoever_ends_is_not_asked_for_any_more(world: World) -> None:
    shared = world.base / "shared"
    shared.mkdir()
    script = """
import signal
if not (child := os.fork()):
    attempt("first", lambda: open(BASE + "/shared/a.txt", "w").write("x")); os._exit(0)
open("child", "w").write(str(child))
os.waitpid(child, 0)
attempt("inside", lambda: open("in.txt", "w").write("x"))
"""
    with world.under_way(script, policy=POLICY) as run:
        question = run.questions()[0]
        os.kill(question["pid"], 9)
        ended = run.ended(30)
    ended.worked("inside")
    assert not (shared / "a.txt").exists() and "first" not in ended.attempts


def test_many_wait_at_once_and_each_is_answered_by_its_number(world: World) -> None:
    shared = world.base / "shared"
    shared.mkdir()
    script = """
import threading
def ask(n): attempt("%d" % n, lambda: open(BASE + "/shared/%d" % n, "w").write("x"))
threads = [threading.Thread(target=ask, args=(n,)) for n in range(12)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    with world.under_way(script, policy=POLICY) as run:
        waiting = run.questions(12)
        assert len({question["id"] for question in waiting}) == 12
        for question in reversed(waiting):
            even = int(question["operation"].rpartition("/")[2]) % 2 == 0
            run.order("approve" if even else "deny", str(question["id"]))
        ended = run.ended()
    ended.worked(*(str(n) for n in range(0, 12, 2)))
    ended.refused(*(str(n) for n in range(1, 12, 2)))
    assert sorted(int(path.name) for path in shared.iterdir()) == list(range(0, 12, 2))


def test_the_first_answer_counts_wherever_it_is_given(world: World) -> None:
    given = []

    def elsewhere() -> None:
        for line in world.ask("--json", "ps").stdout.splitlines():
            for question in json.loads(line).get("waiting", []):
                given.append(world.ask("approve", json.loads(line)["session"], str(question["id"])))

    run = at_a_terminal(world, SCRIPT, ["", "n\n"], elsewhere)
    assert any(done.returncode == 0 for done in given), given
    run.worked("first", "inside")
    run.refused("second")
    answers = [record["answer"] for record in run.records if record["type"] == "approval"]
    assert answers == ["approved", "denied"], run.explain()


def test_an_embedded_session_asks_its_callback(world: World) -> None:
    (world.base / "shared").mkdir()
    (world.base / "approve.toml").write_text(POLICY)
    run = world.plain(
        """
import failcore
policy = failcore.Policy.from_file(BASE + "/approve.toml")
asked = []
def session(answer, n):
    def approve(question):
        asked.append(question)
        if isinstance(answer, BaseException): raise answer
        return answer
    with failcore.Session(policy, trace=TRACE if n == 0 else BASE + "/trace-%d" % n, approve=approve):
        attempt("answer %r" % (answer,), lambda: open(BASE + "/shared/%d" % n, "w").write("x"))
for n, answer in enumerate((True, False, None, 0, "", KeyError("x"), SystemExit(0))):
    try: session(answer, n)
    except BaseException as error: tell("came out of the session %d" % n, type(error).__name__)
tell("asked", asked)
with failcore.Session(policy, trace=BASE + "/trace-none"):
    attempt("nobody to ask", lambda: open(BASE + "/shared/none", "w"))
def looks(question):
    attempt("inside the callback", lambda: open(SECRET).read())
    return True
with failcore.Session(policy, trace=BASE + "/trace-looks", approve=looks):
    attempt("asks and is judged", lambda: open(BASE + "/shared/looks", "w").write("x"))
"""
    )
    run.worked("answer True")
    for answer in ("False", "None", "0", "''", "KeyError('x')", "SystemExit(0)"):
        assert not run.attempts[f"answer {answer}"].ok, run.explain()
    run.refused("nobody to ask")
    assert str(world.base / "shared" / "0") in run.attempts["asked"].value[0]
    assert sorted(path.name for path in (world.base / "shared").iterdir()) in (["0"], ["0", "looks"])
    assert world.secret not in run.out
    assert [record["answer"] for record in run.records if record["type"] == "approval"] == ["approved"]
