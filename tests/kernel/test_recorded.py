"""A recorded program runs again with nothing outside, and says the same, byte for byte."""

import ipaddress
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import WORKSPACE, Run, World, only, records

pytestmark = only("kernel")

RECORD = ("--record",)
NATIVE = """
version = 1
extends = ["preset:python", "preset:native"]
[fs]
read = ["/usr/share/git-core", "/usr/local/share/git-core"]
write = ["./work"]
[process]
exec = ["git", "/usr/lib/git-core/*", "/usr/local/libexec/git-core/*"]
"""
SHELL = '\n[process]\nexec = ["/bin/sh", "/bin/dash", "/bin/bash", "/usr/bin/*", "/bin/*"]\n'


@pytest.fixture(autouse=True)
def namespaces(world: World) -> None:
    made = subprocess.run(
        [*world.as_user, "unshare", "--user", "--mount", "--net", "true"], capture_output=True, check=False
    )
    if made.returncode != 0 and world.uid != 0:
        pytest.skip("this machine lets ordinary users make no namespaces")


def again(
    world: World,
    run: Run,
    *argv: str,
    as_user: list[str] | None = None,
    state: str = "state",
    stdin: str = "",
) -> Run:
    """Runs what was recorded again; what it leaves is the trace of that."""
    world.runs += 1
    trace = world.base / f"again-{world.runs}"
    user = world.as_user if as_user is None else as_user
    line = [*user, world.failcore, "replay", str(run.trace), "--trace", str(trace)]
    done = subprocess.run(
        [*line, *(["--", *argv] if argv else [])],
        cwd=world.work,
        env=world.environ({"XDG_STATE_HOME": str(world.base / state)}),
        input=stdin,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr, trace, records(trace) if trace.exists() else [])


def same(first: Run, second: Run) -> None:
    assert first.code == 0, first.explain()
    assert second.code == 0, second.explain()
    assert second.out == first.out, second.explain()


FILES = """
import os, sys
for top, directories, files in os.walk(WORK + "/in"): print(top, directories, files)
print(os.listdir(WORK + "/in/many"))
print(open(WORK + "/in/data.txt").read(), open(WORK + "/in/link").read())
found = os.stat(WORK + "/in/data.txt")
print(oct(found.st_mode), found.st_size, found.st_mtime_ns, os.readlink(WORK + "/in/link"))
print(os.path.exists(WORK + "/in/missing"), os.access(WORK + "/in/data.txt", os.W_OK))
with open(WORK + "/in/grows", "a") as file: file.write("more")
print(open(WORK + "/in/grows").read())
os.rename(WORK + "/in/grows", WORK + "/in/moved")
print(open(WORK + "/in/moved").read())
open(WORK + "/out", "w").write("made")
print(open(WORK + "/out").read(), sorted(os.listdir(WORK)))
os.close(os.open(WORK + "/in/emptied", os.O_WRONLY | os.O_TRUNC))
print(os.stat(WORK + "/in/emptied").st_size)
os.unlink(WORK + "/in/gone")
print(os.path.exists(WORK + "/in/gone"), os.environ["LANG"], os.getcwd(), sys.argv[1:])
try: print(open(SECRET).read())
except OSError as error: print(error.errno)
print(open("/proc/cpuinfo").read()[:200])
"""


def make_files(world: World) -> None:
    inside = world.work / "in"
    (inside / "many").mkdir(parents=True)
    for name in ("z", "a", "m", "b", "k"):
        (inside / "many" / name).touch()
    (inside / "data.txt").write_text("what it is\n" * 1000)
    (inside / "link").symlink_to("data.txt")
    (inside / "grows").write_text("some and ")
    (inside / "gone").write_text("x")
    (inside / "emptied").write_text("what was never read")
    os.utime(inside / "data.txt", ns=(1, 1_234_567_890_123_456_789))


def test_files_are_as_they_were_though_they_are_gone(world: World) -> None:
    make_files(world)
    policy = WORKSPACE + 'read = ["/proc/cpuinfo"]\n'
    run = world.run(FILES, "an", "argument", policy=policy, options=RECORD)
    shutil.rmtree(world.work)
    world.work.mkdir()
    world.hand_over()
    # Whatever it is that wants to run it again.
    second = again(world, run)
    same(run, second)
    assert not list(world.work.iterdir()), "what it wrote is nowhere"
    assert "nobody is on its network" in json.dumps(second.records[0])
    assert world.ask("trace", "verify", str(second.trace)).returncode == 0
    assert world.ask("diff", str(run.trace), str(second.trace)).returncode == 0


CHANCE = """
import asyncio, datetime, random, secrets, tempfile, threading, time, uuid
print(time.time_ns(), time.monotonic_ns(), time.perf_counter_ns(), time.process_time_ns(), datetime.datetime.now())
print(random.random(), uuid.uuid4(), secrets.token_hex(), {"a", "b", "c", "d"}, hash("x"), os.urandom(5))
said = []
def say(number): said.append((number, time.time_ns(), os.urandom(3)))
threads = [threading.Thread(target=say, args=(number,)) for number in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sorted(said))
async def waits():
    begin = time.monotonic()
    await asyncio.gather(*(asyncio.sleep(0.01 * number) for number in range(3)))
    return time.monotonic() - begin
print(asyncio.run(waits()))
print(os.path.basename(tempfile.mkdtemp()), flush=True)
child = os.fork()
if not child:
    print("child", time.time_ns(), random.random(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


def test_time_and_chance_are_what_they_were(world: World) -> None:
    run = world.run(CHANCE, options=RECORD)
    for _ in range(2):
        same(run, again(world, run))


DEVICES = """
import subprocess, threading
for device in ("/dev/urandom", "/dev/random"):
    with open(device, "rb") as file: print(file.read(16).hex(), file.read(100_000).hex()[-32:])
fd = os.open("/dev/urandom", os.O_RDONLY)
print([os.read(fd, 16).hex() for _ in range(3)], len(os.read(fd, 4096)), flush=True)
child = os.fork()
if not child:
    print("child", os.read(fd, 16).hex(), open("/dev/urandom", "rb").read(16).hex(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
said = {}
def read(number):
    with open("/dev/urandom", "rb") as file: said[number] = file.read(20_000 * number).hex()[-16:]
threads = [threading.Thread(target=read, args=(number,)) for number in range(1, 5)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sorted(said.items()))
print(subprocess.run("dd if=/dev/urandom bs=64 count=5 2>/dev/null | sha256sum; head -c 3000000 /dev/urandom | sha256sum",
                     shell=True, capture_output=True, text=True))
"""


def test_random_bytes_that_are_read_as_a_file_are_what_they_were(world: World) -> None:
    policy = WORKSPACE + SHELL
    run = world.run(DEVICES, policy=policy, options=RECORD)
    for _ in range(2):
        same(run, again(world, run))
    other = world.run(DEVICES, policy=policy, options=RECORD)
    drawn, drawn_anew = (re.findall("[0-9a-f]{16,}", said) for said in (run.out, other.out))
    assert len(drawn) == len(set(drawn)) == 15 and not set(drawn) & set(drawn_anew), "by chance"


TAKES = """
import subprocess
print(repr(sys.stdin.readline()), repr(sys.stdin.read(5)))
print(subprocess.run(["/bin/cat"], stdin=sys.stdin, capture_output=True, text=True).stdout[-30:], sys.stdin.read())
"""


def test_the_standard_input_gives_what_it_gave(world: World) -> None:
    policy = WORKSPACE + SHELL
    typed = "a line\n" + "and more\n" * 50_000 + "the end"
    run = world.run(TAKES, policy=policy, options=RECORD, stdin=typed)
    assert "'a line\\n' 'and m'" in run.out and "the end" in run.out, run.explain()
    same(run, again(world, run))
    # Of a file it reads on from where the caller was.
    file = world.work / "input"
    file.write_text("the caller's\n" + typed)
    told = f"""
import stat
print(stat.S_ISREG(os.fstat(0).st_mode), os.lseek(0, 0, os.SEEK_CUR))
{TAKES}
"""
    before = ["/bin/sh", "-c", f'{{ read first; "$@"; }} < {file}', "sh"]
    run = world.run(told, policy=policy, options=RECORD, before=before)
    assert "True 13" in run.out and "'a line\\n' 'and m'" in run.out, run.explain()
    file.unlink()
    same(run, again(world, run))
    # What is longer than a recording may be is not given, nor is it said to be at its end.
    waits = "print(len(sys.stdin.read()))"
    run = world.run(waits, policy=WORKSPACE + "[record]\nmax_total = 300_000\n", options=RECORD, stdin=typed)
    assert (run.code, run.out) == (137, "") and "the standard input alone is longer" in run.err, run.explain()
    # It reads nothing of what is given to `replay`.
    run = world.run("print(repr(sys.stdin.read()))", options=RECORD)
    assert run.out == "''\n", run.explain()
    same(run, again(world, run, stdin="something"))


def test_a_standard_input_that_was_not_kept_is_to_be_given_again(world: World) -> None:
    secret = "sk-ant-api03-" + "Ab1" * 31 + "AA"
    run = world.run("print(len(sys.stdin.read()))", options=RECORD, stdin=secret)
    (learnt,) = [r["input"]["stdin"] for r in run.records if "stdin" in r.get("input", {})]
    assert not learnt["kept"] and secret not in (run.trace / "trace.jsonl").read_text()
    second = again(world, run)
    assert second.code == 126 and "the standard input was not kept" in second.err, second.err
    same(run, again(world, run, stdin=secret))


def test_what_is_typed_is_not_recorded_and_that_is_said(world: World) -> None:
    terminal = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    run = world.run("print(sys.stdin.isatty())", options=RECORD, before=[world.python, "-c", terminal])
    assert run.code == 0 and "True" in run.out, run.explain()
    assert "what is typed there is not recorded" in run.out
    assert "what is typed into the standard input, a terminal" in json.dumps(run.records[0])
    assert again(world, run).out == "False\n"


C = r"""
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <sys/time.h>
#include <sys/random.h>
int main(int argc, char **argv) {
    struct timespec at; struct timeval of; unsigned char chance[8]; char line[64];
    clock_gettime(CLOCK_MONOTONIC, &at); gettimeofday(&of, 0); getrandom(chance, 8, 0);
    printf("%ld.%ld %ld.%ld %ld", at.tv_sec, at.tv_nsec, of.tv_sec, of.tv_usec, (long)time(0));
    for (int n = 0; n < 8; n++) printf(" %02x", chance[n]);
    FILE *file = fopen(argv[1], "r");
    printf(" %s\n", file && fgets(line, 64, file) ? line : "none");
    return 0;
}
"""


@pytest.mark.parametrize("linked", [[], ["-static"]])
def test_programs_in_c_and_what_they_start(world: World, linked: list[str]) -> None:
    (world.work / "c.c").write_text(C)
    program = world.work / "program"
    built = subprocess.run(
        ["gcc", *linked, "-o", program, world.work / "c.c"], capture_output=True, text=True
    )
    if built.returncode != 0:
        pytest.skip(f"no such program is made here: {built.stderr[:60]}")
    (world.work / "data.txt").write_text("a line")
    script = f"""
import subprocess
for _ in range(2):
    print(subprocess.run([{str(program)!r}, WORK + "/data.txt"], capture_output=True, text=True).stdout)
print(subprocess.run("date +%s.%N; ls -1 | sort; cat data.txt | wc -c", shell=True, capture_output=True, text=True))
"""
    policy = WORKSPACE + SHELL.replace("exec = [", f'exec = ["{program}", ')
    run = world.run(script, policy=policy, options=RECORD)
    assert "a line" in run.out, run.explain()
    for path in ("program", "data.txt", "c.c"):
        (world.work / path).unlink()
    same(run, again(world, run))


def test_git_says_what_it_said(world: World) -> None:
    if not shutil.which("git"):
        pytest.skip("there is no git")
    (world.work / "file").write_text("first\n")
    git = [
        "git",
        "-c",
        "safe.directory=*",
        "-c",
        "user.name=n",
        "-c",
        "user.email=e@example.com",
        "-C",
        str(world.work),
    ]
    for command in (["init", "-q"], ["add", "file"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True, env=world.environ(), capture_output=True)
    (world.work / "file").write_text("second\n")
    script = """
import subprocess
for command in (["log", "--format=%s %H"], ["diff"], ["status", "--short"]):
    done = subprocess.run(["git", "-c", "safe.directory=*", *command], capture_output=True, text=True)
    print(done.returncode, done.stdout, done.stderr)
"""
    policy = NATIVE
    run = world.run(script, policy=policy, options=RECORD)
    assert "+second" in run.out, run.explain()
    shutil.rmtree(world.work / ".git")
    same(run, again(world, run))


def test_a_changed_program_is_told_where_it_parts(world: World) -> None:
    (world.work / "data.txt").write_text("here")
    agent = world.work / "agent.py"
    run = world.run("print(open(WORK + '/data.txt').read())", options=RECORD)
    (world.work / "other.txt").write_text("never seen")
    agent.write_text(agent.read_text().replace("data.txt", "other.txt"))
    second = again(world, run, world.python, str(agent))
    assert second.code == 5, second.explain()
    assert "never seen" not in second.out
    assert (
        f"diverged: the recorded run had no fs.open {world.work}/other.txt (read), at agent.py:" in second.err
    )
    assert f"most like it is fs.open {world.work}/data.txt (read); nothing of it was done" in second.err
    assert "refused: trace" not in second.err, "the program is told why"
    assert any("diverged: " in str(record.get("text")) for record in second.records)
    # With an effect too.
    agent.write_text(agent.read_text().replace("other.txt').read()", "made.txt', 'w')"))
    second = again(world, run, world.python, str(agent))
    assert second.code == 5 and "at agent.py:" in second.err, second.explain()
    assert not (world.work / "made.txt").exists()
    # What does the same in other words is the same.
    agent.write_text(agent.read_text().replace("made.txt', 'w')", "data.txt', 'r').read().upper()"))
    second = again(world, run, world.python, str(agent))
    assert (second.code, second.out) == (0, "HERE\n"), second.explain()


def test_a_look_that_was_not_recorded_parts_and_one_at_what_is_known_does_not(world: World) -> None:
    for name in ("one/data.txt", "listed/data.txt"):
        (world.work / name).parent.mkdir()
        (world.work / name).write_text("here")
    agent = world.work / "agent.py"
    script = """
import ctypes, tempfile
look = ctypes.CDLL(None).access
print(os.path.exists(WORK + "/one/data.txt"), os.path.exists(WORK + "/one/gone.txt"), os.listdir(WORK + "/listed"))
os.mkdir(WORK + "/made")
print(os.path.exists(WORK + "/made/x"), os.path.exists(tempfile.mkdtemp() + "/y"), os.path.exists("/proc/self/nothing"))
"""
    run = world.run(script, policy=WORKSPACE + '[native]\nload = ["ctypes"]\n', options=RECORD)
    same(run, again(world, run))
    recorded = agent.read_text()
    (line,) = [n for n, text in enumerate(recorded.splitlines(), 1) if "one/data.txt" in text]
    for other in ("one/other.txt", "one/other/below.txt"):
        agent.write_text(recorded.replace("one/data.txt", other))
        second = again(world, run, world.python, str(agent))
        assert second.code == 5 and second.out == "", second.explain()
        missing = os.path.dirname(other) if "below" in other else other
        assert (
            f"diverged: the recorded run had no look at {world.work}/{missing}, at agent.py:{line}; most like it is look at"
            in second.err
        )
        assert any("had no look at" in str(record.get("text")) for record in second.records)
    # What is not Python's is looked for with no place of the program's, though that was somewhere just now.
    agent.write_text(recorded.replace("os.path.exists(WORK", "look(b'/none', 0) and (WORK"))
    second = again(world, run, world.python, str(agent))
    assert second.code == 5 and "had no look at /none; most" in second.err, second.explain()
    # Of a directory whose names it has, and of one that the run makes, the record knows what is not there.
    for known in ("listed/other.txt", "made/other.txt", "one/gone.txt"):
        agent.write_text(recorded.replace("made/x", known))
        second = again(world, run, world.python, str(agent))
        assert (second.code, second.out) == (0, run.out), second.explain()


def test_what_is_read_of_a_directory_after_it_was_moved(world: World) -> None:
    (world.work / "a" / "sub").mkdir(parents=True)
    for name in ("a/one", "a/two", "a/sub/three"):
        (world.work / name).write_text(name)
    script = """
os.rename(WORK + "/a", WORK + "/b")
os.mkdir(WORK + "/a")
open(WORK + "/a/one", "w").write("another")
os.rename(WORK + "/b/sub", WORK + "/c")
os.chdir(WORK + "/b")
print(open("one").read(), open(WORK + "/c/three").read(), os.stat("two").st_size, os.listdir(WORK + "/c"))
print(open(WORK + "/a/one").read(), sorted(os.listdir(WORK + "/b")), os.path.exists("three"))
"""
    run = world.run(script, options=RECORD)
    assert "a/one a/sub/three 5 ['three']" in run.out, run.explain()
    shutil.rmtree(world.work)
    world.work.mkdir()
    same(run, again(world, run))


def test_what_is_read_of_what_changed_places(world: World) -> None:
    for name in ("a/one", "b/two"):
        (world.work / name).parent.mkdir()
        (world.work / name).write_text(name)
    for name in ("data", "first", "second", "moved", "linked", "cut"):
        (world.work / name).write_text(name)
    script = """
import ctypes
AT, RENAME_EXCHANGE = os.open(WORK, os.O_PATH), 2
def exchange(one, other):
    assert ctypes.CDLL(None).renameat2(AT, one.encode(), AT, other.encode(), RENAME_EXCHANGE) == 0
def read(name): return open(WORK + "/" + name).read()
exchange("a", "b")
print(read("b/one"), read("a/two"), os.path.exists(WORK + "/a/one"))
# A file and one that was made here; two files, of which one is read.
open(WORK + "/new", "w").write("made here")
exchange("new", "data")
print(read("data"), read("new"))
exchange("first", "second")
print(read("first"))
# What is not read is left as it was, wherever it is put.
os.rename(WORK + "/moved", WORK + "/there")
os.link(WORK + "/linked", WORK + "/also")
os.truncate(WORK + "/cut", 2)
"""
    run = world.run(script, policy=WORKSPACE + '[native]\nload = ["ctypes"]\n', options=RECORD)
    assert run.out == "a/one b/two False\nmade here data\nsecond\n", run.explain()
    shutil.rmtree(world.work)
    world.work.mkdir()
    same(run, again(world, run))


def test_a_program_is_named_by_links(world: World) -> None:
    (world.work / "data.txt").write_text("here")
    script = "print(open(WORK + '/data.txt').read(), len(os.listdir(WORK)))"
    (world.work / "listed.py").symlink_to("agent.py")
    run = world.run(script, options=RECORD)
    (world.work / "link.py").symlink_to("listed.py")
    (world.work / "current").symlink_to(world.work)
    for named in (
        "listed.py",
        "./link.py",
        f"{world.work}/link.py",
        "current/agent.py",
        "current/../work/link.py",
    ):
        line = [*world.as_user, world.failcore, "replay", str(run.trace), "--", world.python, named]
        second = subprocess.run(line, cwd=world.work, env=world.environ(), capture_output=True, text=True)
        assert second.returncode == 0 and second.stdout.startswith("here "), (named, second)


def test_another_interpreter_parts_and_says_where(world: World) -> None:
    run = world.run("print('recorded')", options=RECORD)

    def version(python: str | Path) -> str:
        asked = [*world.as_user, "env", str(python), "-c", "import sys; print(sys.version_info[:2])"]
        return subprocess.run(asked, capture_output=True, text=True, cwd="/", check=False).stdout

    neighbours = sorted(Path(sys.base_prefix).parent.glob("3.1[0-3]*/bin/python"))
    other = next((one for one in neighbours if version(one) not in ("", version(world.python))), None)
    if other is None:
        pytest.skip("there is no other CPython that this user may run")
    second = again(world, run, str(other), str(world.work / "agent.py"))
    assert second.code == 5 and second.out == "", second.explain()
    assert "diverged: the recorded run had no " in second.err and "most like it is" in second.err, second.err


def test_what_others_change_meanwhile_is_as_it_was_at_first_and_named(world: World) -> None:
    shared = world.work / "shared.txt"
    shared.write_text("first")
    script = """
import time
print(open(WORK + "/shared.txt").read(), flush=True)
open(WORK + "/ready", "w").close()
while os.path.exists(WORK + "/ready"): time.sleep(0.01)
"""
    with world.under_way(script, options=RECORD) as way:
        way.ready()
        shared.write_text("changed")
        (world.work / "ready").unlink()
        run = way.ended()
    run.out = run.out.splitlines(keepends=True)[0]
    assert run.out == "first\n", run.explain()
    agent = world.work / "agent.py"
    agent.write_text(agent.read_text().replace("while os.path.exists(WORK", "while not os.path.exists(WORK"))
    second = again(world, run, world.python, str(agent))
    assert second.out == "first\n", second.explain()
    named = [line for line in second.err.splitlines() if "others changed these while" in line]
    assert named and str(shared) in named[0], second.err


def test_what_is_left_behind_is_compared(world: World) -> None:
    agent = world.work / "agent.py"
    run = world.run("open(WORK + '/out.txt', 'w').write('one')", options=RECORD)
    assert [r["path"] for r in run.records if r["type"] == "left"] == [f"{world.work}/out.txt"], run.explain()
    (world.work / "out.txt").unlink()
    same(run, again(world, run))
    agent.write_text(agent.read_text().replace("'one'", "'two'"))
    second = again(world, run, world.python, str(agent))
    assert second.code == 5, second.explain()
    assert f"diverged: what the program left in {world.work}/out.txt is not what it was" in second.err


def test_nobody_outside_is_reached(world: World, listen) -> None:
    server = listen()
    script = f"""
import socket
with socket.create_connection(("127.0.0.1", {server.port})) as peer: peer.sendall(b"to the server")
print("sent", flush=True)
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"to whom it may concern", ("127.0.0.1", {server.port}))
print("sent", flush=True)
"""
    policy = WORKSPACE + f'\n[net]\nconnect = ["127.0.0.1:{server.port}", "udp:127.0.0.1:{server.port}"]\n'
    run = world.run(script, policy=policy, options=RECORD)
    assert run.out == "sent\nsent\n", run.explain()
    heard = server.accepted
    second = again(world, run)
    # Who was connected to is played; what datagrams would bring is not recorded.
    assert second.code == 5 and second.out == "sent\n", second.explain()
    assert f"127.0.0.1:{server.port} reaches somebody of whom nothing is recorded" in second.err
    assert server.accepted == heard


def test_who_serves_and_asks_itself_does_so_again(world: World) -> None:
    script = """
import socket, threading
server = socket.create_server(("127.0.0.1", 0))
def serve():
    peer, _ = server.accept()
    peer.sendall(peer.recv(100).upper())
    peer.close()
thread = threading.Thread(target=serve)
thread.start()
with socket.create_connection(server.getsockname()) as peer:
    peer.sendall(b"own")
    print(peer.recv(100))
thread.join()
"""
    policy = WORKSPACE + '\n[net]\nconnect = ["127.0.0.1:*"]\nlisten = ["127.0.0.1:*"]\n'
    run = world.run(script, policy=policy, options=RECORD)
    assert "OWN" in run.out, run.explain()
    same(run, again(world, run))


def test_what_was_tampered_with_does_not_run(world: World) -> None:
    (world.work / "data.txt").write_text("what was read")
    run = world.run("print(open(WORK + '/data.txt').read())", options=RECORD)
    pack = run.trace / "objects" / "pack"
    kept = pack.read_bytes()
    for changed in (kept[:-1], kept[:-1] + bytes([kept[-1] ^ 1]), kept[: len(kept) // 2]):
        pack.write_bytes(changed)
        second = again(world, run)
        assert second.code == 126 and f"{pack} is not what was recorded" in second.err, second.err
    pack.unlink()
    assert again(world, run).code == 126
    pack.write_bytes(kept)
    world.hand_over()
    same(run, again(world, run))
    lines = (run.trace / "trace.jsonl").read_bytes().splitlines(keepends=True)
    (run.trace / "trace.jsonl").write_bytes(b"".join(lines[: len(lines) // 2]))
    world.hand_over()
    second = again(world, run)
    assert second.code == 4 and "record" in second.err, second.err


def test_what_was_not_kept_has_to_be_the_same(world: World) -> None:
    key = "sk-ant-api03-" + "Ab1" * 31 + "AA"
    (world.work / "secret.txt").write_text(key)
    (world.work / "plain.txt").write_text("plain")
    run = world.run(
        "print(len(open(WORK + '/secret.txt').read()), open(WORK + '/plain.txt').read())", options=RECORD
    )
    assert run.code == 0, run.explain()
    learnt = {r["path"]: r["input"]["contents"] for r in run.records if "contents" in r.get("input", {})}
    assert not learnt[f"{world.work}/secret.txt"]["kept"]
    assert learnt[f"{world.work}/plain.txt"]["kept"]
    assert not [path for path in learnt if path.startswith("/usr/") and learnt[path]["kept"]]
    same(run, again(world, run))
    (world.work / "secret.txt").write_text(key.replace("Ab1", "Ab2"))
    second = again(world, run)
    assert second.code == 126 and f"{world.work}/secret.txt is not what it was" in second.err, second.err


def test_the_policy_says_what_is_kept_and_where_it_ends(world: World) -> None:
    for name in ("kept.txt", "model.bin", "long.txt"):
        (world.work / name).write_text(name * (1000 if name == "long.txt" else 1))
    read = "for name in sorted(os.listdir(WORK)): print(open(WORK + '/' + name).read()[:9], flush=True)"
    policy = WORKSPACE + '\n[record]\nhash_only = ["**/*.bin"]\nmax_file = 5000\n'
    run = world.run(read, policy=policy, options=RECORD)
    learnt = {r["path"]: r["input"]["contents"] for r in run.records if "contents" in r.get("input", {})}
    kept = {name: learnt[f"{world.work}/{name}"]["kept"] for name in ("kept.txt", "model.bin", "long.txt")}
    assert kept == {"kept.txt": True, "model.bin": False, "long.txt": False}, run.explain()
    (world.work / "kept.txt").unlink()
    same(run, again(world, run))
    (world.work / "model.bin").write_text("another model")
    assert f"{world.work}/model.bin is not what it was" in again(world, run).err

    # A recording that is full ends the run, whatever the program makes of it.
    patient = """
for number in range(9):
    try: print(len(open(WORK + "/" + str(number)).read()), flush=True)
    except OSError as error: print(error.errno, flush=True)
import time; time.sleep(600)
"""
    for number in range(9):
        (world.work / str(number)).write_text(str(number) * 100_000)
    run = world.run(patient, policy=WORKSPACE + "\n[record]\nmax_total = 500_000\n", options=RECORD)
    assert run.code == 137, run.explain()
    assert "stopped: `record.max_total` is 500000, and the recording needs" in run.err
    said = run.out.splitlines()
    assert said[0] == "100000" and said[-1] == "5" and said.count("100000") < 5, (
        "what is not kept is not learnt"
    )
    assert any(
        "stopped: `record.max_total`" in str(r.get("text")) for r in run.records if r["type"] == "notice"
    )
    assert [r["text"] for r in run.records if r["type"] == "recording.broken"], run.explain()
    second = again(world, run)
    assert second.code == 126 and "the recording is not whole: `record.max_total` is 500000" in second.err, (
        second.err
    )


def test_a_recording_that_holds_everything_needs_nothing(world: World) -> None:
    script = "import json; print(json.dumps({'a': 1}))"
    run = world.run(script, options=(*RECORD, "--self-contained"))
    assert run.code == 0, run.explain()
    learnt = [r["input"]["contents"] for r in run.records if "contents" in r.get("input", {})]
    assert len(learnt) > 20 and all(found["kept"] for found in learnt)
    same(run, again(world, run))


def test_what_root_recorded_an_ordinary_user_runs_again(world: World, ordinary_prefix: Path) -> None:
    if world.uid != 0 or os.getuid() != 0:
        pytest.skip("root's turn shows it")
    (world.work / "data.txt").write_text("root's")
    script = "print(os.getuid(), open(WORK + '/data.txt').read())"
    run = world.run(script, options=RECORD, python=[str(ordinary_prefix / "bin" / "python")])
    subprocess.run(["chmod", "-R", "a+rwX", world.base], check=True)
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    if subprocess.run([*user, world.failcore, "--version"], capture_output=True).returncode != 0:
        pytest.skip("an ordinary user may not run what is installed here")
    if subprocess.run([*user, "unshare", "--user", "--mount", "true"], capture_output=True).returncode != 0:
        pytest.skip("this machine lets ordinary users make no namespaces")
    same(run, again(world, run, as_user=user, state="other"))


def test_the_runtime_lane_records_nothing(world: World) -> None:
    policy = str(world.write_policy(WORKSPACE))
    done = world.ask("run", "--lane", "runtime", "--record", "-p", policy, "--", world.python, "-c", "pass")
    assert done.returncode == 126 and "only the kernel lane sees all" in done.stderr, done.stderr


def test_a_run_that_was_not_recorded_says_how_to(world: World) -> None:
    run = world.run("pass")
    done = again(world, run)
    assert done.code == 126 and "this run was not recorded" in done.err and "run --record" in done.err
    done = world.ask("replay", str(run.trace), str(run.trace))
    assert done.returncode == 2 and "one program is run again at a time" in done.stderr


def test_a_recording_without_room_says_so(world: World) -> None:
    if world.uid != 0 or os.getuid() != 0:
        pytest.skip("only root makes a file system")
    (world.work / "big.bin").write_bytes(os.urandom(40 << 20))
    trace, copy = world.base / "trace-1", world.base / "copy"
    trace.mkdir()
    script = (
        "open(WORK + '/big.bin', 'rb').read(10); import time; time.sleep(1); open(WORK + '/agent.py').read()"
    )
    mounted = (
        f'mount -t tmpfs -o size=24m,mode=700 none {trace} && "$@"; code=$?; cp -a {trace} {copy}; exit $code'
    )
    run = world.run(script, options=RECORD, before=["unshare", "-m", "/bin/sh", "-c", mounted, "sh"])
    assert "the recording is not whole" in run.err, run.explain()
    assert Path(copy / "trace.jsonl").exists()


def test_it_runs_as_far_as_it_is_told_to(world: World) -> None:
    script = """
import failcore
print("before", flush=True)
open(WORK + "/one", "w").close()
@failcore.tool
def second(): open(WORK + "/two", "w").close()
second()
print("after", flush=True)
"""
    run = world.run(script, options=RECORD)
    assert run.code == 0, run.explain()
    (at,) = [r["seq"] for r in run.allowed("fs.open") if str(r["request"]["action"]["path"]).endswith("/one")]
    for until, words, out in [
        (str(at), f"stopped: here the recorded run was at record {at}: fs.open {world.work}/one", "before\n"),
        ("second", f"fs.open {world.work}/two", "before\n"),
    ]:
        stopped = world.ask("replay", str(run.trace), "--until", until, "--trace", str(world.base / until))
        assert (stopped.returncode, stopped.stdout) == (0, out), stopped.stdout + stopped.stderr
        assert words in stopped.stderr and "nothing of it was done" in stopped.stderr, stopped.stderr
    nowhere = world.ask("replay", str(run.trace), "--until", "third")
    assert nowhere.returncode == 126 and "no operation there" in nowhere.stderr, nowhere.stderr


def test_something_else_is_put_in_place_of_what_was_read(world: World) -> None:
    (world.work / "data.txt").write_text("what it was\n")
    (world.base / "other.txt").write_text("what it is now\n")
    run = world.run("print(open(WORK + '/data.txt').read(), end='')", options=RECORD)
    path = f"{world.work}/data.txt"
    inputs = [r for r in run.records if r["type"] == "input" and r["path"] == path]
    (contents,) = [r["seq"] for r in inputs if "contents" in r["input"]]
    for n, (value, said) in enumerate(
        [("in words", "in words"), (f"@{world.base}/other.txt", "what it is now\n")]
    ):
        to = str(world.base / f"set-{n}")
        second = world.ask("replay", str(run.trace), "--set", f"{contents}={value}", "--trace", to)
        assert (second.returncode, second.stdout) == (0, said), second.stdout + second.stderr
    (world.work / "data.txt").unlink()
    same(run, again(world, run))
    for value, why in [
        (f"{inputs[0]['seq']}=x", "it is no answer: not what a file or the standard input held"),
        ("99999999=x", "in place of record 99999999: there is none"),
        ("x=y", "no record's number"),
        (f"{contents}=@/nowhere", "No such file"),
    ]:
        refused = world.ask("replay", str(run.trace), "--set", value)
        assert refused.returncode in (2, 125, 126) and why in refused.stderr, refused.stderr


def test_something_else_is_put_in_place_of_what_was_given_and_told(world: World) -> None:
    script = """
import time
print([sys.stdin.read(), time.gmtime()[:3], os.urandom(4).hex()])
"""
    file = world.work / "given.txt"
    file.write_text("given")
    through_shell = ["/bin/sh", "-c", f'exec "$@" < {file}', "sh"]
    for name, given in {"pipe": {"stdin": "given"}, "file": {"before": through_shell}}.items():
        run = world.run(script, policy=WORKSPACE + SHELL, options=RECORD, **given)
        assert run.out.startswith("['given', "), run.explain()
        (stdin,) = [r["seq"] for r in run.records if r["type"] == "input" and "stdin" in r["input"]]
        told = [(r["seq"], r["told"]) for r in run.records if r["type"] == "told"]
        clock = [seq for seq, told in told if told.get("clock", {}).get("clock") == time.CLOCK_REALTIME][-1]
        chance = [seq for seq, told in told if "random" in told][-1]
        options = [
            word for seq in (f"{stdin}=other", f"{clock}=86400", f"{chance}=abcd") for word in ("--set", seq)
        ]
        second = world.ask("replay", str(run.trace), *options, "--trace", str(world.base / f"set-{name}"))
        assert second.returncode == 0, second.stderr
        assert second.stdout == "['other', (1970, 1, 2), '61626364']\n", second.stdout + second.stderr
        for value, why in [
            (f"{clock}=tomorrow", "a clock says seconds, such as"),
            (f"{chance}=abc", "there must be as many random bytes as were asked for"),
        ]:
            refused = world.ask("replay", str(run.trace), "--set", value)
            assert refused.returncode == 126 and why in refused.stderr, refused.stderr


# Everything read-only but what is named and /proc (mount_setattr(2)), then the command that follows.
READ_ONLY = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY, MS_BIND = 442, -100, 0x8000, 1, 4096
def must(done):
    if done != 0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def change(path, flags, to_set, to_clear):
    attributes = (ctypes.c_uint64 * 4)(to_set, to_clear, 0, 0)
    must(libc.syscall(MOUNT_SETATTR, AT_FDCWD, path.encode(), flags, attributes, ctypes.sizeof(attributes)))
cut = sys.argv.index("--")
writable = sys.argv[1:cut]
for path in writable: must(libc.mount(path.encode(), path.encode(), None, MS_BIND, None))
change("/", AT_RECURSIVE, MOUNT_ATTR_RDONLY, 0)
for path in [*writable, "/proc"]: change(path, 0, 0, MOUNT_ATTR_RDONLY)
try: open(sys.executable + ".x", "w")
except OSError as error: assert error.errno == 30, error
os.execvp(sys.argv[cut + 1], sys.argv[cut + 1:])
"""
TOUCHES = """
import os, socket, subprocess
os.makedirs(WORK + "/made/below")
open(WORK + "/made/file", "w").write("x")
os.rename(WORK + "/made/file", WORK + "/made/moved")
os.chmod(WORK + "/made/moved", 0o640)
os.unlink(WORK + "/made/moved")
open(WORK + "/there", "a").write(" and more")
os.symlink("there", WORK + "/link")
print(subprocess.run(["/bin/bash", "-c", "mkdir d; echo x > d/file; mv d/file .; cat file there; rm file"],
                     capture_output=True, text=True))
# Past the hook, so that the kernel is asked.
for network in ("tcp/192.0.2.1/80", "udp/192.0.2.1/99", "udp/198.51.100.7/99"):
    done = subprocess.run(["/bin/bash", "-c", f"echo x > /dev/{network}"], capture_output=True, text=True)
    print(network, done.returncode, done.stderr.rpartition(":")[2])
server = socket.create_server(("127.0.0.1", 0))
with socket.create_connection(server.getsockname()) as peer: print("own")
"""
# What may change something by a path or a descriptor, and what speaks to somebody (strace(1) has more under these names).
CALLS = "%file,%network,open_tree,move_mount,fchmod,fchown,fsetxattr,fremovexattr,ftruncate,unshare,setns"
CHANGES = re.compile(
    r"creat|mk(dir|nod)(at)?|rename(at2?)?|(sym|un)?link(at)?|rmdir|[fl]?ch(mod|own)(at)?2?|f?utimes?(nsat|at)?"
    r"|f?truncate|[fl]?(set|remove)xattr|u?mount2?|move_mount"
)


def calls(log: str) -> Iterator[tuple[str, str, str]]:
    """The calls in a log of `strace -f`, each with its arguments and what came of it; those cut in two made whole."""
    begun: dict[str, str] = {}
    for line in log.splitlines():
        task, _, line = line.partition(" ")
        line = line.strip()
        if line.endswith("<unfinished ...>"):
            begun[task] = line.removesuffix("<unfinished ...>")
            continue
        if resumed := re.match(r"<\.\.\. \w+ resumed>", line):
            line = begun.pop(task, "") + line[resumed.end() :]
        if found := re.match(r"(\w+)\((.*)\)\s+= (.*)$", line):
            yield found[1], found[2], found[3]


def paths_of(args: str) -> list[str]:
    """The paths in a call's arguments, after the directories that they start from."""
    named = re.findall(r'(?:<([^>]*)>, )?"([^"]*)"', args) or [
        ("", held) for held in re.findall("<([^>]*)>", args)
    ]
    return [os.path.join(start, path) for start, path in named]


def test_nothing_outside_is_touched_as_strace_sees(world: World) -> None:
    """An ordinary user, in a network namespace without anybody and a tree that is read-only but for the state directory and
    that for temporary files."""
    if not (shutil.which("strace") and Path("/bin/bash").exists()):
        pytest.skip("strace(1) or bash(1) is not installed")
    (world.work / "there").write_text("was there")
    policy = WORKSPACE + SHELL + '\n[net]\nconnect = ["127.0.0.1:*"]\nlisten = ["127.0.0.1:*"]\n'
    run = world.run(TOUCHES, policy=policy, options=RECORD)
    assert run.code == 0 and "was there and more" in run.out, run.explain()
    assert run.denied("net.*", "192.0.2.1"), run.explain()

    state, temporary, logs = (world.base / name for name in ("second-state", "temporary", "logs"))
    for directory in (state, temporary, logs):
        directory.mkdir()
    world.hand_over()
    before = {path: path.lstat() for path in world.base.rglob("*")}
    ordinary = ["unshare", "--user", "--map-user=65534", "--map-group=65534"]
    done = subprocess.run(
        [
            *[*world.as_user, "unshare", "--user", "--map-root-user", "--mount", "--net"],
            *[world.python, "-c", READ_ONLY, str(state), str(temporary), str(logs), "--"],
            *["strace", "-f", "-y", "-qq", "-o", str(logs / "log"), "-e", f"trace={CALLS}"],
            *[*ordinary, world.failcore, "replay", str(run.trace)],
        ],
        cwd=world.work,
        env=world.environ({"XDG_STATE_HOME": str(state), "TMPDIR": str(temporary)}),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, run.out), done.stderr

    seen = list(calls((logs / "log").read_text()))
    names = [name for name, _, _ in seen]
    start = next(n for n, (name, args, _) in enumerate(seen) if name == "execve" and '"replay"' in args)
    entered = names.index("pivot_root")
    assert seen[entered][2] == "0" and not {"setns", "mount", "pivot_root"} & set(names[entered + 1 :])
    assert not [call for call in seen if "EROFS" in call[2]], "nothing tried to change the tree"
    # Before it is in its world, it makes the world, in the directory for temporary files, and says who it is there.
    maps = ("/proc/self/uid_map", "/proc/self/gid_map", "/proc/self/setgroups")
    own = (f"{temporary}/failcore-replay-", f"{state}/failcore", *maps)
    for name, args, came in seen[start:entered]:
        opens = name.startswith("open") and re.search("O_WRONLY|O_RDWR|O_CREAT|O_TRUNC", args)
        if (CHANGES.fullmatch(name) or opens) and not came.startswith("-1"):
            paths = paths_of(args)
            if name == "mount":
                # What and where; the first mount parts from the machine's.
                assert (paths[1:2] and paths[1].startswith(own)) or (
                    paths == ["/"] and "MS_PRIVATE" in args
                ), args
            else:
                assert paths and paths[-1].startswith(own), (name, args)
    # It speaks to nobody before it is on a network of its own.
    own_network = next(
        n for n in range(start, entered) if names[n] == "unshare" and "CLONE_NEWNET" in seen[n][1]
    )
    for name, args, came in seen[start:own_network]:
        assert name not in ("connect", "bind", "sendto", "sendmsg") or came.startswith("-1"), (name, args)
    # There all files are in memory but FailCore's own; whoever is connected, sent to or served is on its own loopback.
    spoken = [call for call in seen[own_network:] if call[0] in ("connect", "bind", "sendto", "sendmsg")]
    for name, args, came in spoken:
        address = re.search(r'inet_addr\("([^"]*)"\)|inet_pton\(AF_INET6, "([^"]*)"', args)
        if address and not ipaddress.ip_address(address[1] or address[2]).is_loopback:
            assert came.startswith("-1 EACCES"), (name, args, came)
        if path := re.search(r'sun_path="([^"]*)"', args):
            assert came.startswith("-1") or path[1].startswith(
                (str(state), "/proc/self/fd/", "/tmp/failcore-")
            ), args
    reached = {found[1] for _, args, _ in spoken if (found := re.search(r'inet_addr\("([^"]*)"\)', args))}
    assert {"192.0.2.1", "198.51.100.7", "127.0.0.1"} <= reached, "it was tried"

    # Afterwards nothing is there or changed but the trace of this, which says what was served and refused.
    left = {path: path.lstat() for path in world.base.rglob("*") if not path.is_relative_to(logs)}
    changed = {
        path for path, at in left.items() if path not in before or at.st_mtime_ns != before[path].st_mtime_ns
    }
    assert changed and all(
        path.is_relative_to(state / "failcore") for path in changed - {state, temporary}
    ), changed
    assert not list(temporary.iterdir())
    assert set(before) - set(left) == {logs}
    (trace,) = (state / "failcore" / "runs").iterdir()
    second = Run(done.returncode, done.stdout, done.stderr, trace, records(trace))
    coverage = json.dumps(second.records[0])
    assert "nothing outside is reached, whatever is decided" in coverage and str(state) in coverage
    held = {verb["verb"]: verb["by"] for verb in second.records[0]["coverage"]["verbs"]}
    assert "in memory" in held["fs.open"] and "nobody else" in held["net.connect"]
    assert second.allowed("fs.*", "/work/there") and second.denied("net.*", "192.0.2.1")
    assert any("from the record" in str(record.get("text")) for record in second.records)


METADATA = """
import os, shutil, subprocess
def show(*command): print(subprocess.run(command, capture_output=True, text=True).stdout)
show("ls", "-laR", WORK)
show("stat", "-c", "%n %i %h %s %b %Z", WORK + "/in", WORK + "/in/many", WORK + "/in/moves", WORK + "/in/grows")
# New names count where they are, and what is not changed stays as it was.
os.mkdir(WORK + "/in/made")
open(WORK + "/in/made/new", "w").write("new")
os.link(WORK + "/in/data.txt", WORK + "/in/linked")
show("stat", "-c", "%n %i %h %s %b", WORK + "/in", WORK + "/in/many", WORK + "/in/data.txt", WORK + "/in/linked")
held = os.open(WORK + "/in/grows", os.O_RDWR)
print(os.path.samestat(os.fstat(held), os.stat(WORK + "/in/grows")), os.fstat(held).st_ino)
os.write(held, b"more than that")
print(os.fstat(held).st_size, os.path.samefile(WORK + "/in/made/new", WORK + "/in/grows"))
shutil.move(WORK + "/in/moves", WORK + "/in/made/moved")
print(os.stat(WORK + "/in/made/moved").st_ino, len(os.listdir("/proc/self/fd")) > 0, os.stat("/proc/self").st_size)
print(os.stat("/dev/null").st_rdev, os.path.exists("/dev/stdin"), os.lstat(WORK + "/in/link").st_size)
shutil.rmtree(WORK + "/in/made")
os.unlink(WORK + "/in/linked")
"""


def test_metadata_are_those_of_the_file_system_that_was(world: World) -> None:
    make_files(world)
    (world.work / "in" / "moves").write_text("x" * 10_000)
    os.sync()
    policy = WORKSPACE + 'read = ["/proc/self/fd"]\n' + SHELL
    run = world.run(METADATA, policy=policy, options=RECORD)
    assert "many" in run.out, run.explain()
    same(run, again(world, run))
